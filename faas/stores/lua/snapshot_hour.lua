-- The sums of one hour, and how many parts of raw records had been added up in them at that moment. Writes nothing.
--
-- Parts are only ever appended, so whoever then reads that many of each list has what the sums were made of, however
-- many are added meanwhile.
--
-- KEYS
--   1  faas:usage:{hour}    hash    see apply_usage.lua, also for faas:parts:{hour}:{namespace}:{function}
--   2  faas:parts:{hour}    hash
--   3  faas:partial:{hour}  string
-- ARGV
--   1  namespace, "" for all
-- Returns {parts there, some missing, msgpack array of field, value..., list's name, its length, name, length...}

local prefix = ARGV[1] == '' and '' or ARGV[1] .. ':'
local sums, cells = {}, redis.call('HGETALL', KEYS[1])
for i = 1, #cells, 2 do
    if ARGV[1] == '' or string.match(cells[i], '^%Z*') == ARGV[1] then
        sums[#sums + 1] = cells[i]
        sums[#sums + 1] = cells[i + 1]
    end
end
local answer = {redis.call('EXISTS', KEYS[2]), redis.call('EXISTS', KEYS[3]), cmsgpack.pack(sums)}
for _, name in ipairs(redis.call('HKEYS', KEYS[2])) do
    if string.sub(name, 1, #prefix) == prefix then
        answer[#answer + 1] = name
        answer[#answer + 1] = redis.call('LLEN', KEYS[2] .. ':' .. name)
    end
end
return answer
