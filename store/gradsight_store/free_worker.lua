-- Empty a worker's slot if it holds this message.
--
-- KEYS  worker hash, stream that wakes the dispatcher
-- ARGV  message id
-- Answer  1, or 0 when the slot held something else

if redis.call('HGET', KEYS[1], 'slot') ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'slot', '')
redis.call('XADD', KEYS[2], 'MAXLEN', '~', 16, '*', 'w', '')
return 1
