-- Creates students, each with a different e-mail address.
common = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "../benchmarks/load/common.lua")
local options
done = common.done

function init(arguments)
  options = common.options(arguments)
end

local requests = 0

function request()
  requests = requests + 1
  local address = options.seed .. "." .. requests .. "@campus.example"
  return common.post("/students", '{"given_name":"Ada","family_name":"Byron","email":"' .. address .. '"}')
end
