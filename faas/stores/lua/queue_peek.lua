-- The next messages of a queue: ready, then those behind their groups' heads, then delayed by due time. None is taken.
--
-- KEYS: none are named; see queue.lua for all
-- ARGV
--   1  queue    2  messages at most
-- Returns their records.

local q = queue(ARGV[1], 'new', 'again', 'delayed', 'waiting', 'data')
local most = tonumber(ARGV[2])
local records = {}

for _, stream in ipairs({'again', 'new'}) do
    if q.size[stream] > 0 and #records < most then
        local after = '(' .. group_info(q, stream)['last-delivered-id']
        for _, entry in ipairs(call('XRANGE', q[stream], after, '+', 'COUNT', most - #records)) do
            records[#records + 1] = entry[2][2]
        end
    end
end
if #records < most then
    for _, member in ipairs(call('ZRANGE', q.waiting, 0, most - #records - 1)) do
        records[#records + 1] = call('HGET', q.data, sub(member, struct.unpack('>I4', member) + 13))
    end
end
if #records < most then
    for _, id in ipairs(call('ZRANGE', q.delayed, 0, most - #records - 1)) do
        records[#records + 1] = call('HGET', q.data, id)
    end
end
return records
