-- Has a warning sent, unless one with its id was posted before.
--
-- KEYS
--   1  faas:notices:due     zset  ids of warnings to be sent -> Unix ms when
--   2  faas:notices:{id}    hash  namespace, body, state (due | sent | failed), tries
-- ARGV
--   1  id   2  namespace   3  body   4  now, Unix ms   5  how long it is remembered, ms
-- Returns 1 if it is new, else 0.

if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('HSET', KEYS[2], 'namespace', ARGV[2], 'body', ARGV[3], 'state', 'due', 'tries', 0)
redis.call('PEXPIRE', KEYS[2], ARGV[5])
redis.call('ZADD', KEYS[1], ARGV[4], ARGV[1])
return 1
