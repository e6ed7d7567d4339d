-- id, number of the first job that may not exist yet. answers: the batch's state, or gone
local id, cursor = unpack(ARGV)
local key = P .. 'batch:' .. id
local state, before, total = unpack(redis.call('HMGET', key, 'state', 'cursor', 'total'))
if not state then
  return 'gone'
end
redis.call('HSET', key, 'cursor', math.max(tonumber(before), tonumber(cursor)))
if state == 'accepted' and tonumber(cursor) >= tonumber(total) then
  redis.call('HSET', key, 'state', 'running')
  redis.call('SREM', P .. 'batches:todo', id)
  touch_batch(id, 'queued')
  end_batch(id, 'queued')
end
return redis.call('HGET', key, 'state')
