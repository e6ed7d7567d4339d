-- id, tenant: forget an ended job. answers: gone | deleted | the state that forbids it
local id, tenant = unpack(ARGV)
local state, theirs, batch = get(id, 'state', 'tenant', 'batch')
if not state or theirs ~= tenant then
  return 'gone'
end
if not TERMINAL[state] then
  return state
end
redis.call('ZREM', P .. 'expiry', tenant .. '/' .. id)
for _, index in ipairs({'archive', 'jobs:' .. tenant, 'changed:' .. tenant}) do
  redis.call('ZREM', P .. index, id)
end
if batch then
  tally(batch, id, state, 'deleted')
end
redis.call('DEL', job_key(id), P .. 'ev:' .. id, P .. 'log:' .. id)
return 'deleted'
