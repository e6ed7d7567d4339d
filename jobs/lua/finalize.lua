-- id, fence, lease ms: outputs are uploaded, commit under way. answers: ok | cancel | lost
local id, fence, lease = unpack(ARGV)
local mine, state = owns(id, fence)
if not mine then
  return 'lost'
end
if state == 'canceling' then
  return 'cancel'
end
prolong(id, lease)
if state == 'running' then
  move(id, 'finalizing')
end
return 'ok'
