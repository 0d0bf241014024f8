-- What was provisioned in some hours, by function. Writes nothing.
--
-- KEYS
--   1...  faas:held:{hour}   hash   run \0 namespace \0 function \0 version \0 kind -> MB times ms
-- ARGV
--   1...  namespaces; none = all
-- Returns a msgpack array: "namespace\0function", sum, ... A name comes again where its sum would leave what doubles
-- hold exactly: whoever reads adds up.

local EXACT = 2 ^ 53
local wanted = {}
for i = 1, #ARGV do wanted[ARGV[i]] = true end
local sums, answer = {}, {}
for i = 1, #KEYS do
    local cells = redis.call('HGETALL', KEYS[i])
    for at = 1, #cells, 2 do
        local namespace, name = string.match(cells[at], '^%Z*%z(%Z*)%z(%Z*)%z%Z*%zprovisioned$')
        if namespace and (#ARGV == 0 or wanted[namespace]) then
            local field, more = namespace .. '\0' .. name, tonumber(cells[at + 1])
            local sum = sums[field] or 0
            if sum + more < EXACT then
                sums[field] = sum + more
            else
                answer[#answer + 1] = field
                answer[#answer + 1] = sum
                sums[field] = more
            end
        end
    end
end
for field, sum in pairs(sums) do
    answer[#answer + 1] = field
    answer[#answer + 1] = sum
end
return cmsgpack.pack(answer)
