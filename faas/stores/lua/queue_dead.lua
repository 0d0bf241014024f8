-- A page of a queue's dead letters, oldest first.
--
-- KEYS: none are named; see queue.lua for all
-- ARGV
--   1  queue    2  letters at most    3  id of the last letter of the page before, or ""
-- Returns {letter, ...}: see queue.lua. Where the last letter before is gone, from the beginning.

local q = queue(ARGV[1], 'dead', 'letters')
local after = ARGV[3] ~= '' and call('ZSCORE', q.dead, ARGV[3])
local from = after and '(' .. after or '-inf'
local letters = {}
for _, id in ipairs(call('ZRANGEBYSCORE', q.dead, from, '+inf', 'LIMIT', 0, ARGV[2])) do
    letters[#letters + 1] = call('HGET', q.letters, id)
end
return letters
