-- answers: the hash of every live worker as {field, value, ...}; forgets those whose life ended
local found = {}
for _, id in ipairs(redis.call('ZRANGE', P .. 'workers', 0, -1)) do
  local row = redis.call('HGETALL', P .. 'w:' .. id)
  if #row > 0 then
    found[#found + 1] = row
  else
    redis.call('ZREM', P .. 'workers', id)
  end
end
return found
