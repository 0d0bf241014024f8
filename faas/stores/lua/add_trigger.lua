-- Adds a trigger to a function that exists.
--
-- KEYS
--   1  faas:functions              hash   "namespace/name" -> JSON of the latest version
--   2  faas:triggers:{ns}/{name}   hash   "added:ID" -> JSON of a trigger that was added by request
--                                         "paused:ID" -> "1" while that trigger, added or of the manifest, is paused
--                                         "since:ID" -> Unix ms at which it was added or last resumed
-- ARGV
--   1  "namespace/name"   2  ID   3  JSON   4  "1" if it begins paused   5  most fields   6  channel of changes
-- Returns 1; 0 when another was added under that ID; -1 without the function; -2 when there are too many.
-- Sending the same again changes nothing and answers as the first time did.

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
    return -1
end
local known = redis.call('HGET', KEYS[2], 'added:' .. ARGV[2])
if known then
    return known == ARGV[3] and 1 or 0
end
if redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[5]) then
    return -2
end
local time = redis.call('TIME')
redis.call('HSET', KEYS[2], 'added:' .. ARGV[2], ARGV[3])
redis.call('HSET', KEYS[2], 'since:' .. ARGV[2], string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
if ARGV[4] == '1' then
    redis.call('HSET', KEYS[2], 'paused:' .. ARGV[2], '1')
else
    redis.call('HDEL', KEYS[2], 'paused:' .. ARGV[2])
end
redis.call('PUBLISH', ARGV[6], ARGV[1])
return 1
