-- id, error (json) or '': the inputs of an accepted job are known. answers: gone | skip, state | queued | failed
local id, problem = unpack(ARGV)
local state = get(id, 'state')
if not state then
  return {'gone'}
end
if state ~= 'accepted' then
  return {'skip', state}
end
if problem ~= '' then
  set_error(id, problem)
  move(id, 'failed')
  return {'failed'}
end
move(id, 'queued')
return {'queued'}
