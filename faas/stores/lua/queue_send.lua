-- Stores messages: all of them or none.
--
-- KEYS: none are named; see queue.lua for all
-- ARGV
--   1  how long a dedup id is remembered, ms
--   2..  of each message: queue, id, group, dedup id or "", delay in ms, data
-- Returns the ids under which they are known, in order.

look('SCARD', 'faas:queues:busy')
local sends = read_sends(2)
local ids = send_all(sends, ARGV[1])
finish()
return ids
