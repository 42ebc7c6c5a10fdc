-- Make a stored file known, once; the same record again finds the first.
--
-- KEYS  uses of the content, first record of the content, files of the job, files of the job of this kind
-- ARGV  the record: the artifact without its time
-- Answer  when it was recorded: 13 digits of milliseconds, so that entries sort by time as text

local created = redis.call('HGET', KEYS[1], ARGV[1])
if created then
  return created
end
local now = redis.call('TIME')
created = string.format('%013d', now[1] * 1000 + math.floor(now[2] / 1000))
redis.call('HSET', KEYS[1], ARGV[1], created)
redis.call('SET', KEYS[2], created .. ARGV[1], 'NX')
redis.call('ZADD', KEYS[3], 0, created .. ARGV[1])
redis.call('ZADD', KEYS[4], 0, created .. ARGV[1])
return created
