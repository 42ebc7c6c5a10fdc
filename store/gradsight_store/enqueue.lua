-- Put a message in a worker's RQ queue, once.
--
-- KEYS  RQ job hash, RQ queue, set of RQ queues
-- ARGV  message id, seconds that the entry is kept unread, then fields of the RQ job hash
-- Answer  1, or 0 when it was there

if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('SADD', KEYS[3], KEYS[2])
redis.call('RPUSH', KEYS[2], ARGV[1])
return 1
