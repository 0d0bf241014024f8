-- Adds the sums of some hours up, and takes the largest of their maxima, by group. Writes nothing.
--
-- KEYS
--   1, 3, 5...  faas:usage:{hour}   hash   see apply_usage.lua
--   2, 4, 6...  faas:peaks:{hour}   hash   of the same hour
-- Returns {cells read, sums, maxima}: each a msgpack array of group, value, group, value... with values as they are
-- stored. One string is much cheaper for the client to take apart than thousands of replies.
--
-- Exact as in apply_usage.lua: a low limb is carried before it could reach 2^53. Cells of older writers have fewer
-- metrics, those of newer ones more.

local LIMB = 2 ^ 40
local CARRY = 2 ^ 52
local call, floor, unpack_struct = redis.call, math.floor, struct.unpack

local METRICS = 10
local PLAIN, PLAIN_BYTES = '>dddddddddd', 1 + 8 * METRICS  -- with one metric more all goes the longer way

local formats = {}
for count = 1, 100 do formats[count] = '>' .. string.rep('d', count) end

local lows, highs, stored_once, peaks, read = {}, {}, {}, {}, 0

-- Low limbs, high limbs (nil when all are 0)
local function limbs(stored)
    local metrics, doubles = string.byte(stored), (#stored - 1) / 8
    local low = {unpack_struct(formats[doubles], stored, 2)}
    low[doubles + 1] = nil  -- where the reading ended
    if doubles == metrics then return low, nil end
    local high = {}
    for i = 1, metrics do high[i], low[metrics + i] = low[metrics + i], nil end
    return low, high
end

-- Add cells that have no high limbs. Written out, because this is what a report costs. False when a sum would be carried.
local function add_plain(low, stored)
    local a, b, c, d, e, f, g, h, i, j = unpack_struct(PLAIN, stored, 2)
    a, b, c, d, e = a + low[1], b + low[2], c + low[3], d + low[4], e + low[5]
    f, g, h, i, j = f + low[6], g + low[7], h + low[8], i + low[9], j + low[10]
    if a >= CARRY or b >= CARRY or c >= CARRY or d >= CARRY or e >= CARRY or f >= CARRY or g >= CARRY or h >= CARRY
        or i >= CARRY or j >= CARRY then
        return false
    end
    low[1], low[2], low[3], low[4], low[5], low[6], low[7], low[8], low[9], low[10] = a, b, c, d, e, f, g, h, i, j
    return true
end

local function add(group, stored)
    local low, high = lows[group], highs[group]
    if not low then
        low, high = limbs(stored_once[group])
        high = high or {}
        lows[group], highs[group] = low, high
    end
    local plain = #stored == PLAIN_BYTES and string.byte(stored) == METRICS and low[METRICS]
    if plain and add_plain(low, stored) then return end
    local more, more_high = limbs(stored)
    for i = 1, #more do
        local sum = (low[i] or 0) + more[i]
        local over = more_high and more_high[i] or 0
        if sum >= CARRY then
            local carried = floor(sum / LIMB)
            sum, over = sum - carried * LIMB, over + carried
        end
        low[i] = sum
        if over > 0 then high[i] = (high[i] or 0) + over end
    end
end

local function packed(group, stored)
    local low, high = lows[group], highs[group]
    if not low then return stored end  -- of one hour alone
    local count, doubles = #low, #low
    if next(high) then
        for i = 1, count do low[count + i] = high[i] or 0 end
        doubles = 2 * count
    end
    return string.char(count) .. struct.pack(formats[doubles], unpack(low))
end

for hour = 1, #KEYS, 2 do
    local cells = call('HGETALL', KEYS[hour])
    for i = 1, #cells, 2 do
        if stored_once[cells[i]] then add(cells[i], cells[i + 1]) else stored_once[cells[i]] = cells[i + 1] end
    end
    read = read + #cells / 2
    cells = call('HGETALL', KEYS[hour + 1])
    for i = 1, #cells, 2 do
        local peak = peaks[cells[i]]
        if not peak then
            peaks[cells[i]] = cells[i + 1]
        elseif peak ~= cells[i + 1] then
            local bytes, memory_mb = unpack_struct('>dd', peak)
            local other_bytes, other_mb = unpack_struct('>dd', cells[i + 1])
            peaks[cells[i]] = struct.pack('>dd', math.max(bytes, other_bytes), math.max(memory_mb, other_mb))
        end
    end
end

local sums, maxima = {}, {}
for group, stored in pairs(stored_once) do
    sums[#sums + 1] = group
    sums[#sums + 1] = packed(group, stored)
end
for group, stored in pairs(peaks) do
    maxima[#maxima + 1] = group
    maxima[#maxima + 1] = stored
end
return {read, cmsgpack.pack(sums), cmsgpack.pack(maxima)}
