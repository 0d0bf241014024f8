-- Forgets what is said of a namespace that has no functions.
--
-- KEYS
--   1  faas:namespaces   hash   name -> JSON of the namespace
--   2  faas:functions    hash   "namespace/name" -> JSON of the latest version
-- ARGV
--   1  name   2  channel of changes
-- Returns 1, 0 when nothing is said of it, or -1 when it has functions.

local prefix = ARGV[1] .. '/'
for _, name in ipairs(redis.call('HKEYS', KEYS[2])) do
    if string.sub(name, 1, #prefix) == prefix then
        return -1
    end
end
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then
    return 0
end
redis.call('PUBLISH', ARGV[2], prefix)
return 1
