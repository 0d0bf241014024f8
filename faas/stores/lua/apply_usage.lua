-- Adds consecutive entries of one journal to the ledger, each exactly once.
--
-- KEYS
--   1  faas:journals      hash  journal name -> last sequence applied
--   2  faas:usage:hours   zset  hour number, scored by itself: hours that have sums
--   3  faas:parts:hours   zset  the same: hours that have parts
--   4  faas:usage:changes hash  day since 1970 -> how often sums of it were changed
-- Keys made from the entries themselves; all but the first two expire
--   faas:usage:{hour}     hash  group ("namespace\0function\0version\0key\0trigger\0status\0start", of attempts after the
--                               first "\0retry" after it) -> sums, see below
--   faas:peaks:{hour}     hash  group -> two big-endian doubles, the largest so far: peak_memory_bytes, memory_mb
--   faas:parts:{hour}     hash  "namespace:function" -> Unix ms before which all began that its list has
--   faas:parts:{hour}:{namespace}:{function}
--                         list  parts (faas.stores.codec): attempts that began in that hour, in the order they came
--   faas:partial:{hour}   string  "1": some of what the hour's sums are of is not in its lists, because it came when
--                         parts were not kept, or no longer, and others were or are: they cannot be compared
--   faas:ids:{span}       list  where the invocations are whose ids were made in that span, SPAN_MS long: pointers,
--                               u32 hour | u32 index of the part | u16 first, u16 last ms in the span | list's name
-- ARGV
--   1  journal name
--   2  sequence before the journal's first entry
--   3  how long parts are kept after the end of their hour, ms (0 = not at all)
--   4  frames of the batch (faas.stores.segments)
-- Returns {1, last sequence applied}, or {0, last sequence applied} when the batch would leave a gap.
--
-- Whatever can fail (unreadable bytes, a key of another type) is read before the first write: a batch is applied whole
-- or not at all.
--
-- Sums are stored as a byte, how many metrics there are, and big-endian doubles: for each of faas.metering.sums.METRICS
-- the low limb, and after those the high limbs unless all are 0. sum = high * 2^40 + low. Doubles are exact below 2^53;
-- one value is below 2^51 and a low limb is carried at 2^52, so every addition here is exact. started_at_ns is larger:
-- nothing exact is made of it here, the hour is in the context.

local LIMB = 2 ^ 40
local CARRY = 2 ^ 52
local METRICS = 10
local CHUNK = 1000  -- arguments per call, below Lua's stack limit
local HOUR_MS = 3600000
local SPAN_MS = 2 ^ 14
local SPARE_MS = 60000  -- that a list outlives what leads to it

-- A frame as far as the time in the invocation's id: length of the entry, sequence, context, ms; the CRC is the disk's
local FRAME, HEAD_BYTES = '>I4xxxxI8I2c0xxxI6', 16

local journal, base, keep_ms, frames = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local last = tonumber(redis.call('HGET', KEYS[1], journal) or base)

local START = '^' .. string.rep('%Z*%z', 6) .. '(%Z*)'  -- where a group says how the instance came to be

local contexts = {}  -- packed context -> what the batch has of it
local hours = {}     -- hour -> groups: group -> sums; peaks: group -> maxima; lists: "namespace:function" -> its contexts
local spans = {}     -- span -> pointers

local call, floor, sub = redis.call, math.floor, string.sub
local unpack_frame, unpack_row = struct.unpack, cmsgpack.unpack_limit

