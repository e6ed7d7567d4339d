-- id, hash fields (json): put back the record of an ended batch from its archive. answers: restored | exists
local id, fields = unpack(ARGV)
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
touch_batch(id, 'queued')
return 'restored'
