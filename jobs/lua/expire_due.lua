-- error for a missed start, error for a missed end (json), most jobs a call. answers: ids
local late_start, late_finish, limit = unpack(ARGV)
local at, done = now(), {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'deadlines', '-inf', at, 'LIMIT', 0, limit)) do
  local state, start_by = get(id, 'state', 'start_by')
  if state ~= 'finalizing' and state ~= 'canceling' then
    redis.call('ZREM', P .. 'deadlines', id)
  end
  if state == 'accepted' or state == 'queued' or state == 'running' then
    set_error(id, (start_by and tonumber(start_by) <= at) and late_start or late_finish)
    if state == 'running' then
      dispossess(id, 'deadline_finish')
    end
    move(id, 'expired')
    done[#done + 1] = id
  end
end
return done
