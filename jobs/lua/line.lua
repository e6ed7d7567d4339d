-- Who is next. Appended to common.lua, which calls it through the table `line`. TIERS, LOOK_AHEAD, MOST_PASSED and
-- TENANT_CAP (0 = none) come from Python.
-- In a pool and priority tenants take turns, in a tenant its groups do (a batch is a group, everything else is ''), in
-- a group the oldest job is first:
--   line:{pool}:{tier} tenant -> its last turn,   line:{pool}:{tier}:{tenant} group -> its last turn,
--   line:{pool}:{tier}:{tenant}:{group} id -> created,   waiting:{pool}:{tier} tenant -> jobs.
-- busy:{tenant} and busy:{tenant}:{group} hold the jobs that workers own; who has as many as allowed is passed over.

local function line_key(...)
  return P .. 'line:' .. table.concat({...}, ':')
end

local function busy_key(tenant, group)
  return P .. 'busy:' .. tenant .. (group ~= '' and ':' .. group or '')
end

local function turn_now()
  return tonumber(redis.call('GET', P .. 'turn') or 0)
end

local function place_of(id)
  local pool, tier, tenant, created, group, batch = get(id, 'pool', 'priority', 'tenant', 'created', 'group', 'batch')
  return pool, tier, tenant, group or batch or '', created
end

function line.join(id)
  local pool, tier, tenant, group, created = place_of(id)
  local last = redis.call('ZSCORE', P .. 'served:' .. pool .. ':' .. tier, tenant) or 0
  redis.call('ZADD', line_key(pool, tier), 'NX', last, tenant)
  redis.call('ZADD', line_key(pool, tier, tenant), 'NX', turn_now(), group)
  redis.call('ZADD', line_key(pool, tier, tenant, group), created, id)
  redis.call('HINCRBY', P .. 'waiting:' .. pool .. ':' .. tier, tenant, 1)
end

function line.has(id)
  local pool, tier, tenant, group = place_of(id)
  return redis.call('ZSCORE', line_key(pool, tier, tenant, group), id)
end

function line.leave(id)
  local pool, tier, tenant, group = place_of(id)
  redis.call('ZREM', P .. 'later', id)
  redis.call('HDEL', job_key(id), 'hold', 'hold_until', 'passed')
  redis.call('ZREM', line_key(pool, tier, tenant, group), id)
  if redis.call('HINCRBY', P .. 'waiting:' .. pool .. ':' .. tier, tenant, -1) <= 0 then
    redis.call('HDEL', P .. 'waiting:' .. pool .. ':' .. tier, tenant)
    redis.call('ZREM', line_key(pool, tier), tenant)
  end
  if redis.call('EXISTS', line_key(pool, tier, tenant, group)) == 0 then
    redis.call('ZREM', line_key(pool, tier, tenant), group)
  end
end

function line.cap(tenant)
  return tonumber(redis.call('HGET', P .. 'caps', tenant) or TENANT_CAP)
end

function line.running(tenant)
  return redis.call('SCARD', busy_key(tenant, ''))
end

-- How many more jobs of a tenant may run now.
function line.room(tenant)
  local cap = line.cap(tenant)
  return cap == 0 and math.huge or cap - line.running(tenant)
end

-- How many more jobs of a group may run now; the limit is written on its jobs.
function line.group_room(tenant, group, id)
  local cap = group ~= '' and tonumber((get(id, 'group_limit')) or 0) or 0
  return cap == 0 and math.huge or cap - redis.call('SCARD', busy_key(tenant, group))
end

-- Why a queued job is passed over although it might be next, or ''.
function line.blocked(id)
  local _, _, tenant, group = place_of(id)
  if line.room(tenant) <= 0 then
    return 'quota'
  end
  return line.group_room(tenant, group, id) <= 0 and 'batch_limit' or ''
end

-- False for a job that must not start here now. An older version of the service may have moved it without this index.
local function fits(id, lane, who)
  local state = get(id, 'state')
  if state ~= 'queued' then
    redis.call('ZREM', lane, id)
    return false
  end
  local hold, hold_until, avoid, avoid_until, needs =
    get(id, 'hold', 'hold_until', 'avoid', 'avoid_until', 'needs')
  if hold and hold ~= who.worker and tonumber(hold_until) > who.at then
    return false
  end
  if avoid == who.worker and tonumber(avoid_until) > who.at then
    return false
  end
  return tonumber(needs or 1) <= who.schema
end

-- Calls `visit(id)` for the jobs that may start now, in fair order, until it answers something.
local function each_startable(pool, tier, who, visit)
  for _, tenant in ipairs(redis.call('ZRANGE', line_key(pool, tier), 0, -1)) do
    local room = line.room(tenant) > 0
    for _, group in ipairs(room and redis.call('ZRANGE', line_key(pool, tier, tenant), 0, -1) or {}) do
      local lane = line_key(pool, tier, tenant, group)
      local ids = redis.call('ZRANGE', lane, 0, LOOK_AHEAD - 1)
      if #ids > 0 and line.group_room(tenant, group, ids[1]) > 0 then
        for _, id in ipairs(ids) do
          local answer = fits(id, lane, who) and visit(id)
          if answer then
            return answer
          end
        end
      end
    end
  end
