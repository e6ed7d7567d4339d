-- most places, quota of all kinds together, quota of a tenant (each 0 = none), then kind, quota, ...
-- answers: places to delete, until each account is back at its quota
local most, all, tenant = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local quotas = {}
for i = 4, #ARGV, 2 do
  quotas['kind/' .. ARGV[i]] = tonumber(ARGV[i + 1])
end
local found, chosen = {}, {}

local function size_of(place)
  return tonumber(redis.call('HGET', P .. 'cas:size', place) or 0)
end

local function shed(places, excess)
  for _, place in ipairs(places) do
    if excess <= 0 or #found >= most then
      return
    end
    if not chosen[place] then
      chosen[place] = true
      found[#found + 1] = place
    end
    excess = excess - size_of(place)
  end
end

local total, kinds = 0, {}
local rows = redis.call('HGETALL', P .. 'cas:bytes')
for i = 1, #rows, 2 do
  local account, bytes = rows[i], tonumber(rows[i + 1])
  local quota = quotas[account] or (account:sub(1, 7) == 'tenant/' and tenant) or 0
  if quota > 0 and bytes > quota then
    shed(redis.call('ZRANGE', P .. 'cas:last:' .. account, 0, most - 1), bytes - quota)
  end
  if account:sub(1, 5) == 'kind/' then
    total = total + bytes
    kinds[#kinds + 1] = account
  end
end
for place in pairs(chosen) do
  total = total - size_of(place)
end
if all > 0 and total > all then
  local oldest = {}
  for _, account in ipairs(kinds) do
    local places = redis.call('ZRANGE', P .. 'cas:last:' .. account, 0, most - 1, 'WITHSCORES')
    for i = 1, #places, 2 do
      if not chosen[places[i]] then
        oldest[#oldest + 1] = {tonumber(places[i + 1]), places[i]}
      end
    end
  end
  table.sort(oldest, function(a, b) return a[1] < b[1] end)
  local places = {}
  for i, pair in ipairs(oldest) do
    places[i] = pair[2]
  end
  shed(places, total - all)
end
return found
