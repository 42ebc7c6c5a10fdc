-- Keep a job for another lease, if the term still holds it.
--
-- KEYS  job hash, leases
-- ARGV  term, lease in milliseconds, member
-- Answer  {what, desired state}; what: applied, fenced, unknown

local known = redis.call('HMGET', KEYS[1], 'holder', 'desired')
if not known[1] then
  return { 'unknown', '0' }
end
if known[1] ~= ARGV[1] then
  return { 'fenced', known[2] }
end
local time = redis.call('TIME')
redis.call('ZADD', KEYS[2], string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2]), ARGV[3])
return { 'applied', known[2] }
