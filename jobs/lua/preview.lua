-- id, fence, preview (json): a picture of what the job has come to lies in the store. answers: ok | lost
local id, fence, preview = unpack(ARGV)
if not owns(id, fence) then
  return 'lost'
end
redis.call('HSET', job_key(id), 'preview', preview)
touch(id, 'preview', preview)
return 'ok'
