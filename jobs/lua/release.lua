-- id, fence, reason, hand back the attempt (1 or 0), most attempts, error (json) when they are used up, ms for
-- which the owner does not get the job again
-- answers: queued | failed | canceled | lost
local id, fence, reason, hand_back, most, problem, away = unpack(ARGV)
local mine, state = owns(id, fence)
if not mine then
  return 'lost'
end
dispossess(id, reason)
if state == 'canceling' then
  move(id, 'canceled')
  return 'canceled'
end
if hand_back == '1' then
  redis.call('HINCRBY', job_key(id), 'attempt', -1)
  count('preemptions')
elseif tonumber((get(id, 'attempt'))) >= tonumber(most) then
  set_error(id, problem)
  move(id, 'failed')
  return 'failed'
end
move(id, 'queued')
if tonumber(away) > 0 then
  local till = now() + away
  redis.call('HSET', job_key(id), 'avoid', (get(id, 'owner')), 'avoid_until', till)
  redis.call('ZADD', P .. 'later', till, id)
end
return 'queued'
