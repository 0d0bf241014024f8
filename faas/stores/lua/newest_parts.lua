-- Reads the parts of one function backwards, some at a time. Writes nothing.
--
-- KEYS
--   1  faas:parts:hours   zset  see apply_usage.lua, also for faas:parts:{hour}:{namespace}:{function}
-- ARGV
--   1  "namespace:function"
--   2  hour to go on in ("+inf" = the newest)
--   3  index in that hour's list before which to read (-1 = its end)
--   4  how many parts
-- Returns {hour, index of the first part, part, part...}, of one hour; nothing when there is no more.

local name, from, before, count = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
for _, hour in ipairs(redis.call('ZRANGE', KEYS[1], from, '-inf', 'BYSCORE', 'REV')) do
    local key = 'faas:parts:' .. hour .. ':' .. name
    local stop = redis.call('LLEN', key)
    if hour == from and before >= 0 then stop = math.min(stop, before) end
    if stop > 0 then
        local first = math.max(0, stop - count)
        return {tonumber(hour), first, unpack(redis.call('LRANGE', key, first, stop - 1))}
    end
end
return {}
