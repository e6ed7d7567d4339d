-- id, fence, lease ms, changed fields (json) or '': keep the lease, and write progress with it. answers: ok | cancel | lost
local id, fence, lease, fields = unpack(ARGV)
local mine, state = owns(id, fence)
if not mine then
  return 'lost'
end
prolong(id, lease)
if state == 'canceling' then
  return 'cancel'
end
if fields ~= '' then
  local values = cjson.decode(fields)
  for name, value in pairs(values) do
    redis.call('HSET', job_key(id), name, value)
  end
  touch(id, 'progress', values.progress)
end
return 'ok'
