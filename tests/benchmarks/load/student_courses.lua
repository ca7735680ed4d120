-- Reads the courses of a random student.
local common = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "common.lua")
local options
done = common.done

function init(arguments)
  options = common.options(arguments)
end

function request()
  return common.get("/students/" .. math.random(options.first, options.last) .. "/courses")
end
