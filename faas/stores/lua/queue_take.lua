-- Hands out batches, each under a lease, after looking after leases that ended and delays that are over.
--
-- KEYS: none are named; see queue.lua for all
-- ARGV
--   1  queue    2  trigger    3  node    4  name of the first batch, never used before; the next are "{name}-2"...
--   5  messages at most, of one batch    6  lease in ms    7  window in ms    8  how many batches of the trigger may be out
--   9  batches at most; where messages are few, all but the last are full
-- Returns a text, msgpack objects one after the other: ms until something may be there or -1, Unix ms, {messages of each
-- batch, ...}, record... Asked again with the same name, as after a lost answer, it returns what it did then.

local q = queue(ARGV[1], 'counts', 'open', 'leases', 'delayed', 'again', 'new')
local trigger, node, name, most = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local lease_ms, window_ms, at_once, batches = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local wait_ms = nil

local function wait_until(ms)
    local from_now_ms = math.max(1, ms - now_ms)
    if not wait_ms or from_now_ms < wait_ms then wait_ms = from_now_ms end
end

local function answer(records, sizes)
    finish()
    return pack(#records == 0 and wait_ms or -1, now_ms, sizes) .. table.concat(records)
end

local function name_of(number)
    return number == 1 and name or name .. '-' .. number
end

-- A batch whose lease has ended: its messages come again, one by one, before all others.
local function reclaim(batch)
    local owner, _, taken_ms, stream, entries = unpack(cmsgpack.unpack(call('HGET', q.open, batch)))
    for _, entry in ipairs(entries) do
        local record = entry and record_of(q, stream, entry)
        if record then
            local header, data = parts(record)
            header[TRIES] = header[TRIES] + 1
            if header[FIRST] == 0 then header[FIRST] = taken_ms end
            header[ERROR] = 'The lease ended: its node died, or took too long.'
            place(q, header, data, now_ms, true)
            count(q, 'expired', 1)
            remove(q, stream, {(entry_parts(entry))})
        end
    end
    close_batches(q, {batch}, owner)
end

local function promote(due)
    queue(q.name, 'data', 'old')
    local records = call('HMGET', q.data, unpack(due))
    call('HDEL', q.data, unpack(due))
    call('ZREM', q.delayed, unpack(due))
    for _, record in ipairs(records) do
        local _, header = unpack_one(record)
        add(q, header[TRIES] > 0 and 'again' or 'new', header, record, true)
    end
end

-- Entries of a stream that nobody has had yet.
local function read(stream, some)
    local found_some = call('XREADGROUP', 'GROUP', WORKERS, trigger, 'COUNT', some, 'STREAMS', q[stream], '>')
    return found_some and found_some[1][2] or {}
end

-- How many batches may be read, of so many that have room. 0: one that isn't full is to be waited for.
local function readable(room)
    if window_ms == 0 or most == 1 then return room end
    local info = group_info(q, 'new')
    local full = floor((q.size.new - info.pending) / most)
    if full > 0 then return math.min(full, room) end
    local oldest = call('XRANGE', q.new, '(' .. info['last-delivered-id'], '+', 'COUNT', 1)[1]
    if not oldest then return 0 end
    local full_ms = tonumber(string.match(oldest[1], '^%d+')) + window_ms
    if full_ms > now_ms then wait_until(full_ms) end
    return full_ms > now_ms and 0 or 1
end

-- What the same call had before, of which this is the first batch.
local function same_again(packed)
    local records, sizes = {}, {}
    while packed do
        local _, _, _, stream, entries = unpack(cmsgpack.unpack(packed))
        for _, entry in ipairs(entries) do records[#records + 1] = entry and record_of(q, stream, entry) end
        sizes[#sizes + 1] = #entries
        packed = call('HGET', q.open, name_of(#sizes + 1))
    end
    return answer(records, sizes)
end

local function hand_out(stream, entries)
    local records, sizes, open, leases = {}, {}, {}, {}
    for first = 1, #entries, most do
        local out = {}
        for i = first, math.min(first + most - 1, #entries) do
            local fields = entries[i][2]
            records[i] = fields[2]
            out[#out + 1] = fields[4] and {entries[i][1], unpack(cmsgpack.unpack(fields[4]))} or entries[i][1]
        end
        sizes[#sizes + 1] = #out
        local at, batch = 2 * #sizes - 1, name_of(#sizes)
        open[at], open[at + 1] = batch, pack({trigger, node, now_ms, stream, out})
        leases[at], leases[at + 1] = now_ms + lease_ms, batch
    end
    call('HSET', q.open, unpack(open))
    call('ZADD', q.leases, unpack(leases))
    call('HINCRBY', q.counts, 'out:' .. trigger, #sizes)
    return answer(records, sizes)
end

look('SCARD', 'faas:queues:busy')
if q.size.counts == 0 then
    if not string.find(q.name, '/@', 1, true) then found(q) end  -- a trigger names it
    return answer({}, {})
end
if q.size.open > 0 then
    local packed = call('HGET', q.open, name)
    if packed then return same_again(packed) end
    local ended = call('ZRANGEBYSCORE', q.leases, '-inf', now_ms, 'LIMIT', 0, STEP_MAX)
    if #ended > 0 then queue(q.name, 'data', 'old') end
    for _, batch in ipairs(ended) do reclaim(batch) end
end
if q.size.delayed > 0 then
    local due = call('ZRANGEBYSCORE', q.delayed, '-inf', now_ms, 'LIMIT', 0, STEP_MAX)
    if #due > 0 then promote(due) end
end

local next_lease = q.size.leases > 0 and call('ZRANGE', q.leases, 0, 0, 'WITHSCORES')[2]
if next_lease then wait_until(tonumber(next_lease)) end
local room = math.min(at_once - tonumber(call('HGET', q.counts, 'out:' .. trigger) or 0), batches)
if room <= 0 then
    call('HSET', q.counts, 'full:' .. trigger, 1)
    return answer({}, {})
end

local entries = q.size.again > 0 and read('again', 1) or {}
if #entries > 0 then return hand_out('again', entries) end
room = q.size.new > 0 and readable(room) or 0
if room > 0 then entries = read('new', room * most) end
if #entries > 0 then return hand_out('new', entries) end
local next_due = q.size.delayed > 0 and call('ZRANGE', q.delayed, 0, 0, 'WITHSCORES')[2]
if next_due then wait_until(tonumber(next_due)) end
return answer({}, {})
