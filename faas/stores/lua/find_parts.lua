-- Finds the parts that hold an invocation. Writes nothing.
--
-- KEYS
--   1  faas:ids:{span}   list  pointers; see apply_usage.lua, also for faas:parts:{hour}:{namespace}:{function}
-- ARGV
--   1  "namespace:"
--   2  when the invocation's id was made, ms in the span
--   3  id, 16 bytes
-- Returns parts in which the bytes of the id occur.

local namespace, made_ms, id = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local found = {}
for _, pointer in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
    local hour, index, first, last, at = struct.unpack('>I4I4I2I2', pointer)
    if first <= made_ms and made_ms <= last and string.sub(pointer, at, at + #namespace - 1) == namespace then
        local part = redis.call('LINDEX', 'faas:parts:' .. hour .. ':' .. string.sub(pointer, at), index)
        if part and string.find(part, id, 1, true) then found[#found + 1] = part end
    end
end
return found
