-- Keep a worker alive and note whether it takes jobs.
--
-- KEYS  worker hash, workers by lease, stream that wakes the dispatcher
-- ARGV  worker id, lease in milliseconds, '1' when it takes jobs, reported state
-- Answer  1, or 0 when the worker is not known

local known = redis.call('HMGET', KEYS[1], 'class_index', 'takes_jobs')
if not known[1] then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = string.format('%.0f', now + ARGV[2])
redis.call('HSET', KEYS[1], 'takes_jobs', ARGV[3], 'state', ARGV[4], 'renewed', string.format('%.0f', now))
redis.call('ZADD', KEYS[2], lease, ARGV[1])
if ARGV[3] == '1' then
  redis.call('ZADD', known[1], lease, ARGV[1])
else
  redis.call('ZREM', known[1], ARGV[1])
end
if ARGV[3] == '1' and known[2] ~= '1' then
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', 16, '*', 'w', '')
end
return 1
