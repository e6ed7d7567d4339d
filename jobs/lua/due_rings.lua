-- not rung for this many ms (-1: never rung at all, or due now), most jobs a call: queued jobs whose bell is due,
-- marked as rung now. answers: ids
local age, limit = unpack(ARGV)
local at = now()
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'later', '-inf', at, 'LIMIT', 0, limit)) do
  redis.call('ZREM', P .. 'later', id)
  redis.call('ZADD', P .. 'rings', 'XX', 0, id)
end
local latest = age == '-1' and 0 or at - age
local ids = redis.call('ZRANGEBYSCORE', P .. 'rings', '-inf', latest, 'LIMIT', 0, limit)
for _, id in ipairs(ids) do
  redis.call('ZADD', P .. 'rings', 'XX', at, id)
end
return ids
