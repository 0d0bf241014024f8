-- Adds consecutive entries of one journal to the ledger, each exactly once.
--
-- KEYS
--   1  faas:journals          hash    journal name -> last sequence applied
--   2  faas:usage:hours       zset    hour number, scored by itself: hours that have sums
-- Keys made from the entries themselves
--   faas:usage:{hour}         hash    "namespace\0function\0version\0key\0trigger\0status\0start" -> msgpack array:
--                                     per metric (order of faas.metering.sums.METRICS) low, high; sum = high * 2^40 + low
--   faas:raw:{hour}           list    msgpack rows (faas.model.usage.FIELDS), one element per batch; expires
--   faas:inv:{ns}:{id}        string  the packed entry: row, then detail (faas.stores.codec); expires
--   faas:invs:{ns}:{function} zset    invocation id, scored by its start in Unix ms: the newest; expires
-- ARGV
--   1  journal name
--   2  sequence before the journal's first entry
--   3  sequence of the first entry in this batch
--   4  how long raw rows are kept, ms (0 = not at all)
--   5  how long invocation records are kept, ms (0 = not at all)
--   6  how many invocation records are kept per function (0 = none)
--   7  msgpack array of runs; run = {hour, packed entry, packed entry...}, all entries of a run in that hour
-- Returns {1, last sequence applied}, or {0, last sequence applied} when the batch would leave a gap.
--
-- Whatever can fail (unreadable bytes, a key of another type) is read before the first write: a batch is applied whole
-- or not at all.
--
-- Lua's numbers are doubles, exact below 2^53. One value is below 2^51, a batch's sum is carried at 2^52, and stored sums
-- are two limbs of 40 bits and more, so every addition here is exact. started_at_ns is larger: nothing exact is made of
-- it here, the hour comes from the caller.

local LIMB = 2 ^ 40
local CARRY = 2 ^ 52
local METRICS = 9
local CHUNK = 1000  -- arguments per call, below Lua's stack limit

-- Places in a row, from 1: the order of faas.model.usage.FIELDS
local ID, NAMESPACE, FUNCTION, VERSION, KEY, TRIGGER, STATUS, START, STARTED_NS = 1, 2, 3, 4, 5, 6, 7, 8, 9
local QUEUE_NS, INIT_NS, RUN_NS, BILLED_MS, MEMORY_MB = 10, 11, 12, 13, 14
local CPU_NS, BYTES_IN, BYTES_OUT, ATTEMPT = 16, 17, 18, 20

local journal, base, first = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local raw_ms, record_ms, records_max = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local last = tonumber(redis.call('HGET', KEYS[1], journal) or base)
if first > last + 1 then
    return {0, last}
end

local function add(sums, metric, value)
    local low = sums[2 * metric - 1] + value
    if low >= CARRY then
        local high = math.floor(low / LIMB)
        sums[2 * metric] = sums[2 * metric] + high
        low = low - high * LIMB
    end
    sums[2 * metric - 1] = low
end

local function empty()
    local sums = {}
    for i = 1, 2 * METRICS do sums[i] = 0 end
    return sums
end

