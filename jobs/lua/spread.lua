-- outbox entry, deliveries (json list of objects with id and endpoint), life ms, most kept of an endpoint: turn a row of
-- the outbox into deliveries that are due now, once. answers: 1 | 0
local entry, list, life, most = unpack(ARGV)
if redis.call('XDEL', P .. 'outbox', entry) == 0 then
  return 0
end
local at = now()
for _, delivery in ipairs(cjson.decode(list)) do
  local key, index = P .. 'msg:' .. delivery.id, P .. 'msgs:' .. delivery.endpoint
  for name, value in pairs(delivery) do
    redis.call('HSET', key, name, value)
  end
  redis.call('HSET', key, 'state', 'pending', 'tries', 0, 'attempts', '[]', 'created', at, 'next', at)
  redis.call('PEXPIRE', key, life)
  redis.call('ZADD', index, at, delivery.id)
  redis.call('ZREMRANGEBYRANK', index, 0, -1 - most)
  redis.call('PEXPIRE', index, life)
  redis.call('ZADD', P .. 'msgs-due', at, delivery.id)
end
return 1
