-- Stores an API key.
--
-- KEYS
--   1  faas:keys      hash   SHA-256 of the secret -> JSON of the key (id, namespace, scopes, created_at_ms)
--   2  faas:keyids    hash   key id -> SHA-256 of its secret
-- ARGV
--   1  SHA-256 of the secret   2  JSON   3  key id   4  "1" = only when no key with the scope "admin" exists
-- Returns 1 when the key is stored (also when this very key was before), else 0.

if ARGV[4] == '1' and redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
    for _, json in ipairs(redis.call('HVALS', KEYS[1])) do
        for _, scope in ipairs(cjson.decode(json).scopes) do
            if scope == 'admin' then return 0 end
        end
    end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[1])
return 1
