-- Creates students, each with an e-mail address of its own.
local common = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../benchmarks/load/common.lua")
local options
done = common.done

function init(arguments)
  options = common.options(arguments)
end

local asked = 0

function request()
  asked = asked + 1
  local address = options.seed .. "." .. asked .. "@campus.example"
  return common.post("/students", '{"given_name":"Ada","family_name":"Byron","email":"' .. address .. '"}')
end
