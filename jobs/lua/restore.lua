-- id, hash fields (json), idempotency key or '', request hash, its life in ms, time: put back the record of an ended job
-- from its archive. What ended since that time is told again: nobody knows who heard of it. answers: restored | exists
local id, fields, idem, hash, idem_ttl, since = unpack(ARGV)
if redis.call('EXISTS', job_key(id)) == 1 then
  return 'exists'
end
local job = cjson.decode(fields)
for name, value in pairs(job) do
  redis.call('HSET', job_key(id), name, value)
end
redis.call('ZADD', P .. 'jobs:' .. job.tenant, job.created, id)
local due = job.media_gone == '1' and job.expires + job.keep or job.expires
redis.call('ZADD', P .. 'expiry', due, job.tenant .. '/' .. id)
local version = touch(id, 'state')
if tonumber(job.finished or 0) > tonumber(since) then
  outbox(id, job.tenant, 'job.' .. job.state, version, job.webhook, nil, job.finished)
end
if job.batch and redis.call('HGET', P .. 'batch:' .. job.batch, 'settling') == '1' then
  tally(job.batch, id, nil, job.state)
end
redis.call('PEXPIREAT', job_key(id), job.expires + job.keep)
redis.call('PEXPIRE', P .. 'ev:' .. id, job.events_ttl or job.keep)
if idem ~= '' then
  local row = P .. 'idem:' .. job.tenant .. ':' .. idem
  redis.call('HSET', row, 'hash', hash, 'job', id)
  redis.call('PEXPIRE', row, idem_ttl)
end
return 'restored'
