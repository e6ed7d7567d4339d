-- ids of queued jobs. answers: {place in line, why it is held back or '', ...}
local found = {}
for _, id in ipairs(ARGV) do
  found[#found + 1] = line.position(id)
  found[#found + 1] = line.blocked(id)
end
return found
