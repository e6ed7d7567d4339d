-- begin | hold | keep | drop, tenant, idempotency key, request hash, token, ms, then for keep: status, headers (json), body
-- begin answers: go | reuse | busy | done, status, headers, body. hold, keep and drop do nothing for another's token.
local what, tenant, idem, hash, token, life, status, headers, body = unpack(ARGV)
local key = P .. 'answer:' .. tenant .. ':' .. idem
local known, holder, before = unpack(redis.call('HMGET', key, 'hash', 'token', 'status'))
if what == 'begin' then
  if not known then
    redis.call('HSET', key, 'hash', hash, 'token', token)
    redis.call('PEXPIRE', key, life)
    return {'go'}
  end
  if known ~= hash then
    return {'reuse'}
  end
  if not before then
    return {'busy'}
  end
  return {'done', unpack(redis.call('HMGET', key, 'status', 'headers', 'body'))}
end
if holder ~= token then
  return {'other'}
end
if what == 'keep' then
  redis.call('HSET', key, 'status', status, 'headers', headers, 'body', body)
  redis.call('PEXPIRE', key, life)
elseif what == 'hold' then
  redis.call('PEXPIRE', key, life)
else
  redis.call('DEL', key)
end
return {'ok'}