end

-- The first in line, unless its weights would have to be loaded and another of the next few finds its own in memory.
-- A job is passed so only a few times.
local function pick_in(pool, tier, who)
  local first, seen = nil, 0
  local other = each_startable(pool, tier, who, function(id)
    local model, passed = get(id, 'model', 'passed')
    local warm = who.warm[model or '']
    if not first then
      first = id
      return (warm or not who.any_warm or tonumber(passed or 0) >= MOST_PASSED) and id
    end
    seen = seen + 1
    return warm and id or (seen >= LOOK_AHEAD and first)
  end)
  if other and other ~= first then
    redis.call('HINCRBY', job_key(first), 'passed', 1)
    count('affinity_picks')
  end
  return other or first
end

function line.pick(pool, who)
  for _, tier in ipairs(TIERS) do
    local id = pick_in(pool, tier, who)
    if id then
      return id
    end
  end
end

-- The job starts: its tenant and group go to the end of their turns, and have one running job more.
function line.serve(id)
  local pool, tier, tenant, group = place_of(id)
  local turn, served = redis.call('INCR', P .. 'turn'), P .. 'served:' .. pool .. ':' .. tier
  redis.call('ZADD', line_key(pool, tier), 'XX', turn, tenant)
  redis.call('ZADD', line_key(pool, tier, tenant), 'XX', turn, group)
  redis.call('ZADD', served, turn, tenant)
  redis.call('PEXPIRE', served, 86400000)
  redis.call('SADD', busy_key(tenant, ''), id)
  redis.call('SADD', busy_key(tenant, group), id)
end

-- The bells of jobs that were passed over are used up. Where there is room again, one is due for the first of every
-- lane of the tenant: a cap on the tenant may hold back several pools. answers: how many
function line.ring_for(tenant)
  local due = 0
  for _, tier in ipairs(line.room(tenant) > 0 and TIERS or {}) do
    for _, pool in ipairs(redis.call('SMEMBERS', P .. 'pools')) do
      for _, group in ipairs(redis.call('ZRANGE', line_key(pool, tier, tenant), 0, -1)) do
        local id = redis.call('ZRANGE', line_key(pool, tier, tenant, group), 0, 0)[1]
        if id and line.group_room(tenant, group, id) > 0 then
          due = due + redis.call('ZADD', P .. 'rings', 'XX', 'CH', 0, id)
        end
      end
    end
  end
  return due
end

-- The job runs no longer.
function line.vacate(id)
  local _, _, tenant, group = place_of(id)
  local was_full = line.blocked(id) ~= ''
  redis.call('SREM', busy_key(tenant, ''), id)
  redis.call('SREM', busy_key(tenant, group), id)
  if was_full then
    line.ring_for(tenant)
  end
end

-- How many jobs of a pool could start at once if there were workers enough.
function line.startable(pool)
  local total = 0
  for _, tier in ipairs(TIERS) do
    for _, tenant in ipairs(redis.call('ZRANGE', line_key(pool, tier), 0, -1)) do
      local mine, room = 0, line.room(tenant)
      for _, group in ipairs(room > 0 and redis.call('ZRANGE', line_key(pool, tier, tenant), 0, -1) or {}) do
        local lane = line_key(pool, tier, tenant, group)
        local id = redis.call('ZRANGE', lane, 0, 0)[1]
        mine = mine + math.max(0, math.min(redis.call('ZCARD', lane), line.group_room(tenant, group, id)))
      end
      total = total + math.min(mine, room)
    end
  end
  return total
end

-- Of several in turn, each with so many jobs waiting: how many start before the job with `rank` others of its own ahead.
local function ahead_in_turn(names, own, rank, waiting)
  local ahead, before = rank, 1
  for _, name in ipairs(names) do
    if name == own then
      before = 0
    else
      ahead = ahead + math.min(waiting(name), rank + before)
    end
  end
  return ahead
end

-- Place in line counted from 1, if all jobs before it start in fair order and nobody else comes.
function line.position(id)
  local pool, tier, tenant, group = place_of(id)
  local rank = redis.call('ZRANK', line_key(pool, tier, tenant, group), id)
  if not rank then
    return 0
  end
  rank = ahead_in_turn(redis.call('ZRANGE', line_key(pool, tier, tenant), 0, -1), group, rank, function(name)
    return redis.call('ZCARD', line_key(pool, tier, tenant, name))
  end)
  local ahead = ahead_in_turn(redis.call('ZRANGE', line_key(pool, tier), 0, -1), tenant, rank, function(name)
    local mine = tonumber(redis.call('HGET', P .. 'waiting:' .. pool .. ':' .. tier, name) or 0)
    return math.max(0, math.min(mine, line.room(name)))
  end)
  return 1 + ahead + redis.call('ZCOUNT', P .. 'q:pos:' .. pool, '-inf', '(' .. tier * 1e13)
end
