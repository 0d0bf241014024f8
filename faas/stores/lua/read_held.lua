-- What was held in some hours, added up over the runs of nodes. Writes nothing.
--
-- KEYS
--   1...  faas:held:{hour}   hash   run \0 namespace \0 function \0 version \0 kind -> MB times ms
-- ARGV
--   1     kind; "" = all
--   2...  namespaces; none = all
-- Returns a msgpack array: "namespace \0 function \0 version \0 kind", sum, ... A name comes again where its sum would
-- leave what doubles hold exactly: whoever reads adds up.

local EXACT = 2 ^ 53
local pattern = '^%Z*%z((%Z*)%z%Z*%z%Z*%z' .. (ARGV[1] == '' and '%Z*' or ARGV[1]) .. ')$'
local wanted = {}
for i = 2, #ARGV do wanted[ARGV[i]] = true end
local sums, answer = {}, {}
for i = 1, #KEYS do
    local cells = redis.call('HGETALL', KEYS[i])
    for at = 1, #cells, 2 do
        local field, namespace = string.match(cells[at], pattern)
        if field and (#ARGV == 1 or wanted[namespace]) then
            local sum, more = sums[field] or 0, tonumber(cells[at + 1])
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
