-- Deletes an API key.
--
-- KEYS
--   1  faas:keys      hash   SHA-256 of the secret -> JSON of the key
--   2  faas:keyids    hash   key id -> SHA-256 of its secret
-- ARGV
--   1  key id
-- Returns 1, or 0 when there is no such key.

local digest = redis.call('HGET', KEYS[2], ARGV[1])
if not digest then
    return 0
end
redis.call('HDEL', KEYS[1], digest)
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
