-- id, owner, node, task, lease ms, expired error (json)
-- answers: gone | skip, state | ok, fence. Asking again from the same task repeats the answer (a lost reply).
local id, owner, node, task, lease, late = unpack(ARGV)
local state, holder, start_by, fence = get(id, 'state', 'task', 'start_by', 'fence')
if not state then
  return {'gone'}
end
if OWNED[state] and holder == task then
  return {'ok', fence}
end
if state ~= 'queued' then
  return {'skip', state}
end
local at = now()
if start_by and tonumber(start_by) <= at then
  set_error(id, late)
  move(id, 'expired')
  return {'skip', 'expired'}
end
local attempt = redis.call('HINCRBY', job_key(id), 'attempt', 1)
fence = redis.call('HINCRBY', job_key(id), 'fence', 1)
local queued, attempts, finish_by = get(id, 'queued', 'attempts', 'finish_by')
local log = cjson.decode(attempts)
log[#log + 1] = {n = attempt, worker = owner, started = at}
redis.call('HINCRBY', job_key(id), 'waited', at - queued)
redis.call('HSETNX', job_key(id), 'started', at)
redis.call('HDEL', job_key(id), 'start_by')
redis.call('HSET', job_key(id), 'owner', owner, 'node', node, 'task', task, 'attempts', cjson.encode(log))
redis.call('ZADD', P .. 'leases', at + lease, id)
if finish_by then
  redis.call('ZADD', P .. 'deadlines', finish_by, id)
else
  redis.call('ZREM', P .. 'deadlines', id)
end
count('claims')
move(id, 'running')
return {'ok', tostring(fence)}
