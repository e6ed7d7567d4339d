-- tenant, bucket, requests allowed in a window, window ms: take one token of a bucket that fills evenly (GCRA).
-- answers: {allowed (1 or 0), requests left, ms until the bucket is full, ms until the next token when refused}
local tenant, bucket, limit, window = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local key, at, step = P .. 'rate:' .. tenant .. ':' .. bucket, now(), window / limit
local full_at = math.max(tonumber(redis.call('GET', key) or 0), at)
if full_at + step - at > window then
  return {0, 0, math.ceil(full_at - at), math.ceil(full_at + step - at - window)}
end
full_at = full_at + step
redis.call('SET', key, tostring(full_at), 'PX', math.ceil(full_at - at))
return {1, math.floor((window - (full_at - at)) / step), math.ceil(full_at - at), 0}