local function in_chunks(values, call)
    for from = 1, #values, CHUNK do
        call(unpack(values, from, math.min(from + CHUNK - 1, #values)))
    end
end

-- Add to each group what is stored of it. Writes nothing.
local function add_stored(hour, groups)
    local key = 'faas:usage:' .. hour
    for group, sums in pairs(groups) do
        local stored = redis.call('HGET', key, group)
        if stored then
            local before = cmsgpack.unpack(stored)
            for metric = 1, math.floor(#before / 2) do
                add(sums, metric, before[2 * metric - 1])
                sums[2 * metric] = sums[2 * metric] + before[2 * metric]
            end
        end
    end
end

local function keep_sums(hour, groups)
    for group, sums in pairs(groups) do
        redis.call('HSET', 'faas:usage:' .. hour, group, cmsgpack.pack(sums))
    end
    redis.call('ZADD', KEYS[2], hour, hour)
end

local function keep_raw(hour, rows)
    local until_ms = (hour + 1) * 3600000 + raw_ms
    if until_ms > now_ms then
        local key = 'faas:raw:' .. hour
        redis.call('RPUSH', key, table.concat(rows))
        redis.call('PEXPIREAT', key, string.format('%.0f', until_ms))
    end
end

local function keep_record(record)
    if record.attempt > 1 then
        redis.call('SET', record.key, record.packed, 'PX', record_ms)
    else  -- an earlier attempt that arrives late does not replace a later one
        redis.call('SET', record.key, record.packed, 'PX', record_ms, 'NX')
    end
end

local function keep_index(index)
    in_chunks(index.members, function(...) redis.call('ZADD', index.key, ...) end)
    redis.call('ZREMRANGEBYSCORE', index.key, '-inf', string.format('(%.0f', now_ms - record_ms))
    redis.call('PEXPIRE', index.key, record_ms)
    local excess = redis.call('ZCARD', index.key) - records_max
    if excess > 0 then
        local popped, keys = redis.call('ZPOPMIN', index.key, excess), {}
        for i = 1, #popped, 2 do keys[#keys + 1] = index.prefix .. popped[i] end
        in_chunks(keys, function(...) redis.call('UNLINK', ...) end)
    end
end

local hours, raw, records, indexes = {}, {}, {}, {}

local function take_sums(hour, row)
    local groups = hours[hour]
    if not groups then
        groups, raw[hour] = {}, {}
        hours[hour] = groups
    end
    local group = table.concat(row, '\0', NAMESPACE, START)
    local sums = groups[group]
    if not sums then
        sums = empty()
        groups[group] = sums
    end
    add(sums, 1, 1)
    add(sums, 2, row[BILLED_MS])
    add(sums, 3, row[MEMORY_MB] * row[BILLED_MS])
    add(sums, 4, row[QUEUE_NS])
    add(sums, 5, row[INIT_NS])
    add(sums, 6, row[RUN_NS])
    add(sums, 7, row[CPU_NS])
    add(sums, 8, row[BYTES_IN])
    add(sums, 9, row[BYTES_OUT])
end

local function take_record(row, packed)
    local started_ms = math.floor(row[STARTED_NS] / 1e6)
    if started_ms + record_ms <= now_ms then return end
    local key = 'faas:invs:' .. row[NAMESPACE] .. ':' .. row[FUNCTION]
    local index = indexes[key]
    if not index then
        index = {key = key, prefix = 'faas:inv:' .. row[NAMESPACE] .. ':', members = {}}
        indexes[key] = index
    end
    local id = string.match(row[ID], '^(.*)%-%d+$') or row[ID]
    records[#records + 1] = {key = index.prefix .. id, packed = packed, attempt = row[ATTEMPT]}
    local members = index.members
    members[#members + 1] = string.format('%.0f', started_ms)
    members[#members + 1] = id
end

local sequence = first - 1
for _, run in ipairs(cmsgpack.unpack(ARGV[7])) do
    for i = 2, #run do
        sequence = sequence + 1
        if sequence > last then
            local packed = run[i]
            local length, row = cmsgpack.unpack_one(packed)
            take_sums(run[1], row)
            if raw_ms > 0 then
                local rows = raw[run[1]]
                rows[#rows + 1] = string.sub(packed, 1, length)
            end
            if record_ms > 0 and records_max > 0 then take_record(row, packed) end
        end
    end
end

if sequence > last then
    for hour, groups in pairs(hours) do add_stored(hour, groups) end
    redis.call('HSET', KEYS[1], journal, string.format('%.0f', sequence))
    for hour, groups in pairs(hours) do
        keep_sums(hour, groups)
        if raw_ms > 0 then keep_raw(hour, raw[hour]) end
    end
    for _, record in ipairs(records) do keep_record(record) end
    for _, index in pairs(indexes) do keep_index(index) end
    last = sequence
end
return {1, last}
