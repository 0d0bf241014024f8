-- Stores a credit note of a closed month, once.
--
-- KEYS
--   1  faas:bills     hash  month -> closing
--   2  faas:credits   hash  id -> credit note (faas.billing.frozen)
-- ARGV
--   1  id
--   2  the month it corrects
--   3  credit note
-- Returns 1 = stored, 0 = there is one of that id, -1 = the month is not closed.

if redis.call('HEXISTS', KEYS[1], ARGV[2]) == 0 then return -1 end
return redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[3])
