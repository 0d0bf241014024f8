-- Says what became of messages that were handed out, and sends others in the same step.
--
-- KEYS: none are named; see queue.lua for all
-- ARGV
--   1  queue
--   2  outcomes: {{batch, place in it (from 1), "ack" | "again" | "release" | "bury" | "drop", delay in ms, words}, ...}
--   3  how long a dedup id is remembered, ms
--   4..  messages to send, as in queue_send.lua
-- Returns the places (from 0) of the outcomes for which nothing was done, because their message was no longer theirs.

local HIDDEN_LETTERS_MAX = 100  -- of a queue nobody can look into: what became of a call stands in its record

local q = queue(ARGV[1], 'counts', 'open', 'leases', 'new', 'old')
local batches, theirs, lost = {}, {}, {}

-- Its record, where more is to be done with the message than to forget it; reads all that will be written to.
local function read(batch, entry, verb)
    local _, group = entry_parts(entry)
    if not q.size[batch[4]] then queue(q.name, batch[4]) end
    if verb == 'ack' or verb == 'drop' then
        if group ~= '' then queue(q.name, 'groups', 'waiting', 'delayed', 'data') end
        return nil
    end
    queue(q.name, 'again', 'delayed', 'data', 'groups', 'waiting', 'dead', 'letters')
    return record_of(q, batch[4], entry)
end

look('SCARD', 'faas:queues:busy')
local sends = read_sends(4)
for i, outcome in ipairs(cmsgpack.unpack(ARGV[2])) do
    local name, at, verb = outcome[1], outcome[2], outcome[3]
    local batch = batches[name]
    if batch == nil then
        local packed = call('HGET', q.open, name)
        batch = packed and cmsgpack.unpack(packed)
        batches[name] = batch
    end
    local entry = batch and batch[5][at]
    if entry then
        theirs[#theirs + 1] = {outcome, batch, entry, read(batch, entry, verb)}
        batch[5][at] = false
    else
        lost[#lost + 1] = i - 1
    end
end
if #theirs == 0 then return lost end

local gone, forgotten = {new = {}, again = {}}, {}

local function bury(header, data, reason)
    local number = call('HINCRBY', q.counts, 'seq', 1)
    header[TRIES] = header[TRIES] + 1
    call('HSET', q.letters, header[ID], pack({now_ms, reason}) .. pack(header) .. data)
    call('ZADD', q.dead, number, header[ID])
    if not string.find(q.name, '/@', 1, true) then return end
    for _, id in ipairs(call('ZRANGE', q.dead, 0, -HIDDEN_LETTERS_MAX - 1)) do
        call('ZREM', q.dead, id)
        call('HDEL', q.letters, id)
    end
end

local function put_back(header, data, verb, delay_ms, words)
    if verb == 'again' then
        header[TRIES], header[ERROR] = header[TRIES] + 1, words
        count(q, 'retried', 1)
    end
    place(q, header, data, now_ms + delay_ms, true)
end

local function settle(outcome, batch, entry, record)
    local verb, delay_ms, words = outcome[3], outcome[4], outcome[5]
    local entry_id, group, old_id = entry_parts(entry)
    local gone_of = gone[batch[4]]
    gone_of[#gone_of + 1] = entry_id
    local header, data
    if record then
        header, data = parts(record)
        if header[FIRST] == 0 then header[FIRST] = batch[3] end
    end
    if verb == 'again' or verb == 'release' then
        put_back(header, data, verb, delay_ms, words)
        return
    end
    if verb == 'bury' then bury(header, data, words) end
    count(q, verb == 'ack' and 'acked' or verb == 'bury' and 'dead' or 'dropped', 1)
    if old_id ~= '' then forgotten[#forgotten + 1] = old_id end
    next_of(q, group)
end

for _, each in ipairs(theirs) do settle(unpack(each, 1, 4)) end
for stream, entry_ids in pairs(gone) do remove(q, stream, entry_ids) end
if #forgotten > 0 then call('ZREM', q.old, unpack(forgotten)) end

local closed = {}  -- trigger -> its batches of which everything is settled
for name, batch in pairs(batches) do
    local left = false
    for _, entry in ipairs(batch and batch[5] or {}) do left = left or entry end
    if left then
        call('HSET', q.open, name, pack(batch))
    elseif batch then
        local names = closed[batch[1]] or {}
        closed[batch[1]], names[#names + 1] = names, name
    end
end
for trigger, names in pairs(closed) do close_batches(q, names, trigger) end
q.drains = true
send_all(sends, ARGV[3])
finish()
return lost
