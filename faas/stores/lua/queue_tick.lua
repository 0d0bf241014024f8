-- Sends what a schedule is due, if no node did so for this tick or a later one.
--
-- KEYS
--   1  faas:ticks  hash  trigger -> Unix ms of its last tick
-- and those of queue.lua
-- ARGV
--   1  trigger    2  the tick, Unix ms    3  how long a dedup id is remembered, ms
--   4..  the message, as in queue_send.lua
-- Returns 1, 0 when some other node was first, or -1, and nothing is done, for a tick that is not due for a minute or more:
-- remembered as the last it would keep the nodes whose clocks are right from running those before it.

local AHEAD_MS = 60000

look('SCARD', 'faas:queues:busy')
local last_ms = look('HGET', KEYS[1], ARGV[1])
if last_ms and tonumber(last_ms) >= tonumber(ARGV[2]) then return 0 end
if tonumber(ARGV[2]) > now_ms + AHEAD_MS then return -1 end
local sends = read_sends(4)
call('HSET', KEYS[1], ARGV[1], ARGV[2])
send_all(sends, ARGV[3])
finish()
return 1
