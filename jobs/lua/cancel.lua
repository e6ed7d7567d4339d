-- id, tenant. answers: gone | state after, changed (1 or 0)
local id, tenant = unpack(ARGV)
local state, theirs, owner = get(id, 'state', 'tenant', 'owner')
if not state or theirs ~= tenant then
  return {'gone', '0'}
end
if state == 'accepted' or state == 'queued' then
  move(id, 'canceled')
  return {'canceled', '1'}
end
if state == 'running' then
  move(id, 'canceling')
  redis.call('PUBLISH', P .. 'ctl:' .. owner, id)
  return {'canceling', '1'}
end
return {state, '0'}
