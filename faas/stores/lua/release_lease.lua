-- Lets go of a lease, unless it is somebody else's by now.
--
-- KEYS
--   1  faas:lease:{name}   string   who holds it
-- ARGV
--   1  who asks

if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('DEL', KEYS[1])
end
