-- Forgets a trigger that was added by request.
--
-- KEYS
--   1  faas:triggers:{ns}/{name}   hash   see add_trigger.lua
-- ARGV
--   1  "namespace/name"   2  ID   3  channel of changes
-- Returns 1, or 0 when none was added under that ID.

if redis.call('HDEL', KEYS[1], 'added:' .. ARGV[2]) == 0 then
    return 0
end
redis.call('HDEL', KEYS[1], 'paused:' .. ARGV[2], 'since:' .. ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[1])
return 1
