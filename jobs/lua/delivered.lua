-- message, attempt (json), state after it, ms until the next try, most attempts remembered. answers: 1 | 0 when it is gone
local id, attempt, state, wait, most = unpack(ARGV)
local key = P .. 'msg:' .. id
if redis.call('EXISTS', key) == 0 then
  redis.call('ZREM', P .. 'msgs-due', id)
  return 0
end
local at = now()
if attempt ~= '' then
  local attempts = cjson.decode(redis.call('HGET', key, 'attempts'))
  attempts[#attempts + 1] = cjson.decode(attempt)
  while #attempts > tonumber(most) do
    table.remove(attempts, 1)
  end
  redis.call('HSET', key, 'attempts', cjson.encode(attempts))
  redis.call('HINCRBY', key, 'tries', 1)
end
redis.call('HSET', key, 'state', state, 'next', state == 'pending' and at + wait or 0)
if state == 'pending' then
  redis.call('ZADD', P .. 'msgs-due', at + wait, id)
else
  redis.call('ZREM', P .. 'msgs-due', id)
  count('webhooks_' .. state)
  local made = tonumber(redis.call('HGET', key, 'created'))
  if made and state == 'delivered' then
    observe('webhook_seconds', '', (at - made) / 1000)
  end
end
return 1
