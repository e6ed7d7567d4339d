-- message: send it again now, with a fresh schedule. answers: 1 | 0 when it is gone
local key, at = P .. 'msg:' .. ARGV[1], now()
if redis.call('EXISTS', key) == 0 then
  return 0
end
redis.call('HSET', key, 'state', 'pending', 'tries', 0, 'next', at)
redis.call('ZADD', P .. 'msgs-due', at, ARGV[1])
return 1
