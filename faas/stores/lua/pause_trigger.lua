-- Pauses or resumes a trigger of a function that exists. It is announced only if that changes anything.
--
-- KEYS
--   1  faas:functions              hash   "namespace/name" -> JSON of the latest version
--   2  faas:triggers:{ns}/{name}   hash   see add_trigger.lua
-- ARGV
--   1  "namespace/name"   2  ID   3  "1" to resume, "0" to pause   4  most fields   5  channel of changes
-- Returns 1; -1 without the function; -2 when there are too many.

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
    return -1
end
local paused = redis.call('HEXISTS', KEYS[2], 'paused:' .. ARGV[2]) == 1
if paused == (ARGV[3] == '0') then
    return 1
end
if ARGV[3] == '1' then
    local time = redis.call('TIME')
    redis.call('HDEL', KEYS[2], 'paused:' .. ARGV[2])
    redis.call('HSET', KEYS[2], 'since:' .. ARGV[2], string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)))
elseif redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[4]) then
    return -2
else
    redis.call('HSET', KEYS[2], 'paused:' .. ARGV[2], '1')
end
redis.call('PUBLISH', ARGV[5], ARGV[1])
return 1
