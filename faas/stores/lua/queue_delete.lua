-- Forgets a queue and all it holds. What was out is nobody's any more.
--
-- KEYS: none are named; see queue.lua for all
-- ARGV
--   1  queue
-- Returns 1, or 0 when there was none. Its dedup keys expire; without its name for this life they say nothing.

local q = queue(ARGV[1], unpack(PARTS))
local namespace, name = string.match(q.name, '^(.-)/(.*)$')
look('SCARD', 'faas:queues:busy')
look('SCARD', 'faas:queues:' .. namespace)
for _, part in ipairs(PARTS) do call('UNLINK', q[part]) end
call('UNLINK', ids_key(q, 0), ids_key(q, 1))
call('SREM', 'faas:queues:busy', q.name)
call('SREM', 'faas:queues:' .. namespace, name)
return q.size.counts > 0 and 1 or 0
