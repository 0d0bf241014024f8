-- Forgets a function and its versions. Its version counter stays, so that no number is used twice.
--
-- KEYS
--   1  faas:functions              hash    "namespace/name" -> JSON of the latest version
--   2  faas:versions:{ns}/{name}   hash    version number -> JSON of that version
--   3  faas:blobrefs               hash    digest -> how many stored versions name it
--   4  faas:triggers:{ns}/{name}   hash    triggers that were added to it, and which of its triggers are paused
-- Keys made from what is stored
--   faas:blob:{digest}             string  expires once no version names it
-- ARGV
--   1  "namespace/name"   2  how long an unnamed blob is kept, ms   3  channel of changes
-- Returns 1, or 0 when there is no such function.

if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then
    return 0
end
for _, json in ipairs(redis.call('HVALS', KEYS[2])) do
    local version = cjson.decode(json)
    for _, digest in ipairs({version.bundle, version.lock}) do
        if digest ~= '' and redis.call('HINCRBY', KEYS[3], digest, -1) <= 0 then
            redis.call('HDEL', KEYS[3], digest)
            redis.call('PEXPIRE', 'faas:blob:' .. digest, ARGV[2])
        end
    end
end
redis.call('DEL', KEYS[2], KEYS[4])
redis.call('PUBLISH', ARGV[3], ARGV[1])
return 1
