-- Stores a month's closed bills: once, and only as long as nothing was closed since they were worked out.
--
-- KEYS
--   1  faas:bills   hash  month ("2026-11") -> closing (faas.billing.frozen)
-- ARGV
--   1  month
--   2  closing
--   3  how many months were closed when it was worked out
-- Returns 1 = stored, 0 = the month is closed already, -1 = another month has been closed since.
--
-- Two months that are closed at once could both take in the same late use of an earlier one: the count tells.

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 0 end
if redis.call('HLEN', KEYS[1]) ~= tonumber(ARGV[3]) then return -1 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
