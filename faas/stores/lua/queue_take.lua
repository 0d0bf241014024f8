-- Hands out a batch under a lease, after looking after leases that ended and delays that are over.
--
-- KEYS: none are named; see queue.lua for all
-- ARGV
--   1  queue    2  trigger    3  node    4  name of the batch, never used before
--   5  messages at most    6  lease in ms    7  window in ms    8  how many batches of the trigger may be out
-- Returns a text, msgpack objects one after the other: ms until something may be there or -1, Unix ms, record... Asked
-- again with the same name, as after a lost answer, it returns what it did then.

local q = queue(ARGV[1], 'counts', 'open', 'leases', 'delayed', 'again', 'new')
local trigger, node, name, most = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local lease_ms, window_ms, at_once = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local wait_ms = nil

local function wait_until(ms)
    local from_now_ms = math.max(1, ms - now_ms)
    if not wait_ms or from_now_ms < wait_ms then wait_ms = from_now_ms end
end

local function answer(records)
    finish()
    return pack(#records == 0 and wait_ms or -1, now_ms) .. table.concat(records)
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
    close_batch(q, batch, owner)
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

-- Whether a batch that isn't full is to be waited for.
local function is_filling()
    if window_ms == 0 or most == 1 then return false end
    local info = group_info(q, 'new')
    if q.size.new - info.pending >= most then return false end
    local oldest = call('XRANGE', q.new, '(' .. info['last-delivered-id'], '+', 'COUNT', 1)[1]
    if not oldest then return false end
    local full_ms = tonumber(string.match(oldest[1], '^%d+')) + window_ms
    if full_ms > now_ms then wait_until(full_ms) end
    return full_ms > now_ms
end

-- What the same call had before.
local function same_again(packed)
    local _, _, _, stream, entries = unpack(cmsgpack.unpack(packed))
    local records = {}
    for _, entry in ipairs(entries) do records[#records + 1] = entry and record_of(q, stream, entry) end
    return answer(records)
end

local function hand_out(stream, entries)
    local records, out = {}, {}
    for i, entry in ipairs(entries) do
        local fields = entry[2]
        records[i], out[i] = fields[2], entry[1]
        if fields[4] then out[i] = {entry[1], unpack(cmsgpack.unpack(fields[4]))} end
    end
    call('HSET', q.open, name, pack({trigger, node, now_ms, stream, out}))
    call('ZADD', q.leases, now_ms + lease_ms, name)
    call('HINCRBY', q.counts, 'out:' .. trigger, 1)
    return records
end

look('SCARD', 'faas:queues:busy')
if q.size.counts == 0 then
    if not string.find(q.name, '/@', 1, true) then found(q) end  -- a trigger names it
    return answer({})
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
if tonumber(call('HGET', q.counts, 'out:' .. trigger) or 0) >= at_once then
    call('HSET', q.counts, 'full:' .. trigger, 1)
    return answer({})
end

local stream, entries = 'again', {}
if q.size.again > 0 then entries = read('again', 1) end
if #entries == 0 and q.size.new > 0 and not is_filling() then stream, entries = 'new', read('new', most) end
if #entries > 0 then return answer(hand_out(stream, entries)) end
local next_due = q.size.delayed > 0 and call('ZRANGE', q.delayed, 0, 0, 'WITHSCORES')[2]
if next_due then wait_until(tonumber(next_due)) end
return answer({})
