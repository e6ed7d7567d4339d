-- Shared by every script. KEYS[1] is the key prefix; TRANSITIONS, TERMINAL and OWNED come from jobs/states.py.
-- Job hash: times are milliseconds of Redis TIME, never of a worker's clock.
local P = KEYS[1]
local line = {} -- filled by line.lua: whose turn it is

local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function job_key(id)
  return P .. 'job:' .. id
end

-- Several fields of a job; an absent field is false.
local function get(id, ...)
  return unpack(redis.call('HMGET', job_key(id), ...))
end

local function count(name)
  redis.call('HINCRBY', P .. 'counters', name, 1)
end

local function event(id, kind, version, state, data)
  redis.call('XADD', P .. 'ev:' .. id, 'MAXLEN', '~', 500, '*',
    'type', kind, 'version', version, 'state', state, 'data', data or '{}')
end

-- Every visible change: version, the job's stream, the feed of all changes, the tenant's order of changes.
local function touch(id, kind, data)
  local version = redis.call('HINCRBY', job_key(id), 'version', 1)
  local tenant, state = get(id, 'tenant', 'state')
  redis.call('ZADD', P .. 'changed:' .. tenant, redis.call('INCR', P .. 'seq'), id)
  redis.call('XADD', P .. 'changes', 'MAXLEN', '~', 10000, '*',
    'job', id, 'tenant', tenant, 'version', version, 'state', state)
  event(id, kind, version, state, data)
  return version
end

-- One row for whoever wants to hear of it: the job's own webhook, or endpoints of its tenant (not known yet counts).
local function outbox(id, to, version)
  local webhook, tenant = get(id, 'webhook', 'tenant')
  local named = webhook and webhook ~= ''
  if named or redis.call('EXISTS', P .. 'webhooks:' .. tenant) == 1 or redis.call('EXISTS', P .. 'webhooks-known') == 0 then
    redis.call('XADD', P .. 'outbox', 'MAXLEN', '~', 100000, '*', 'job', id, 'tenant', tenant,
      'type', 'job.' .. to, 'version', version, 'webhook', webhook or '', 'at', now())
  end
end

local function enter_queue(id, at)
  local pool, priority, created, finish_by = get(id, 'pool', 'priority', 'created', 'finish_by')
  redis.call('HSET', job_key(id), 'queued', at)
  redis.call('ZADD', P .. 'q:pos:' .. pool, priority * 1e13 + created, id)
  redis.call('ZADD', P .. 'rings', 0, id)
  line.join(id)
end

local function end_job(id, to, at)
  local ttl, keep, tenant = get(id, 'ttl', 'keep', 'tenant')
  redis.call('HSET', job_key(id), 'finished', at, 'expires', at + ttl)
  redis.call('ZREM', P .. 'deadlines', id)
  redis.call('ZADD', P .. 'archive', at, id)
  redis.call('ZADD', P .. 'expiry', at + ttl, tenant .. '/' .. id)
  redis.call('PEXPIRE', job_key(id), ttl + keep)
  redis.call('PEXPIRE', P .. 'ev:' .. id, ttl)
  count('jobs_' .. to)
end

-- The only writer of `state`. Refuses what the table does not have; keeps every index in step.
local function move(id, to, data)
  local from, pool = get(id, 'state', 'pool')
  local legal = false
  for _, state in ipairs(TRANSITIONS[from]) do
    legal = legal or state == to
  end
  if not legal then
    error('illegal transition ' .. from .. ' to ' .. to)
  end
  local at = now()
  redis.call('HSET', job_key(id), 'state', to)
  if from == 'queued' then
    redis.call('ZREM', P .. 'q:pos:' .. pool, id)
    redis.call('ZREM', P .. 'rings', id)
    line.leave(id)
  end
  if OWNED[from] and not OWNED[to] then
    redis.call('ZREM', P .. 'leases', id)
    redis.call('ZREM', P .. 'canceling', id)
    line.vacate(id)
  end
  if to == 'queued' then
    enter_queue(id, at)
  elseif to == 'canceling' then
    redis.call('ZADD', P .. 'canceling', at, id)
  elseif TERMINAL[to] then
    end_job(id, to, at)
  end
  local version = touch(id, 'state', data)
  outbox(id, to, version)
  if TERMINAL[to] then
    event(id, 'end', version, to)
  end
end

-- True while the caller's fence is the record's fence and a worker holds the job.
local function owns(id, fence)
  local state, current = get(id, 'state', 'fence')
  return state and OWNED[state] and current == fence, state
end

-- Close the last entry of the attempt log.
local function end_attempt(id, how)
  local attempts = cjson.decode((get(id, 'attempts')))
  local last = attempts[#attempts]
  if last and not last.ended then
    local spent = now() - last.started
    last.ended = how
    last.seconds = spent / 1000
    redis.call('HSET', job_key(id), 'attempts', cjson.encode(attempts))
    redis.call('HINCRBY', job_key(id), 'wall', spent)
  end
end

-- Take the job from whoever holds it: from here on the old owner is fenced.
local function dispossess(id, how)
  end_attempt(id, how)
  redis.call('HINCRBY', job_key(id), 'fence', 1)
end

local function set_error(id, template)
  local problem = cjson.decode(template)
  local attempt, owner = get(id, 'attempt', 'owner')
  problem.attempt = tonumber(attempt)
  problem.worker = owner or nil
  redis.call('HSET', job_key(id), 'error', cjson.encode(problem))
end

local function prolong(id, lease)
  redis.call('ZADD', P .. 'leases', 'XX', now() + lease, id)
end
