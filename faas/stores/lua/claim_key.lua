-- Claims an idempotency key for one request, prolongs that claim, or says why not.
--
-- KEYS
--   1  faas:once:NAMESPACE/FUNCTION:DIGEST   hash   request, owner; answer (msgpack) once there is one;
--                                                   waited = 1 when somebody waits for it. Expires with the claim,
--                                                   then with the answer.
-- ARGV
--   1  digest of the request   2  owner   3  how long the claim holds, ms
--
-- Returns {'ours'}, {'theirs'}, {'other'} or {'answered', answer}.

local request, owner, answer = unpack(redis.call('HMGET', KEYS[1], 'request', 'owner', 'answer'))
if not request then
    redis.call('HSET', KEYS[1], 'request', ARGV[1], 'owner', ARGV[2])
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
    return {'ours'}
end
if request ~= ARGV[1] then
    return {'other'}
end
if answer then
    return {'answered', answer}
end
if owner == ARGV[2] then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
    return {'ours'}
end
redis.call('HSET', KEYS[1], 'waited', 1)
return {'theirs'}
