-- Append facts to a job's log and replace its figures and findings, if the term still holds the job.
--
-- KEYS  job hash, list of applied operations, stream of events, set of overlong logs, hash of findings
-- ARGV  operation id, operations remembered, term, figures, bound of the log in events, in bytes, member, number of
--       findings, then id and bytes of each finding (no bytes: forget it), then the events' bytes
-- Answer  {what, sequence, desired state}; what: applied, already, fenced, unknown

local job, operations, events, overlong, findings = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local known = redis.call('HMGET', job, 'holder', 'sequence', 'desired', 'attempt', 'log_bytes')
if not known[1] then
  return { 'unknown', 0, '0' }
end
local sequence = tonumber(known[2])
if redis.call('LPOS', operations, ARGV[1]) then
  return { 'already', sequence, known[3] }
end
if known[1] ~= ARGV[3] then
  return { 'fenced', sequence, known[3] }
end

local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local log_bytes = tonumber(known[5])
redis.call('LPUSH', operations, ARGV[1])
redis.call('LTRIM', operations, 0, ARGV[2] - 1)
local first_event = 9 + 2 * tonumber(ARGV[8])
for i = 9, first_event - 1, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', findings, ARGV[i])
  else
    redis.call('HSET', findings, ARGV[i], ARGV[i + 1])
  end
end
for i = first_event, #ARGV do
  sequence = sequence + 1
  log_bytes = log_bytes + #ARGV[i]
  redis.call('XADD', events, sequence .. '-0', 'e', ARGV[i], 't', now, 'a', known[4])
end
redis.call('HSET', job, 'sequence', sequence, 'log_bytes', log_bytes, 'figures', ARGV[4])
if log_bytes > tonumber(ARGV[6]) or redis.call('XLEN', events) > tonumber(ARGV[5]) then
  redis.call('SADD', overlong, ARGV[7])
end
return { 'applied', sequence, known[3] }
