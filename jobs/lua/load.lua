-- tenant. answers: {running, queued, cap (0 = none)}
local tenant = ARGV[1]
local queued = 0
for _, pool in ipairs(redis.call('SMEMBERS', P .. 'pools')) do
  for _, tier in ipairs(TIERS) do
    queued = queued + (redis.call('HGET', P .. 'waiting:' .. pool .. ':' .. tier, tenant) or 0)
  end
end
return {line.running(tenant), queued, line.cap(tenant)}
