-- Puts dead letters back as if they had just been sent.
--
-- KEYS: none are named; see queue.lua for all
-- ARGV
--   1  queue    2  letters at most    3  delay of the first, ms    4  how much more each has than the one before, ms
--   5..  their ids; none = the oldest
-- Returns how many were.

local q = queue(ARGV[1], 'counts', 'new', 'delayed', 'waiting', 'data', 'groups', 'dead', 'letters')
look('SCARD', 'faas:queues:busy')
local ids = {unpack(ARGV, 5)}
if #ids == 0 then ids = call('ZRANGE', q.dead, 0, ARGV[2] - 1) end
local done = 0
for _, id in ipairs(ids) do
    local letter = done < tonumber(ARGV[2]) and call('HGET', q.letters, id)
    if letter then
        local _, record = parts(letter)
        local header, data = parts(record)
        call('HDEL', q.letters, id)
        call('ZREM', q.dead, id)
        enter(q, {id, header[GROUP], 0, now_ms, floor(ARGV[3] + done * ARGV[4]), 0, ''}, data)
        done = done + 1
    end
end
finish()
return done
