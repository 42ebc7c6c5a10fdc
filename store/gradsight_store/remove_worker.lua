-- Forget a worker: on its own word, or because its lease has run out and no job stands on it any more.
--
-- KEYS  worker hash, workers by lease, its RQ queue, set of RQ queues
-- ARGV  worker id, '1' to remove it only when its lease has run out and its slot is empty
-- Answer  1, or 0 when it stays

if ARGV[2] == '1' then
  local lease = redis.call('ZSCORE', KEYS[2], ARGV[1])
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local slot = redis.call('HGET', KEYS[1], 'slot')
  if not lease or tonumber(lease) > now or (slot and slot ~= '') then
    return 0
  end
end
local class_index = redis.call('HGET', KEYS[1], 'class_index')
if class_index then
  redis.call('ZREM', class_index, ARGV[1])
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[1], KEYS[3])
redis.call('SREM', KEYS[4], KEYS[3])
return 1
