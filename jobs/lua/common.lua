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

-- One more observation for a histogram: counts by label and bound (seconds), and their sum; `jobs.observed` reads them.
local BOUNDS = {0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600}
local function observe(name, label, value)
  local key, bound = P .. 'hist:' .. name, 'inf'
  for number = #BOUNDS, 1, -1 do
    if value <= BOUNDS[number] then
      bound = BOUNDS[number]
    end
  end
  redis.call('HINCRBY', key, label .. '|' .. bound, 1)
  redis.call('HINCRBYFLOAT', key, label .. '|sum', value)
end

local function event(id, kind, version, state, data)
  redis.call('XADD', P .. 'ev:' .. id, 'MAXLEN', '~', 500, '*',
    'type', kind, 'version', version, 'state', state, 'data', data or '{}')
end

-- Wake whoever follows the job, with its version as it is.
local function wake(id, tenant, version, state)
  redis.call('XADD', P .. 'changes', 'MAXLEN', '~', 10000, '*',
    'job', id, 'tenant', tenant, 'version', version, 'state', state)
end

-- One line of the job's log: level, event, stage and facts; attempt and worker are the record's. Returns the line.
local function note(id, said)
  local attempt, owner = get(id, 'attempt', 'owner')
  said.attempt, said.worker = tonumber(attempt) or 0, owner or nil
  if said.facts and next(said.facts) == nil then
    said.facts = nil
  end
  said.id = redis.call('XADD', P .. 'log:' .. id, 'MAXLEN', '~', 500, '*', 'line', cjson.encode(said))
  return said
end

-- Every visible change: version, the job's stream, the feed of all changes, the tenant's order of changes.
local function touch(id, kind, data)
  local version = redis.call('HINCRBY', job_key(id), 'version', 1)
  local tenant, state = get(id, 'tenant', 'state')
  redis.call('ZADD', P .. 'changed:' .. tenant, redis.call('INCR', P .. 'seq'), id)
  wake(id, tenant, version, state)
  event(id, kind, version, state, data)
  return version
end

-- One row for whoever wants to hear of it: its own webhook, or endpoints of its tenant (not known yet counts).
-- `again` is when it happened, for what may have been told before Redis was lost.
local function outbox(id, tenant, kind, version, webhook, data, again)
  local named = webhook and webhook ~= ''
  if named or redis.call('EXISTS', P .. 'webhooks:' .. tenant) == 1 or redis.call('EXISTS', P .. 'webhooks-known') == 0 then
    redis.call('XADD', P .. 'outbox', 'MAXLEN', '~', 100000, '*', 'job', id, 'tenant', tenant,
      'type', kind, 'version', version, 'webhook', webhook or '', 'at', again or now(), 'data', data or '{}',
      'again', again and 1 or 0)
  end
end

-- Every visible change of a batch. The feed has states of jobs: it gets the state of the job that made the change.
local function touch_batch(id, state)
  local version = redis.call('HINCRBY', P .. 'batch:' .. id, 'version', 1)
  local tenant = redis.call('HGET', P .. 'batch:' .. id, 'tenant')
  redis.call('XADD', P .. 'changes', 'MAXLEN', '~', 10000, '*',
    'job', id, 'tenant', tenant, 'version', version, 'state', state)
  return version
end

-- Tell that a batch has ended.
local function tell_batch(id, version, again)
  local key = P .. 'batch:' .. id
  local tenant, state, labels, webhook = unpack(redis.call('HMGET', key, 'tenant', 'state', 'labels', 'webhook'))
  local told = {state = state, counts = {}, labels = cjson.decode(labels)}
  for name in pairs(TERMINAL) do
    told.counts[name] = tonumber(redis.call('HGET', key, 'n:' .. name) or 0)
  end
  outbox(id, tenant, 'batch.completed', version, webhook, cjson.encode(told), again)
end

-- End the batch once every job of it has ended. While it is rebuilt (`settling`) its counts say nothing yet.
local function end_batch(id, last)
  local key = P .. 'batch:' .. id
  local state, total, ended, cancel, ttl, keep, tenant, webhook, labels, settling = unpack(redis.call('HMGET', key,
    'state', 'total', 'ended', 'cancel', 'ttl', 'keep', 'tenant', 'webhook', 'labels', 'settling'))
  if state == 'completed' or state == 'canceled' or settling == '1' or tonumber(ended) < tonumber(total) then
    return
  end
  local at = now()
  redis.call('HSET', key, 'state', cancel == '1' and 'canceled' or 'completed', 'finished', at, 'expires', at + ttl)
  redis.call('SREM', P .. 'batches:todo', id)
  redis.call('ZADD', P .. 'batches:archive', at, id)
  redis.call('ZADD', P .. 'batches:expiry', at + ttl + keep, tenant .. '/' .. id)
  redis.call('PEXPIRE', key, ttl + keep)
  redis.call('DEL', key .. ':active')
  count('batches_ended')
  tell_batch(id, touch_batch(id, last))
