-- id, hash fields (json), time: put back the record of an ended batch from its archive. One that ended since that time
-- is told again. answers: restored | exists
local id, fields, since = unpack(ARGV)
local key = P .. 'batch:' .. id
if redis.call('EXISTS', key) == 1 then
  return 'exists'
end
local batch = cjson.decode(fields)
for name, value in pairs(batch) do
  redis.call('HSET', key, name, value)
end
redis.call('ZADD', P .. 'batches:' .. batch.tenant, batch.created, id)
redis.call('ZADD', P .. 'batches:expiry', batch.expires + batch.keep, batch.tenant .. '/' .. id)
redis.call('PEXPIREAT', key, batch.expires + batch.keep)
local version = touch_batch(id, 'queued')
if tonumber(batch.finished or 0) > tonumber(since) then
  tell_batch(id, version, batch.finished)
end
return 'restored'
