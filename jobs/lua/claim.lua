-- job the bell rang for, owner, node, task, lease ms, expired error (json), pool, {warm: [models], schema} (json) or ''
-- With '' that very job is claimed; else whichever job of the pool has its turn, the pool being the job's own when ''.
-- answers: gone | skip, state | ok, fence, job. Asking again from the same task repeats the answer (a lost reply).
local id, owner, node, task, lease, late, pool, worker = unpack(ARGV)
local at = now()

local function start(job)
  line.serve(job)
  local attempt = redis.call('HINCRBY', job_key(job), 'attempt', 1)
  local fence = redis.call('HINCRBY', job_key(job), 'fence', 1)
  local queued, attempts, finish_by = get(job, 'queued', 'attempts', 'finish_by')
  local log = cjson.decode(attempts)
  log[#log + 1] = {n = attempt, worker = owner, started = at}
  redis.call('HINCRBY', job_key(job), 'waited', at - queued)
  observe('queue_seconds', (get(job, 'pool')), (at - queued) / 1000)
  redis.call('HSETNX', job_key(job), 'started', at)
  redis.call('HDEL', job_key(job), 'start_by', 'avoid', 'avoid_until')
  redis.call('HSET', job_key(job), 'owner', owner, 'node', node, 'task', task, 'attempts', cjson.encode(log))
  redis.call('SET', P .. 'task:' .. task, job, 'PX', 60000)
  redis.call('ZADD', P .. 'leases', at + lease, job)
  if finish_by then
    redis.call('ZADD', P .. 'deadlines', finish_by, job)
  else
    redis.call('ZREM', P .. 'deadlines', job)
  end
  count('claims')
  move(job, 'running')
  return {'ok', tostring(fence), job}
end

local function too_late(job)
  local start_by = get(job, 'start_by')
  if start_by and tonumber(start_by) <= at then
    set_error(job, late)
    move(job, 'expired')
    return true
  end
end

local mine = redis.call('GET', P .. 'task:' .. task)
if mine and (worker ~= '' or mine == id) then
  local state, holder, who, fence = get(mine, 'state', 'task', 'owner', 'fence')
  if OWNED[state] and holder == task and who == owner then
    return {'ok', fence, mine}
  end
end
if worker == '' then
  local state = get(id, 'state')
  if not state then
    return {'gone'}
  end
  if state ~= 'queued' then
    return {'skip', state}
  end
  return too_late(id) and {'skip', 'expired'} or start(id)
end
local facts = cjson.decode(worker)
local who = {worker = owner, at = at, schema = facts.schema, warm = {}, any_warm = #facts.warm > 0}
for _, model in ipairs(facts.warm) do
  who.warm[model] = true
end
pool = pool ~= '' and pool or get(id, 'pool')
if not pool then
  return {'gone'}
end
for _ = 1, 50 do
  local job = line.pick(pool, who)
  if not job then
    return {'skip', 'nothing'}
  end
  if not too_late(job) then
    return start(job)
  end
end
return {'skip', 'expired'}
