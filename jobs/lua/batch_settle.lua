-- id: the jobs of a batch were rebuilt as far as the store has them. A job that is missing was deleted, was never to be
-- created because of a cancel, or is still to be created.
local id = unpack(ARGV)
local key = P .. 'batch:' .. id
local settling, cancel, cursor, total = unpack(redis.call('HMGET', key, 'settling', 'cancel', 'cursor', 'total'))
if settling ~= '1' then
  return 0
end
redis.call('HDEL', key, 'settling')
if cancel == '1' or tonumber(cursor) >= tonumber(total) then
  local absent = missing(id)
  redis.call('HINCRBY', key, cancel == '1' and 'n:canceled' or 'n:deleted', absent)
  redis.call('HINCRBY', key, 'ended', absent)
end
touch_batch(id, 'queued')
end_batch(id, 'queued')
return 1
