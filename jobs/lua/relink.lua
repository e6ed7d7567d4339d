-- pool, from, most: give queued jobs that an older version queued their place in line. answers: jobs seen
local pool, from, most = unpack(ARGV)
local ids = redis.call('ZRANGE', P .. 'q:pos:' .. pool, from, from + most - 1)
for _, id in ipairs(ids) do
  if not line.has(id) then
    line.join(id)
  end
end
return #ids
