-- id, worker, ms: keep a queued job for a worker that is rung for it directly; after that time everyone's bell is due.
-- answers: 1 | 0 when the job does not wait, or was kept for someone before
local id, worker, life = unpack(ARGV)
local state, before = get(id, 'state', 'hold')
if state ~= 'queued' or before then
  return 0
end
local till = now() + life
redis.call('HSET', job_key(id), 'hold', worker, 'hold_until', till)
redis.call('ZADD', P .. 'rings', 'XX', now(), id)
redis.call('ZADD', P .. 'later', till, id)
return 1
