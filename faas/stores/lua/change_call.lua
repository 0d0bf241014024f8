-- One step of an asynchronous call's life, if it may be taken from where the call is.
--
-- KEYS
--   1  faas:call:{namespace}/{id}               hash  the call: see faas/stores/calls.py
-- and, by the call's function
--      faas:calls:{namespace}/{function}:open      zset  ids of calls that have not ended -> created, Unix ms
--      faas:calls:{namespace}/{function}:ended     list  ids of calls that have ended, oldest first
--      faas:calls:{namespace}/{function}:results   list  "{id} {bytes}" of those with a result, oldest first
--      faas:calls:{namespace}/{function}:bytes     string  of these results together
-- ARGV
--   1  step: accept | begin | release | retry | succeed | fail | cancel
--   2  namespace   3  id   4  function ('' where the call is known)
--   5  how long it is kept, ms   6  ended calls kept of a function   7  bytes of results kept of a function
--   8.. field, value, ...
-- Returns the call's status before ('' = unknown) and after.
-- Publishes "{namespace}/{id}" on faas:calls:ended, and on faas:calls:cancelled, when that is what happened.

local STEPS = {
    accept = { to = 'queued', from = { [''] = true } },
    begin = { to = 'running', from = { [''] = true, queued = true, retrying = true, running = true } },
    release = { to = 'queued', from = { running = true } },
    retry = { to = 'retrying', from = { running = true } },
    succeed = { to = 'succeeded', from = { running = true, queued = true, retrying = true } },
    fail = { to = 'failed', from = { [''] = true, running = true, queued = true, retrying = true } },
    cancel = { to = 'cancelled', from = { running = true, queued = true, retrying = true } },
}
local FINAL = { succeeded = true, failed = true, cancelled = true }

local key, step = KEYS[1], STEPS[ARGV[1]]
local namespace, id, keep = ARGV[2], ARGV[3], ARGV[5]
local before = redis.call('HGET', key, 'status') or ''
if not step.from[before] then return { before, before } end

local fields = {}
for i = 8, #ARGV do fields[#fields + 1] = ARGV[i] end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local f = ARGV[4]
if f == '' then f = redis.call('HGET', key, 'function') end
local own = 'faas:calls:' .. namespace .. '/' .. f

if redis.call('HSETNX', key, 'created_at_ms', now) == 1 then redis.call('HSET', key, 'function', f) end
redis.call('HSET', key, 'status', step.to, unpack(fields))
if ARGV[1] == 'begin' then
    redis.call('HSET', key, 'started_at_ms', now)
    redis.call('HDEL', key, 'retry_at_ms')
elseif ARGV[1] == 'retry' then
    redis.call('HINCRBY', key, 'retry_at_ms', now)
end
redis.call('PEXPIRE', key, keep)

if not FINAL[step.to] then
    redis.call('ZADD', own .. ':open', redis.call('HGET', key, 'created_at_ms'), id)
    redis.call('ZREMRANGEBYSCORE', own .. ':open', '-inf', now - 2 * keep)
    redis.call('PEXPIRE', own .. ':open', keep)
    return { before, step.to }
end

redis.call('HSET', key, 'ended_at_ms', now)
redis.call('ZREM', own .. ':open', id)
redis.call('RPUSH', own .. ':ended', id)
redis.call('PEXPIRE', own .. ':ended', keep)
local spare = redis.call('LLEN', own .. ':ended') - tonumber(ARGV[6])
if spare > 0 then
    for _, old in ipairs(redis.call('LPOP', own .. ':ended', spare)) do
        redis.call('DEL', 'faas:call:' .. namespace .. '/' .. old)
    end
end
local size = redis.call('HSTRLEN', key, 'response')
if size > 0 then
    redis.call('RPUSH', own .. ':results', id .. ' ' .. size)
    local bytes = redis.call('INCRBY', own .. ':bytes', size)
    while bytes > tonumber(ARGV[7]) do
        local oldest = redis.call('LPOP', own .. ':results')
        if not oldest then break end
        local old, length = oldest:match('^(%S+) (%d+)$')
        bytes = redis.call('DECRBY', own .. ':bytes', length)
        local record = 'faas:call:' .. namespace .. '/' .. old
        if redis.call('HDEL', record, 'response') == 1 then redis.call('HSET', record, 'given_up', 1) end
    end
    redis.call('PEXPIRE', own .. ':results', keep)
    redis.call('PEXPIRE', own .. ':bytes', keep)
end
redis.call('PUBLISH', 'faas:calls:ended', namespace .. '/' .. id)
if step.to == 'cancelled' then redis.call('PUBLISH', 'faas:calls:cancelled', namespace .. '/' .. id) end
return { before, step.to }
