-- id, fence, succeeded | failed | canceled, fields (json), how the attempt ended
-- answers: the final state | lost. A cancel that came first wins; asking again after success repeats the answer.
local id, fence, to, fields, how = unpack(ARGV)
local mine, state = owns(id, fence)
if not mine then
  local committed = get(id, 'committed')
  if state and TERMINAL[state] and committed == fence then
    return state
  end
  count('fenced_commits')
  return 'lost'
end
if state == 'canceling' then
  to = 'canceled'
elseif to == 'canceled' and state == 'running' then
  move(id, 'canceling')
elseif to == 'succeeded' and state ~= 'finalizing' then
  move(id, 'finalizing')
end
local values = cjson.decode(fields)
if to ~= 'succeeded' then
  values.outputs = nil
end
if to ~= 'failed' then
  values.error = nil
end
for name, value in pairs(values) do
  redis.call('HSET', job_key(id), name, value)
end
local used = values.usage and cjson.decode(values.usage).gpu_seconds or 0
if used > 0 then
  local spent = P .. 'spent:' .. get(id, 'tenant') .. ':' .. math.floor(now() / 86400000)
  redis.call('HINCRBY', spent, 'gpu_ms', math.floor(used * 1000))
  redis.call('PEXPIRE', spent, 172800000)
end
redis.call('HSET', job_key(id), 'committed', fence)
local saved = 0
for _, stage in ipairs(values.progress and cjson.decode(values.progress).stages or {}) do
  saved = saved + (tonumber(stage.saved_seconds) or 0)
  if stage.state == 'done' and tonumber(stage.seconds) and stage.cache ~= 'hit' then
    observe('stage_seconds', stage.name, stage.seconds)
  end
end
if saved > 0 then
  redis.call('HINCRBY', P .. 'counters', 'cache_saved_ms', math.floor(saved * 1000))
end
local peak = values.usage and tonumber(cjson.decode(values.usage).peak_vram_bytes) or 0
local owner = get(id, 'owner')
if owner and peak > tonumber(redis.call('HGET', P .. 'vram', owner) or 0) then
  redis.call('HSET', P .. 'vram', owner, string.format('%.0f', peak))
end
end_attempt(id, to == 'failed' and how or to)
move(id, to)
return to
