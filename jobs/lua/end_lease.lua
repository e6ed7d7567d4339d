-- id, fence: the owner's process was killed; let the reaper take the job in its next pass. answers: 1 | 0
local id, fence = unpack(ARGV)
if not owns(id, fence) then
  return 0
end
redis.call('ZADD', P .. 'leases', 'XX', now(), id)
return 1
