-- tenant or '', only new ones (1 or 0), then for each artifact: place, bytes or '', time in ms or '' for now
-- Bytes '' only notes the use of an artifact that is known. cas:size and cas:owner are by place; cas:last:kind/{kind}
-- and cas:last:tenant/{tenant} order places by last use; cas:bytes sums both.
local tenant, only_new = ARGV[1], ARGV[2] == '1'

local function accounts(place, owner)
  local found = {'kind/' .. place:match('^cas/v1/([^/]+)/')}
  if owner ~= '' then
    found[2] = 'tenant/' .. owner
  end
  return found
end

for i = 3, #ARGV, 3 do
  local place, size, at = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  at = at == '' and now() or at
  local known = redis.call('HGET', P .. 'cas:size', place)
  if (size ~= '' or known) and not (only_new and known) then
    local before = redis.call('HGET', P .. 'cas:owner', place) or ''
    local owner = tenant ~= '' and tenant or before
    for _, account in ipairs(known and accounts(place, before) or {}) do
      redis.call('HINCRBY', P .. 'cas:bytes', account, -known)
      redis.call('ZREM', P .. 'cas:last:' .. account, place)
    end
    size = size ~= '' and size or known
    redis.call('HSET', P .. 'cas:size', place, size)
    redis.call('HSET', P .. 'cas:owner', place, owner)
    for _, account in ipairs(accounts(place, owner)) do
      redis.call('HINCRBY', P .. 'cas:bytes', account, size)
      redis.call('ZADD', P .. 'cas:last:' .. account, at, place)
    end
  end
end
return 1
