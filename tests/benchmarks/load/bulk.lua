-- One call enrolls 1,000 random students, each in two random courses.
local common = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "common.lua")
local options
done = common.done

function init(arguments)
  options = common.options(arguments)
end

function request()
  local items = {}
  for number = 1, 1000 do
    local one, other = common.two_courses(options.courses)
    local student = math.random(options.first, options.last)
    items[number] = '{"student_id":' .. student .. ',"course_ids":[' .. one .. "," .. other .. "]}"
  end
  return common.post("/enrollments", '{"items":[' .. table.concat(items, ",") .. "]}")
end