-- Call a command with a key and arguments, however many; returns the last answer.
local function in_chunks(command, key, arguments)
    local answer
    for from = 1, #arguments, CHUNK do
        answer = call(command, key, unpack(arguments, from, math.min(from + CHUNK - 1, #arguments)))
    end
    return answer
end

-- -- sums: low limbs, and after them either all high limbs or none ------------------------------------------------------

local function widen(sums)
    if #sums == METRICS then
        for i = METRICS + 1, 2 * METRICS do sums[i] = 0 end
    end
end

local function carry(sums, metric, low)
    widen(sums)
    local high = floor(low / LIMB)
    sums[METRICS + metric] = sums[METRICS + metric] + high
    sums[metric] = low - high * LIMB
end

local function add_stored(sums, stored)
    local metrics, doubles = string.byte(stored), (#stored - 1) / 8  -- an older writer had fewer metrics
    if metrics > METRICS then error('the sums are of a newer version') end
    local before = {struct.unpack('>' .. string.rep('d', doubles), stored, 2)}
    if doubles > metrics then widen(sums) end
    for metric = 1, metrics do
        local low = sums[metric] + before[metric]
        if low < CARRY then sums[metric] = low else carry(sums, metric, low) end
        if doubles > metrics then
            sums[METRICS + metric] = sums[METRICS + metric] + before[metrics + metric]
        end
    end
end

local function pack_sums(sums)
    return struct.pack('>B' .. string.rep('d', #sums), METRICS, unpack(sums))
end

-- -- taking the batch apart ---------------------------------------------------------------------------------------------

local function new_context(packed)
    local _, number, group, memory_mb = unpack_row(packed, 3, 1)
    local hour = hours[number]
    if not hour then
        hour = {groups = {}, peaks = {}, lists = {}, until_ms = (number + 1) * HOUR_MS + keep_ms}
        hours[number] = hour
    end
    local sums = hour.groups[group]
    if not sums then
        sums = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
        hour.groups[group] = sums
        hour.peaks[group] = {0, memory_mb}
    end
    local peak = hour.peaks[group]
    peak[2] = math.max(peak[2], memory_mb)
    local context = {packed = packed, memory_mb = memory_mb, sums = sums, count = 0, rows = {}, newest_ns = 0, times = {}}
    context.peak = peak
    local start = string.match(group, START)
    context.starts = start == 'cold' or start == 'prewarmed'
    if keep_ms > 0 and hour.until_ms > now_ms then
        local namespace, name = string.match(group, '^(%Z*)%z(%Z*)%z')
        local list = namespace .. ':' .. name
        hour.lists[list] = hour.lists[list] or {}
        table.insert(hour.lists[list], context)
    else
        hour.is_unkept = true
    end
    contexts[packed] = context
    return context
end

-- Add the entry whose row is between two places. Written out, because this is what a batch costs.
local function take(context, row, after, made_ms)
    local _, started_ns, queue_ns, init_ns, run_ns, billed_ms, cpu_ns, bytes_in, bytes_out, peak_bytes =
        unpack_row(frames, 9, row + 18)
    local sums, low = context.sums, nil
    sums[1] = sums[1] + 1
    low = sums[2] + billed_ms
    if low < CARRY then sums[2] = low else carry(sums, 2, low) end
    low = sums[3] + context.memory_mb * billed_ms
    if low < CARRY then sums[3] = low else carry(sums, 3, low) end
    low = sums[4] + queue_ns
    if low < CARRY then sums[4] = low else carry(sums, 4, low) end
    low = sums[5] + init_ns
    if low < CARRY then sums[5] = low else carry(sums, 5, low) end
    low = sums[6] + run_ns
    if low < CARRY then sums[6] = low else carry(sums, 6, low) end
    low = sums[7] + cpu_ns
    if low < CARRY then sums[7] = low else carry(sums, 7, low) end
    low = sums[8] + bytes_in
    if low < CARRY then sums[8] = low else carry(sums, 8, low) end
    low = sums[9] + bytes_out
    if low < CARRY then sums[9] = low else carry(sums, 9, low) end
    if context.starts and billed_ms > 0 then  -- see faas.metering.meter.init_part_ms
        local rest_ms = math.max(1, math.min(math.ceil(run_ns / 1e6), billed_ms - floor(init_ns / 1e6)))
        low = sums[10] + context.memory_mb * (billed_ms - rest_ms)
        if low < CARRY then sums[10] = low else carry(sums, 10, low) end
    end

    local peak = context.peak
    if peak_bytes > peak[1] then peak[1] = peak_bytes end

    local count, begin_ms = context.count + 1, made_ms - made_ms % SPAN_MS
    context.count = count
    context.rows[count] = sub(frames, row, after - 1)
    if started_ns > context.newest_ns then context.newest_ns = started_ns end
    local times = context.times[begin_ms]
    if not times then
        context.times[begin_ms] = {made_ms, made_ms}
    elseif made_ms > times[2] then
        times[2] = made_ms
    elseif made_ms < times[1] then
        times[1] = made_ms
    end
end

-- Sequence of the last entry, or nothing where the batch would leave a gap.
local function take_all()
    local at, sequence = 1, nil
    while at <= #frames do
        local length, number, packed, made_ms, in_id = unpack_frame(FRAME, frames, at)
        if not sequence and number > last + 1 then return nil end
        if sequence and number ~= sequence + 1 then error('entry ' .. number .. ' follows entry ' .. sequence) end
        sequence, at = number, at + HEAD_BYTES + length
        if number > last then take(contexts[packed] or new_context(packed), in_id - 9, at, made_ms) end
    end
    return sequence
end

-- -- what is there already; writes nothing, and fails where a key is of another type ------------------------------------

-- The names of things, and what a hash has stored under each.
local function fetch(key, things)
    local names, values = {}, {}
    for name in pairs(things) do names[#names + 1] = name end
    for from = 1, #names, CHUNK do
        local some = call('HMGET', key, unpack(names, from, math.min(from + CHUNK - 1, #names)))
        for i = 1, #some do values[from + i - 1] = some[i] end
    end
    return names, values
end

local function read_hour(number, hour)
    local names, values = fetch('faas:usage:' .. number, hour.groups)
    for i, name in ipairs(names) do
        if values[i] then add_stored(hour.groups[name], values[i]) end
    end
    names, values = fetch('faas:peaks:' .. number, hour.peaks)
    for i, name in ipairs(names) do
        local peak = hour.peaks[name]
        local bytes, memory_mb = -1, -1
        if values[i] then bytes, memory_mb = struct.unpack('>dd', values[i]) end
        if peak[1] <= bytes and peak[2] <= memory_mb then
            hour.peaks[name] = nil  -- as it is stored already
        else
            hour.peaks[name] = {math.max(peak[1], bytes), math.max(peak[2], memory_mb)}
        end
    end
    hour.key = 'faas:parts:' .. number
    names, values = fetch(hour.key, hour.lists)
    hour.has_sums = call('ZSCORE', KEYS[2], number)
    call('HGET', KEYS[4], floor(number / 24))
    if hour.is_unkept then
        if call('EXISTS', hour.key) == 1 then hour.partial_until_ms = call('PEXPIRETIME', hour.key) end
        hour.has_parts = true  -- or needs none
    else
        hour.has_parts = call('EXISTS', hour.key) == 1
        if not hour.has_parts then
            call('ZCARD', KEYS[3])
            if hour.has_sums then hour.partial_until_ms = hour.until_ms end
        end
    end
    for i, name in ipairs(names) do
        local list = hour.lists[name]
        list.key, list.before_ms = hour.key .. ':' .. name, tonumber(values[i] or 0)
        if not values[i] then call('LLEN', list.key) end
        for _, context in ipairs(list) do
            for begin_ms in pairs(context.times) do spans[begin_ms] = spans[begin_ms] or {until_ms = 0} end
        end
    end
end

local function read_spans()
    for begin_ms, span in pairs(spans) do
        span.key = 'faas:ids:' .. begin_ms / SPAN_MS
        span.is_new = call('LLEN', span.key) == 0
    end
end

-- -- writing ------------------------------------------------------------------------------------------------------------

local function keep_parts(number, name, list, until_ms)
    local parts = {}
    for i, context in ipairs(list) do
        parts[i] = cmsgpack.pack(list.before_ms) .. context.packed .. table.concat(context.rows)
        list.before_ms = math.max(list.before_ms, floor(context.newest_ns / 1e6) + 1)
    end
    local index = in_chunks('RPUSH', list.key, parts) - #parts
    if index == 0 then call('PEXPIREAT', list.key, until_ms + SPARE_MS) end
    for i, context in ipairs(list) do
        for begin_ms, times in pairs(context.times) do
            local span, from, to = spans[begin_ms], times[1] - begin_ms, times[2] - begin_ms
            span[#span + 1] = struct.pack('>I4I4I2I2', number, index + i - 1, from, to) .. name
            span.until_ms = math.max(span.until_ms, until_ms)
        end
    end
end

local function keep_hour(number, hour)
    local changed = {}
    for name, sums in pairs(hour.groups) do
        changed[#changed + 1] = name
        changed[#changed + 1] = pack_sums(sums)
    end
    in_chunks('HSET', 'faas:usage:' .. number, changed)
    changed = {}
    for name, peak in pairs(hour.peaks) do
        changed[#changed + 1] = name
        changed[#changed + 1] = struct.pack('>dd', peak[1], peak[2])
    end
    in_chunks('HSET', 'faas:peaks:' .. number, changed)
    if not hour.has_sums then call('ZADD', KEYS[2], number, number) end
    call('HINCRBY', KEYS[4], floor(number / 24), 1)
    if hour.partial_until_ms then
        call('SET', 'faas:partial:' .. number, 1, 'PXAT', hour.partial_until_ms + SPARE_MS)
    end
    changed = {}
    for name, list in pairs(hour.lists) do
        keep_parts(number, name, list, hour.until_ms)
        changed[#changed + 1] = name
        changed[#changed + 1] = list.before_ms
    end
    in_chunks('HSET', hour.key, changed)
    if not hour.has_parts then
        call('PEXPIREAT', hour.key, hour.until_ms)
        call('ZADD', KEYS[3], number, number)
        call('ZREMRANGEBYSCORE', KEYS[3], '-inf', floor((now_ms - keep_ms) / HOUR_MS) - 1)
    end
end

local function keep_spans()
    for _, span in pairs(spans) do
        in_chunks('RPUSH', span.key, span)
        if span.is_new then
            call('PEXPIREAT', span.key, span.until_ms)
        else
            call('PEXPIREAT', span.key, span.until_ms, 'GT')
        end
    end
end

local sequence = take_all()
if not sequence then return {0, last} end
if sequence > last then
    for number, hour in pairs(hours) do read_hour(number, hour) end
    read_spans()
    call('HSET', KEYS[1], journal, sequence)
    for number, hour in pairs(hours) do keep_hour(number, hour) end
    keep_spans()
    last = sequence
end
return {1, last}
