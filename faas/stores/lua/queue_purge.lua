-- Forgets all messages but those that are out, or all dead letters.
--
-- KEYS: none are named; see queue.lua for all
-- ARGV
--   1  queue    2  "dead" or "messages"
-- Returns how many. What is out is put into new keys and the old ones are unlinked, so that a million messages cost no
-- more than none.

local q = queue(ARGV[1], unpack(PARTS))
local size = q.size
look('SCARD', 'faas:queues:busy')
if ARGV[2] == 'dead' then
    call('UNLINK', q.dead, q.letters)
    return size.dead
end

-- What is out of each stream, with all that is to be put back
local out = {new = {}, again = {}}
for _, packed in ipairs(call('HVALS', q.open)) do
    local trigger, _, _, stream, entries = unpack(cmsgpack.unpack(packed))
    for _, entry in ipairs(entries) do
        local entry_id, group, old_id = entry_parts(entry)
        local lies = entry and call('XRANGE', q[stream], entry_id, entry_id)[1]
        if lies then
            local ms, number = string.match(entry_id, '(%d+)-(%d+)')
            table.insert(out[stream], {
                at = {tonumber(ms), tonumber(number)}, entry_id = entry_id, fields = lies[2], trigger = trigger,
                group = group, old_id = old_id, begun_ms = old_id ~= '' and call('ZSCORE', q.old, old_id),
            })
        end
    end
end
local forgotten = size.new + size.again + size.delayed + size.waiting - #out.new - #out.again

call('UNLINK', q.new, q.again, q.delayed, q.waiting, q.data, q.groups, q.old)
for stream, entries in pairs(out) do
    table.sort(entries, function(a, b)
        if a.at[1] ~= b.at[1] then return a.at[1] < b.at[1] end
        return a.at[2] < b.at[2]
    end)
    if #entries > 0 then call('XGROUP', 'CREATE', q[stream], WORKERS, '0', 'MKSTREAM') end
    for _, entry in ipairs(entries) do
        call('XADD', q[stream], entry.entry_id, unpack(entry.fields))
        call('XREADGROUP', 'GROUP', WORKERS, entry.trigger, 'COUNT', 1, 'STREAMS', q[stream], '>')
        if entry.group ~= '' then call('HSET', q.groups, entry.group, 1) end
        if entry.begun_ms then call('ZADD', q.old, entry.begun_ms, entry.old_id) end
    end
end
q.drains = true
finish()
return forgotten