end

-- A job of a batch went from one state to another: the counts follow. `from` is nil for a new record.
local function tally(batch, id, from, to)
  local key = P .. 'batch:' .. batch
  if redis.call('EXISTS', key) == 0 then
    return
  end
  if from then
    redis.call('HINCRBY', key, 'n:' .. from, -1)
  end
  redis.call('HINCRBY', key, 'n:' .. to, 1)
  if OWNED[to] then
    redis.call('SADD', key .. ':active', id)
  elseif from and OWNED[from] then
    redis.call('SREM', key .. ':active', id)
  end
  if to == 'accepted' then
    return
  end
  touch_batch(batch, to == 'deleted' and from or to)
  if TERMINAL[to] then
    redis.call('HINCRBY', key, 'ended', 1)
    end_batch(batch, to)
  end
end

-- Jobs that a batch has not got: never created, or deleted since.
local function missing(batch)
  local row, has, total = redis.call('HGETALL', P .. 'batch:' .. batch), 0, 0
  for i = 1, #row, 2 do
    if string.sub(row[i], 1, 2) == 'n:' then
      has = has + row[i + 1]
    elseif row[i] == 'total' then
      total = tonumber(row[i + 1])
    end
  end
  return total - has
end

-- The work that waits in a pool, as far as it is known: by `sign` a job comes or goes.
local function weigh(id, pool, sign)
  local expected = get(id, 'expected')
  if expected then
    redis.call('HINCRBY', P .. 'q:work:' .. pool, 'jobs', sign)
    redis.call('HINCRBY', P .. 'q:work:' .. pool, 'ms', sign * expected)
  end
end

local function enter_queue(id, at)
  local pool, priority, created, finish_by = get(id, 'pool', 'priority', 'created', 'finish_by')
  redis.call('HSET', job_key(id), 'queued', at)
  redis.call('ZADD', P .. 'q:pos:' .. pool, priority * 1e13 + created, id)
  redis.call('ZADD', P .. 'rings', 0, id)
  line.join(id)
  weigh(id, pool, 1)
end

-- Count the assets that a job may still read: they cannot be deleted.
local function use_assets(id, by)
  local tenant, assets = get(id, 'tenant', 'assets')
  for _, asset in ipairs(cjson.decode(assets or '[]')) do
    if redis.call('HINCRBY', P .. 'use:' .. tenant, asset, by) <= 0 then
      redis.call('HDEL', P .. 'use:' .. tenant, asset)
    end
  end
end

local function end_job(id, to, at)
  local ttl, keep, tenant, events = get(id, 'ttl', 'keep', 'tenant', 'events_ttl')
  redis.call('HSET', job_key(id), 'finished', at, 'expires', at + ttl)
  redis.call('ZREM', P .. 'deadlines', id)
  redis.call('ZADD', P .. 'archive', at, id)
  redis.call('ZADD', P .. 'expiry', at + ttl, tenant .. '/' .. id)
  redis.call('PEXPIRE', job_key(id), ttl + keep)
  redis.call('PEXPIRE', P .. 'ev:' .. id, events or ttl)
  redis.call('PEXPIRE', P .. 'log:' .. id, ttl + keep)
  use_assets(id, -1)
  count('jobs_' .. to)
end

-- The only writer of `state`. Refuses what the table does not have; keeps every index in step.
local function move(id, to, data)
  local from, pool, batch = get(id, 'state', 'pool', 'batch')
  local legal = false
  for _, state in ipairs(TRANSITIONS[from]) do
    legal = legal or state == to
  end
  if not legal then
    error('illegal transition ' .. from .. ' to ' .. to)
  end
  local at = now()
  redis.call('HSET', job_key(id), 'state', to)
  note(id, {level = 'info', event = 'state', facts = {state = to}})
  if from == 'accepted' then
    redis.call('ZREM', P .. 'fetches', id)
  end
  if from == 'queued' then
    redis.call('ZREM', P .. 'q:pos:' .. pool, id)
    redis.call('ZREM', P .. 'rings', id)
    line.leave(id)
    weigh(id, pool, -1)
  end
  if from == 'canceling' and to == 'canceled' then
    local asked = redis.call('ZSCORE', P .. 'canceling', id)
    observe('cancel_seconds', '', (at - (asked or at)) / 1000)
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
  local tenant, webhook = get(id, 'tenant', 'webhook')
  outbox(id, tenant, 'job.' .. to, version, webhook)
  if TERMINAL[to] then
    event(id, 'end', version, to)
  end
  if batch then
    tally(batch, id, from, to)
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
    local level = how == 'worker_lost' and 'warning' or 'info'
    note(id, {level = level, event = 'attempt.ended', facts = {outcome = how, seconds = last.seconds}})
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
