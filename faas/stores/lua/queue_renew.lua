-- Puts the end of leases so far from now.
--
-- KEYS: none are named; see queue.lua for all
-- ARGV
--   1  queue    2  lease in ms    3  {{batch, place in it (from 1)}, ...}
-- Returns the places (from 0) of those that are no longer theirs.

local q = queue(ARGV[1], 'open', 'leases')
local batches, lost = {}, {}
for i, receipt in ipairs(cmsgpack.unpack(ARGV[3])) do
    local name, at = receipt[1], receipt[2]
    if batches[name] == nil then
        local packed = call('HGET', q.open, name)
        batches[name] = packed and cmsgpack.unpack(packed)
    end
    if batches[name] and batches[name][5][at] then
        call('ZADD', q.leases, 'XX', now_ms + ARGV[2], name)
    else
        lost[#lost + 1] = i - 1
    end
end
return lost
