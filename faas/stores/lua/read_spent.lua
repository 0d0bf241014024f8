-- What some namespaces used in some hours, and up to where in a journal that goes. Writes nothing.
--
-- KEYS
--   1  faas:journals      hash  journal name -> last sequence applied
--   2  faas:usage:hours   zset  hour number, scored by itself: hours that have sums
-- Keys made from the second: faas:usage:{hour}   hash   see apply_usage.lua
-- ARGV
--   1  journal name   2  first hour   3  the hour after the last   4...  namespaces
-- Returns the sequence ('' when nothing of that journal was applied), then per hour one msgpack array: field, value...

local wanted = {}
for i = 4, #ARGV do wanted[ARGV[i]] = true end
local answer = {redis.call('HGET', KEYS[1], ARGV[1]) or ''}
for _, hour in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[2], '(' .. ARGV[3])) do
    local all, found = redis.call('HGETALL', 'faas:usage:' .. hour), {}
    for i = 1, #all, 2 do
        if wanted[string.match(all[i], '^[^%z]*')] then
            found[#found + 1] = all[i]
            found[#found + 1] = all[i + 1]
        end
    end
    answer[#answer + 1] = cmsgpack.pack(found)
end
return answer
