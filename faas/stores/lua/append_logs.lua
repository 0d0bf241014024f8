-- Appends log lines, a batch of one sink at a time, each batch once.
--
-- KEYS
--   1  faas:logsink:{sink}       string  number of the last batch appended; expires
-- Keys made from the batch
--   faas:logs:{ns}:{function}    stream  field "l" = msgpack of one line; capped, expires
-- ARGV
--   1  number of this batch   2  lines kept per function   3  how long an untouched stream is kept, ms
--   4  msgpack array: stream key, {line, line...}, stream key, {line...}...
-- Returns 1, or 0 when this batch had been appended before.

if tonumber(redis.call('GET', KEYS[1]) or 0) >= tonumber(ARGV[1]) then
    return 0
end
local batch = cmsgpack.unpack(ARGV[4])
for i = 1, #batch, 2 do
    for _, line in ipairs(batch[i + 1]) do
        redis.call('XADD', batch[i], 'MAXLEN', '~', ARGV[2], '*', 'l', line)
    end
    redis.call('PEXPIRE', batch[i], ARGV[3])
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', 3600000)
return 1
