-- Shared by the loads: arguments of the form name=number, requests as text, and a machine-readable result.

local M = {}

function M.options(arguments)
  local options = {}
  for _, argument in ipairs(arguments) do
    local name, value = argument:match("^(%w+)=(%-?%d+)$")
    assert(name, "expected an argument of the form name=number, not " .. argument)
    options[name] = tonumber(value)
  end
  math.randomseed(options.seed)
  return options
end

-- Concatenation costs a third of wrk.format, and the load shares the cores with the measured server.
local HEAD = " HTTP/1.1\r\nHost: localhost\r\n"

-- Further header lines of each request, such as the institution.
M.headers = ""

function M.get(path)
  return "GET " .. path .. HEAD .. M.headers .. "\r\n"
end

function M.delete(path)
  return "DELETE " .. path .. HEAD .. M.headers .. "\r\n"
end

function M.post(path, body)
  return "POST " .. path .. HEAD .. M.headers .. "Content-Type: application/json\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
end

-- Returns two different courses out of the first n.
function M.two_courses(n)
  local one, other = math.random(n), math.random(n - 1)
  if other >= one then
    other = other + 1
  end
  return one, other
end

function M.done(summary, latency)
  local errors = summary.errors
  io.write(
    string.format(
      'RESULT {"requests":%d,"microseconds":%d,"bytes":%d,"p50":%d,"p99":%d,"longest":%d,'
        .. '"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}\n',
      summary.requests, summary.duration, summary.bytes,
      latency:percentile(50), latency:percentile(99), latency.max,
      errors.connect, errors.read, errors.write, errors.status, errors.timeout
    )
  )
end

return M
