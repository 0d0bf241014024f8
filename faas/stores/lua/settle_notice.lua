-- Notes what became of an attempt to send a warning.
--
-- KEYS
--   1  faas:notices:due     zset  ids of warnings to be sent -> Unix ms when
--   2  faas:notices:{id}    hash  see post_notice.lua
-- ARGV
--   1  id   2  state   3  when to try again, Unix ms; '' not any more

if redis.call('EXISTS', KEYS[2]) == 0 then return end
redis.call('HSET', KEYS[2], 'state', ARGV[2])
if ARGV[3] == '' then
    redis.call('ZREM', KEYS[1], ARGV[1])
else
    redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
end
