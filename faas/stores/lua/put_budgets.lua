-- Stores what is said of a namespace's budgets, or forgets it.
--
-- KEYS
--   1  faas:budgets   hash   namespace -> JSON of its budgets
-- ARGV
--   1  namespace   2  JSON, '' to forget   3  channel of changes

if ARGV[2] == '' then
    redis.call('HDEL', KEYS[1], ARGV[1])
else
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
redis.call('PUBLISH', ARGV[3], ARGV[1] .. '/')
