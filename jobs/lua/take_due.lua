-- sorted set, hold ms, most: members whose time has come, held for a while so that nobody else takes them; who dies with
-- one loses it when the hold ends. answers: members
local name, hold, limit = unpack(ARGV)
local at = now()
local found = redis.call('ZRANGEBYSCORE', P .. name, '-inf', at, 'LIMIT', 0, limit)
for _, member in ipairs(found) do
  redis.call('ZADD', P .. name, at + hold, member)
end
return found
