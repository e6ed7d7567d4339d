-- id, tenant: no job of the batch is created any more; those that exist are canceled one by one afterwards.
-- answers: gone | state after
local id, tenant = unpack(ARGV)
local key = P .. 'batch:' .. id
local state, theirs = unpack(redis.call('HMGET', key, 'state', 'tenant'))
if not state or theirs ~= tenant then
  return 'gone'
end
if state ~= 'accepted' and state ~= 'running' then
  return state
end
local never = missing(id)
redis.call('HSET', key, 'cancel', '1', 'state', 'canceling')
redis.call('HINCRBY', key, 'n:canceled', never)
redis.call('HINCRBY', key, 'ended', never)
redis.call('SADD', P .. 'batches:todo', id)
touch_batch(id, 'canceled')
end_batch(id, 'canceled')
return redis.call('HGET', key, 'state')
