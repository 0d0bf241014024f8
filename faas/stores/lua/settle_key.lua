-- Ends the claim on an idempotency key: keeps the answer, or lets go. Repeating it changes nothing.
--
-- KEYS
--   1  faas:once:NAMESPACE/FUNCTION:DIGEST   hash   see claim_key.lua
-- ARGV
--   1  digest of the request   2  owner   3  answer (msgpack), '' to let go   4  how long it is kept, ms
--   5  channel on which those who wait are told
--
-- Returns 1, or 0 when the key is somebody else's by now.

local owner, answered, waited = unpack(redis.call('HMGET', KEYS[1], 'owner', 'answer', 'waited'))
if owner and owner ~= ARGV[2] then
    return 0
end
if ARGV[3] ~= '' then
    redis.call('HSET', KEYS[1], 'request', ARGV[1], 'owner', ARGV[2], 'answer', ARGV[3])
    redis.call('HDEL', KEYS[1], 'waited')
    redis.call('PEXPIRE', KEYS[1], ARGV[4])
elseif not answered then
    redis.call('DEL', KEYS[1])
end
if waited then
    redis.call('PUBLISH', ARGV[5], '')
end
return 1
