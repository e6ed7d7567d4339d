-- place: the artifact is not in the store any more
local place = ARGV[1]
local size, owner = redis.call('HGET', P .. 'cas:size', place), redis.call('HGET', P .. 'cas:owner', place)
if not size then
  return 0
end
local accounts = {'kind/' .. place:match('^cas/v1/([^/]+)/')}
if owner and owner ~= '' then
  accounts[2] = 'tenant/' .. owner
end
for _, account in ipairs(accounts) do
  redis.call('ZREM', P .. 'cas:last:' .. account, place)
  if redis.call('HINCRBY', P .. 'cas:bytes', account, -size) <= 0 then
    redis.call('HDEL', P .. 'cas:bytes', account)
  end
end
redis.call('HDEL', P .. 'cas:size', place)
redis.call('HDEL', P .. 'cas:owner', place)
return 1
