-- id, fence, lines (json list of {level, event, facts, stage}): what a worker has to tell. answers: ok | lost
local id, fence, lines = unpack(ARGV)
if not owns(id, fence) then
  return 'lost'
end
local version, state, tenant = get(id, 'version', 'state', 'tenant')
for _, said in ipairs(cjson.decode(lines)) do
  event(id, 'log', version, state, cjson.encode({line = note(id, said)}))
end
wake(id, tenant, version, state)
return 'ok'
