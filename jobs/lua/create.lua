-- id, fields (json), idempotency key or '', request hash, its life in ms, ready (1 queues at once), most ahead or ''
-- answers: created | replay, job | reuse, job | exists | full, places taken |
-- canceled: its batch was
local id, fields, idem, hash, idem_ttl, ready, most = unpack(ARGV)
local job = cjson.decode(fields)
local row = P .. 'idem:' .. job.tenant .. ':' .. idem
if idem ~= '' then
  local known, first = unpack(redis.call('HMGET', row, 'hash', 'job'))
  if first and redis.call('EXISTS', job_key(first)) == 1 then
    return {known == hash and 'replay' or 'reuse', first}
  end
end
if redis.call('EXISTS', job_key(id)) == 1 then
  return {'exists', id}
end
if job.batch and redis.call('HGET', P .. 'batch:' .. job.batch, 'cancel') == '1' then
  return {'canceled', id}
end
local ahead = redis.call('ZCARD', P .. 'q:pos:' .. job.pool)
if most ~= '' and ahead > tonumber(most) then
  return {'full', tostring(ahead)}
end
local at = now()
local base = {state = 'accepted', version = 0, fence = 0, attempt = 0, created = at, attempts = '[]', wall = 0,
  waited = 0}
for name, value in pairs(base) do
  redis.call('HSET', job_key(id), name, value)
end
for name, value in pairs(job) do
  redis.call('HSET', job_key(id), name, value)
end
local created = tonumber((get(id, 'created')))
local first_deadline = nil
for field, within in pairs({start_by = 'start_within', finish_by = 'finish_within'}) do
  if job[within] then
    local due = created + job[within] * 1000
    redis.call('HSET', job_key(id), field, due)
    first_deadline = math.min(first_deadline or due, due)
  end
end
if first_deadline then
  redis.call('ZADD', P .. 'deadlines', first_deadline, id)
end
if idem ~= '' then
  redis.call('HSET', row, 'hash', hash, 'job', id)
  redis.call('PEXPIRE', row, idem_ttl)
end
redis.call('SADD', P .. 'pools', job.pool)
redis.call('ZADD', P .. 'jobs:' .. job.tenant, created, id)
use_assets(id, 1)
count('jobs_created')
note(id, {level = 'info', event = 'state', facts = {state = 'accepted', request_id = job.request_id}})
touch(id, 'state')
if job.batch then
  tally(job.batch, id, nil, 'accepted')
end
if ready == '1' then
  move(id, 'queued')
else
  redis.call('ZADD', P .. 'fetches', at, id)
end
return {'created', id}
