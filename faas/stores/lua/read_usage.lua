-- Reads the sums and the maxima of some hours. Writes nothing.
--
-- KEYS   faas:usage:{hour} or faas:peaks:{hour}   hash   see apply_usage.lua
-- Returns per key one msgpack array: field, value, field, value... One string per hour is much cheaper for the client to
-- take apart than thousands of replies.

local hours = {}
for i, key in ipairs(KEYS) do
    hours[i] = cmsgpack.pack(redis.call('HGETALL', key))
end
return hours
