-- canceling for more than this many ms, most jobs a call. answers: {id, node, task, fence, ...}
local age, limit = unpack(ARGV)
local found = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'canceling', '-inf', now() - age, 'LIMIT', 0, limit)) do
  local state, node, task, fence = get(id, 'state', 'node', 'task', 'fence')
  if state == 'canceling' then
    for _, value in ipairs({id, node, task, fence}) do
      found[#found + 1] = value
    end
  else
    redis.call('ZREM', P .. 'canceling', id)
  end
end
return found
