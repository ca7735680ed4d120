-- 75 % of the requests read, 15 % enroll in two courses, 10 % drop a course.
local common = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "common.lua")
local options
done = common.done

function init(arguments)
  options = common.options(arguments)
end

local dropped = 0

-- Returns each existing enrollment once, in a scattered order: the step and the number of enrollments are coprime.
local function next_enrollment()
  local number = (options.seed * 7919 + dropped * 61803) % (options.students * options.each)
  dropped = dropped + 1
  local student, round = number % options.students + 1, math.floor(number / options.students)
  return student, (student + round * options.courses / options.each) % options.courses + 1
end

function request()
  local chance = math.random(100)
  local student = math.random(options.first, options.last)
  if chance <= 45 then
    return common.get("/students/" .. student .. "/courses")
  elseif chance <= 65 then
    return common.get("/courses/" .. math.random(options.courses))
  elseif chance <= 75 then
    return common.get("/students/" .. student)
  elseif chance <= 90 then
    local one, other = common.two_courses(options.courses)
    return common.post("/students/" .. student .. "/enroll", '{"course_ids":[' .. one .. "," .. other .. "]}")
  end
  local whose, course = next_enrollment()
  return common.delete("/students/" .. whose .. "/courses/" .. course)
end
