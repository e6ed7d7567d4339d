-- id, fields (json), idempotency key or '', request hash, its life in ms: the record of a batch, before its jobs exist
-- answers: created | replay, batch | reuse, batch | exists, batch
local id, fields, idem, hash, idem_ttl = unpack(ARGV)
local batch, key = cjson.decode(fields), P .. 'batch:' .. id
local row = P .. 'idem:' .. batch.tenant .. ':' .. idem
if idem ~= '' then
  local known, first = unpack(redis.call('HMGET', row, 'hash', 'batch'))
  if first and redis.call('EXISTS', P .. 'batch:' .. first) == 1 then
    return {known == hash and 'replay' or 'reuse', first}
  end
end
if redis.call('EXISTS', key) == 1 then
  return {'exists', id}
end
local base = {state = 'accepted', version = 0, created = now(), cursor = 0, ended = 0}
for name, value in pairs(base) do
  redis.call('HSET', key, name, value)
end
for name, value in pairs(batch) do
  redis.call('HSET', key, name, value)
end
if idem ~= '' then
  redis.call('HSET', row, 'hash', hash, 'batch', id)
  redis.call('PEXPIRE', row, idem_ttl)
end
redis.call('ZADD', P .. 'batches:' .. batch.tenant, redis.call('HGET', key, 'created'), id)
redis.call('SADD', P .. 'batches:todo', id)
count('batches_created')
touch_batch(id, 'accepted')
return {'created', id}
