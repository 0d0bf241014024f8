-- What queues hold now.
--
-- KEYS: none are named; see queue.lua for all
-- ARGV
--   1..  queues
-- Returns of each {ready, delayed, waiting, in flight, dead, age in ms of the oldest, sent, acked, retried, dead, dropped,
-- expired}, or an empty table where there is no such queue.

-- Entries that are out, by the stream's group.
local function pending(q, stream)
    return q.size[stream] > 0 and group_info(q, stream).pending or 0
end

local function oldest_ms(q)
    local begun = {}
    local first = q.size.new > 0 and call('XRANGE', q.new, '-', '+', 'COUNT', 1)[1]
    if first then begun[1] = begun_ms((parts(first[2][2]))) end
    for _, key in ipairs({q.old, q.delayed}) do
        local found_ms = call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
        if found_ms and tonumber(found_ms) <= now_ms then begun[#begun + 1] = tonumber(found_ms) end
    end
    return #begun > 0 and math.max(0, now_ms - math.min(unpack(begun))) or 0
end

local states = {}
for i, name in ipairs(ARGV) do
    local q = queue(name, 'counts', 'new', 'again', 'delayed', 'waiting', 'old', 'dead')
    local size = q.size
    if size.counts == 0 then
        states[i] = {}
    else
        local out = pending(q, 'new') + pending(q, 'again')
        local due = call('ZCOUNT', q.delayed, '-inf', now_ms)
        local counts = call('HMGET', q.counts, 'sent', 'acked', 'retried', 'dead', 'dropped', 'expired')
        for at = 1, 6 do counts[at] = tonumber(counts[at] or 0) end
        states[i] = {
            size.new + size.again - out + due, size.delayed - due, size.waiting, out, size.dead, oldest_ms(q),
            unpack(counts),
        }
    end
end
return states
