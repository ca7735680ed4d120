-- Everybody wants the same course: each request comes from a student who has not asked before.
local common = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "common.lua")
local options
done = common.done

function init(arguments)
  options = common.options(arguments)
end

local asked = 0

function request()
  local student = options.first + asked
  assert(student <= options.last, "there are no students left who have not asked")
  asked = asked + 1
  return common.post("/students/" .. student .. "/enroll", '{"course_ids":[' .. options.wanted .. '],"on_full":"waitlist"}')
end
