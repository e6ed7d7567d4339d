-- id, tenant: the outputs of an ended job were deleted; the rest of it follows when the record's own life ends
local id, tenant = unpack(ARGV)
local member = tenant .. '/' .. id
local state, expires, keep = get(id, 'state', 'expires', 'keep')
if not state then
  redis.call('ZREM', P .. 'expiry', member)
  return 0
end
redis.call('ZADD', P .. 'expiry', expires + keep, member)
redis.call('HSET', job_key(id), 'media_gone', '1', 'outputs', '[]')
touch(id, 'output')
redis.call('PEXPIRE', P .. 'ev:' .. id, (get(id, 'events_ttl')) or keep)
return 1
