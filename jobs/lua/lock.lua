-- take | keep | free, name, token, ms: a lock with a life, renewed by its holder. answers: 1 | 0
local what, name, token, life = unpack(ARGV)
local key = P .. 'lock:' .. name
if what == 'take' then
  return redis.call('SET', key, token, 'NX', 'PX', life) and 1 or 0
end
if redis.call('GET', key) ~= token then
  return 0
end
if what == 'keep' then
  redis.call('PEXPIRE', key, life)
else
  redis.call('DEL', key)
end
return 1
