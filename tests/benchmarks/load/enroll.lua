-- Enrolls a random student in two random courses.
local common = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "common.lua")
local options
done = common.done

function init(arguments)
  options = common.options(arguments)
end

function request()
  local one, other = common.two_courses(options.courses)
  return common.post(
    "/students/" .. math.random(options.first, options.last) .. "/enroll",
    '{"course_ids":[' .. one .. "," .. other .. "]}"
  )
end
