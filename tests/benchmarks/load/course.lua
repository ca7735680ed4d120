-- Reads a random course.
local common = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "common.lua")
local options
done = common.done

function init(arguments)
  options = common.options(arguments)
end

function request()
  return common.get("/courses/" .. math.random(options.courses))
end
