-- Remove the record of a file.
--
-- KEYS, ARGV  as in record_artifact.lua
-- Answer  1 when no record of the content is left, else 0

local created = redis.call('HGET', KEYS[1], ARGV[1])
if created then
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('ZREM', KEYS[3], created .. ARGV[1])
  redis.call('ZREM', KEYS[4], created .. ARGV[1])
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
redis.call('DEL', KEYS[2])
return 1
