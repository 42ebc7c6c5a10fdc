-- The one way a job's record changes: compare, then write. Redis 6.2 features only.
--
-- KEYS  job hash, list of applied operations, stream of events, the tenant's feed
-- ARGV  operation id, expected revision (0: the job must not exist), operations remembered, feed entries kept,
--       job id, job name, attempt,
--       then four lists, each led by its length in entries:
--         fields  (name, value)               of the job hash
--         guards  (kind, key, argument)       what must hold besides the revision
--         events  (bytes, '1' for the feed)
--         writes  (verb, key, first, second)  indexes, slots, counters
-- Answer  {what, revision, sequence, now_ms, detail}; what: applied, already, conflict, refused, request_known
--
-- Everything is checked before anything is written: a script is not rolled back.

local job, operations, events, feed = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local at = 0
local function take()
  at = at + 1
  return ARGV[at]
end
local function whole(number)
  return string.format('%.0f', number)
end

local operation, expected = take(), tonumber(take())
local operations_kept, feed_kept = tonumber(take()), take()
local job_id, name, attempt = take(), take(), take()

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call('HMGET', job, 'revision', 'sequence')
local revision, sequence = tonumber(known[1] or 0), tonumber(known[2] or 0)

local function answer(what, detail)
  return { what, revision, sequence, now, detail or '' }
end

if revision > 0 and redis.call('LPOS', operations, operation) then
  return answer('already')
end
if revision ~= expected then
  return answer('conflict')
end

local fields = { 'revision', revision + 1 }
for _ = 1, 2 * tonumber(take()) do
  fields[#fields + 1] = take()
end
if revision == 0 then
  fields[#fields + 1] = 'created'
  fields[#fields + 1] = whole(now)
end

local guards = {}
function guards.request_unknown(key)
  local made = redis.call('GET', key)
  return not made, 'request_known', made
end
function guards.worker_idle(key, index)
  local worker = redis.call('HMGET', key, 'slot', 'takes_jobs', 'worker_id')
  local lease = worker[3] and redis.call('ZSCORE', index, worker[3])
  return worker[1] == '' and worker[2] == '1' and lease and tonumber(lease) > now, 'refused', 'worker'
end
function guards.expired(key, member)
  local score = redis.call('ZSCORE', key, member)
  return score and tonumber(score) <= now, 'refused', 'lease'
end
for _ = 1, tonumber(take()) do
  local kind, key, argument = take(), take(), take()
  local holds, what, detail = guards[kind](key, argument)
  if not holds then
    return answer(what, detail)
  end
end

local verbs = {}
function verbs.zadd(key, member, score) redis.call('ZADD', key, score, member) end
function verbs.zadd_from_now(key, member, score) redis.call('ZADD', key, whole(score + now), member) end
function verbs.zrem(key, member) redis.call('ZREM', key, member) end
function verbs.sadd(key, member) redis.call('SADD', key, member) end
function verbs.srem(key, member) redis.call('SREM', key, member) end
function verbs.count(key, field, by) redis.call('HINCRBY', key, field, by) end
function verbs.fill_slot(key, message) redis.call('HSET', key, 'slot', message) end
function verbs.empty_slot(key, message)
  if redis.call('HGET', key, 'slot') == message then
    redis.call('HSET', key, 'slot', '')
  end
end
function verbs.remember(key, value, seconds) redis.call('SET', key, value, 'EX', seconds) end
function verbs.wake(key) redis.call('XADD', key, 'MAXLEN', '~', 16, '*', 'w', '') end
function verbs.drop_events_before(key, first) redis.call('XTRIM', key, 'MINID', first) end
function verbs.forget_later(key) redis.call('EXPIRE', key, 86400) end

revision = revision + 1
local added_bytes = 0
redis.call('HSET', job, unpack(fields))
redis.call('LPUSH', operations, operation)
redis.call('LTRIM', operations, 0, operations_kept - 1)
for _ = 1, tonumber(take()) do
  local body, to_feed = take(), take()
  sequence = sequence + 1
  added_bytes = added_bytes + #body
  redis.call('XADD', events, sequence .. '-0', 'e', body, 't', whole(now), 'a', attempt)
  if to_feed == '1' then
    redis.call('XADD', feed, 'MAXLEN', '~', feed_kept, '*',
      'j', job_id, 'n', name, 's', sequence, 'e', body, 't', whole(now), 'a', attempt)
  end
end
if added_bytes > 0 then
  redis.call('HSET', job, 'sequence', sequence)
  redis.call('HINCRBY', job, 'log_bytes', added_bytes)
end
for _ = 1, tonumber(take()) do
  local verb, key, first, second = take(), take(), take(), take()
  verbs[verb](key, first, second)
end
return answer('applied')
