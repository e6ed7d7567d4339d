-- answers: {pool, how many of its jobs could start at once, ...}
local found = {}
for _, pool in ipairs(redis.call('SMEMBERS', P .. 'pools')) do
  found[#found + 1] = pool
  found[#found + 1] = line.startable(pool)
end
return found
