-- sorted set, member, ms: come back to it after this long. answers: 1 | 0 when it is not there any more
local name, member, wait = unpack(ARGV)
if not redis.call('ZSCORE', P .. name, member) then
  return 0
end
redis.call('ZADD', P .. name, now() + wait, member)
return 1
