-- Stores what is said of a namespace.
--
-- KEYS
--   1  faas:namespaces   hash   name -> JSON of the namespace
-- ARGV
--   1  name   2  JSON   3  "1": only if nothing is said of it yet   4  channel of changes
-- Returns 1 if it is new, 0 if it was changed, -1 if it was to be new and is not.

local known = redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1
if known and ARGV[3] == '1' then
    return -1
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PUBLISH', ARGV[4], ARGV[1] .. '/')
return known and 0 or 1
