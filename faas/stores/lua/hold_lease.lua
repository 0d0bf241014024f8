-- Takes or renews a lease that nobody else holds.
--
-- KEYS
--   1  faas:lease:{name}   string   who holds it; expires with the lease
-- ARGV
--   1  who asks   2  for how long, ms
-- Returns 1 when it is the asker's now, else 0.

local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then
    return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
