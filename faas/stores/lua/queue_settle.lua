-- Says what became of messages that were handed out, and sends others in the same step.
--
-- KEYS: none are named; see queue.lua for all
-- ARGV
--   1  queue
--   2  outcomes: {{batch, place in it (from 1), "ack" | "again" | "release" | "bury" | "drop", delay in ms, words}, ...}
--   3  how long a dedup id is remembered, ms
--   4..  messages to send, as in queue_send.lua
-- Returns the places (from 0) of the outcomes for which nothing was done, because their message was no longer theirs.

local q = queue(ARGV[1])
local batches, theirs, lost = {}, {}, {}

look('SCARD', 'faas:queues:busy')
local sends = read_sends(4)
for i, outcome in ipairs(cmsgpack.unpack(ARGV[2])) do
    local name, at, verb = outcome[1], outcome[2], outcome[3]
    if batches[name] == nil then
        local packed = call('HGET', q.open, name)
        batches[name] = packed and cmsgpack.unpack(packed)
    end
    local batch = batches[name]
    local entry = batch and batch[4][at]
    local record
    if entry and verb ~= 'ack' and verb ~= 'drop' then
        record = record_of(q, entry[1], entry[2])
    end
    if not entry then
        lost[#lost + 1] = i - 1
    else
        batch[4][at] = false
        theirs[#theirs + 1] = {entry, verb, outcome[4], outcome[5], record, batch[3]}
    end
end
if #theirs == 0 then return lost end

local gone, forgotten = {new = {}, again = {}}, {}

local function bury(header, data, reason)
    local number = call('HINCRBY', q.counts, 'seq', 1)
    call('HSET', q.letters, header[ID], pack({now_ms, reason}) .. pack(header) .. data)
    call('ZADD', q.dead, number, header[ID])
end

local function put_back(header, data, verb, delay_ms, words)
    if verb == 'again' then
        header[TRIES], header[ERROR] = header[TRIES] + 1, words
        count(q, 'retried', 1)
    end
    remember_age(q, header)
    place(q, header, data, now_ms + delay_ms)
end

for _, each in ipairs(theirs) do
    local entry, verb, delay_ms, words, record, taken_ms = unpack(each, 1, 6)
    table.insert(gone[entry[1]], entry[2])
    local header, data
    if record then
        header, data = parts(record)
        if header[FIRST] == 0 then header[FIRST] = taken_ms end
    end
    if verb == 'again' or verb == 'release' then
        put_back(header, data, verb, delay_ms, words)
    else
        if verb == 'bury' then
            header[TRIES] = header[TRIES] + 1
            bury(header, data, words)
        end
        count(q, verb == 'ack' and 'acked' or verb == 'bury' and 'dead' or 'dropped', 1)
        forgotten[#forgotten + 1] = entry[3]
        next_of(q, entry[4])
    end
end
for stream, entry_ids in pairs(gone) do remove(q, stream, entry_ids) end
if q.size.old > 0 then in_chunks('ZREM', q.old, forgotten) end

for name, batch in pairs(batches) do
    if batch then
        local trigger, left = batch[1], false
        for _, entry in ipairs(batch[4]) do left = left or entry end
        if left then
            call('HSET', q.open, name, pack(batch))
        else
            call('HDEL', q.open, name)
            call('ZREM', q.leases, name)
            if call('HINCRBY', q.counts, 'out:' .. trigger, -1) <= 0 then call('HDEL', q.counts, 'out:' .. trigger) end
            if call('HDEL', q.counts, 'full:' .. trigger) == 1 then q.rings = true end
        end
    end
end
q.drains = true
send_all(sends, ARGV[3])
finish()
return lost
