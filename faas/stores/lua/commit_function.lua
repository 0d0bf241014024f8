-- Makes a function version the latest, if its number is the next one.
--
-- KEYS
--   1  faas:functions              hash    "namespace/name" -> JSON of the latest version
--   2  faas:versions:{ns}/{name}   hash    version number -> JSON of that version
--   3  faas:counters               hash    "namespace/name" -> highest version number ever used; outlives the function
--   4  faas:blobrefs               hash    digest -> how many stored versions name it
--   5  faas:blob:{digest}          string  the bundle
--   6  faas:blob:{digest}          string  the lock; same as 5 when there is none
-- ARGV
--   1  "namespace/name"   2  version number   3  JSON   4  bundle digest   5  lock digest or ""   6  channel of changes
-- Returns {1, version} when it was a new function, {0, version} when not, {-1, next version} when the number is another.
-- Sending the same commit again changes nothing and answers as the first time did (unless a later one came between).

local function_key, number, json = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local used = tonumber(redis.call('HGET', KEYS[3], function_key) or 0)
local exists = redis.call('HEXISTS', KEYS[1], function_key) == 1

if number == used and exists and redis.call('HGET', KEYS[2], ARGV[2]) == json then
    return {redis.call('HLEN', KEYS[2]) == 1 and 1 or 0, number}
end
if number ~= used + 1 then
    return {-1, used + 1}
end

redis.call('HSET', KEYS[2], ARGV[2], json)
redis.call('HSET', KEYS[1], function_key, json)
redis.call('HSET', KEYS[3], function_key, ARGV[2])
for i = 4, 5 do
    if ARGV[i] ~= '' then
        redis.call('HINCRBY', KEYS[4], ARGV[i], 1)
        redis.call('PERSIST', KEYS[i + 1])
    end
end
redis.call('PUBLISH', ARGV[6], function_key)
return {exists and 0 or 1, number}
