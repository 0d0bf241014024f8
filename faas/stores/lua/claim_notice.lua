-- Gives one warning that is due to who asks, and to nobody else for a while.
--
-- KEYS
--   1  faas:notices:due     zset  ids of warnings to be sent -> Unix ms when
-- Keys made from it: faas:notices:{id}   hash   see post_notice.lua
-- ARGV
--   1  now, Unix ms   2  until when nobody else gets it, Unix ms
-- Returns {id, namespace, body, tries}, or nothing.

for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])) do
    local key = 'faas:notices:' .. id
    local found = redis.call('HMGET', key, 'namespace', 'body')
    if found[1] then
        redis.call('ZADD', KEYS[1], ARGV[2], id)
        return {id, found[1], found[2], redis.call('HINCRBY', key, 'tries', 1)}
    end
    redis.call('ZREM', KEYS[1], id)  -- it has expired
end
return false
