-- most attempts, error (json), most jobs a call: take jobs whose lease ended. answers: {id, new state, ...}
local most, problem, limit = unpack(ARGV)
local done = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', now(), 'LIMIT', 0, limit)) do
  redis.call('ZREM', P .. 'leases', id)
  local state, attempt = get(id, 'state', 'attempt')
  if state and OWNED[state] then
    local to = 'queued'
    if state == 'canceling' then
      to = 'canceled'
    elseif tonumber(attempt) >= tonumber(most) then
      to = 'failed'
      set_error(id, problem)
    end
    dispossess(id, 'worker_lost')
    count('lease_expired')
    move(id, to)
    done[#done + 1] = id
    done[#done + 1] = to
  end
end
return done
