-- What the scripts of queues share; put before each of them when it is loaded.
--
-- Keys of a queue Q = "{namespace}/{name}"
--   faas:queue:Q:new      stream  messages that may be handed out and never failed, and those of them that are out: field
--                                 "m" -> record; "a" -> {group or "", id if it is in old or ""}, where not both are "".
--                                 Group "workers", consumer = trigger: pending = in flight
--   faas:queue:Q:again    stream  the same of messages that failed before; they are handed out alone
--   faas:queue:Q:delayed  zset    id, scored by when it is due, Unix ms: delayed by the sender, or waiting for a retry
--   faas:queue:Q:waiting  zset    u32 length of the group | group | u64 number | id, all of score 0: messages behind their
--                                 group's head. The next of a group enters when its head is done with
--   faas:queue:Q:data     hash    id -> record, of those that are delayed or waiting
--   faas:queue:Q:groups   hash    group -> "1" while it has a head: in a stream or delayed
--   faas:queue:Q:open     hash    batch -> {trigger, node, Unix ms taken, stream, {entry, ...}}: what is out under one
--                                 lease. An entry is its id in the stream, or {that, group, id if in old}; false once
--                                 it is settled
--   faas:queue:Q:leases   zset    batch, scored by the end of its lease, Unix ms
--   faas:queue:Q:old      zset    id, scored by when it was sent or, if the sender delayed it, due: of messages whose
--                                 entry's id in the stream doesn't tell that; not those the sender still delays
--   faas:queue:Q:dead     zset    id of a dead letter, scored by a number that grows
--   faas:queue:Q:letters  hash    id -> {Unix ms of its death, reason} | record
--   faas:queue:Q:counts   hash    sent, acked, retried, dead, dropped, expired -> how many since ever; seq -> last number
--                                 given; born -> a name for this life of the queue; out:{trigger} -> its open batches;
--                                 full:{trigger} -> "1" when a taker found no place. The queue exists while this does
--   faas:queue:Q:ids:{n}  set     ids sent in a span of IDS_MS; expires
--   faas:queue:Q:dedup:{dedup id}
--                         string  born, ":", id of the message that was first; expires
-- Keys of all
--   faas:queues:{namespace}  set  names of its queues
--   faas:queues:busy         set  every Q that holds a message which is not dead
--   faas:queues:bells     channel Q, when a consumer may find something new in it
--
-- A record is a header, {id, group, how often it was handed out, Unix ms sent, ms delayed by the sender, Unix ms first
-- taken or 0, error of the attempt before}, and behind it the message's data (faas.stores.message_codec), which nobody
-- here reads. Messages of one queue have different ids.
--
-- Whatever can fail (a key of another type) is read before the first write: a step is done whole or not at all.

local WORKERS = 'workers'
local IDS_MS = 30000   -- a message sent twice is known for at least so long
local STEP_MAX = 100   -- delayed messages, or batches, that one take looks after
local CHUNK = 1000     -- arguments per call, below Lua's stack limit
local ID, GROUP, TRIES, SENT, DELAY, FIRST, ERROR = 1, 2, 3, 4, 5, 6, 7  -- of a header

local PARTS = {  -- of a queue: keys that are always the same
    'new', 'again', 'delayed', 'waiting', 'data', 'groups', 'open', 'leases', 'old', 'dead', 'letters', 'counts',
}
local SIZES = {
    new = 'XLEN', again = 'XLEN', delayed = 'ZCARD', waiting = 'ZCARD', data = 'HLEN', groups = 'HLEN', open = 'HLEN',
    leases = 'ZCARD', old = 'ZCARD', dead = 'ZCARD', letters = 'HLEN', counts = 'HLEN',
}

local call, sub, floor = redis.call, string.sub, math.floor
local pack, unpack_one = cmsgpack.pack, cmsgpack.unpack_one
local time = call('TIME')
local now_ms = time[1] * 1000 + floor(time[2] / 1000)
local queues = {}  -- name -> what this call knows of it

-- The answer to a command that reads; an error that names the key where it is of another type.
local function look(command, key, ...)
    local found = redis.pcall(command, key, ...)
    if type(found) == 'table' and found.err then
        error({err = 'WRONGTYPE ' .. key .. ' is not what a queue keeps there (' .. found.err .. '). Delete that key'})
    end
    return found
end

-- A queue's keys, and how much the named parts held when this call began (what is added is counted, what goes is not).
-- Every part that will be written to has to be named before the first write.
local function queue(name, ...)
    local q = queues[name]
    if not q then
        q = {name = name, key = 'faas:queue:' .. name .. ':', size = {}, counted = {}}
        queues[name] = q
    end
    local size = q.size
    for _, part in ipairs({...}) do
        if not size[part] then
            q[part] = q.key .. part
            size[part] = look(SIZES[part], q[part])
        end
    end
    return q
end

local function count(q, what, by)
    q.counted[what] = (q.counted[what] or 0) + by
end

-- Header and data of a record.
local function parts(record)
    local after, header = unpack_one(record)
    return header, sub(record, after + 1)
end

local function begun_ms(header)
    return header[SENT] + header[DELAY]
end

-- The queue exists from now on.
local function found(q)
    if q.size.counts > 0 then return end
    local namespace, name = string.match(q.name, '^(.-)/(.*)$')
    call('HSET', q.counts, 'born', time[1] .. '.' .. time[2])
    call('SADD', 'faas:queues:' .. namespace, name)
    q.size.counts = 1
end

-- To the end of a stream; where the entry's id won't tell the message's age, that is remembered.
local function add(q, stream, header, record, is_aged)
    if q.size[stream] == 0 then redis.pcall('XGROUP', 'CREATE', q[stream], WORKERS, '0', 'MKSTREAM') end
    q.size[stream] = q.size[stream] + 1
    if is_aged or header[GROUP] ~= '' then
        call('XADD', q[stream], '*', 'm', record, 'a', pack({header[GROUP], is_aged and header[ID] or ''}))
    else
        call('XADD', q[stream], '*', 'm', record)
    end
    if is_aged then call('ZADD', q.old, begun_ms(header), header[ID]) end
end

-- Take entries that are out away from a stream.
local function remove(q, stream, entry_ids)
    for from = 1, #entry_ids, CHUNK do
        local to = math.min(from + CHUNK - 1, #entry_ids)
        call('XACK', q[stream], WORKERS, unpack(entry_ids, from, to))
        call('XDEL', q[stream], unpack(entry_ids, from, to))
    end
end

-- The id of an entry of a batch, its group, and its message's id if it is in old.
local function entry_parts(entry)
    if type(entry) == 'table' then return unpack(entry) end
    return entry, '', ''
end

-- The record of an entry of a batch, or nil.
local function record_of(q, stream, entry)
    local entry_id = entry_parts(entry)
    local found_one = call('XRANGE', q[stream], entry_id, entry_id)[1]
    return found_one and found_one[2][2]
end

-- Everything of some batches is settled, or their leases have ended: their trigger has places free, and whoever found none
-- is told.
local function close_batches(q, names, trigger)
    for from = 1, #names, CHUNK do
        local to = math.min(from + CHUNK - 1, #names)
        call('HDEL', q.open, unpack(names, from, to))
        call('ZREM', q.leases, unpack(names, from, to))
    end
    local out = 'out:' .. trigger
    if call('HINCRBY', q.counts, out, -#names) <= 0 then call('HDEL', q.counts, out) end
    if call('HDEL', q.counts, 'full:' .. trigger) == 1 then q.rings = true end
end

-- What the server says of the group of a stream that holds something.
local function group_info(q, stream)
    local found_one, info = call('XINFO', 'GROUPS', q[stream])[1], {}
    for i = 1, #found_one, 2 do info[found_one[i]] = found_one[i + 1] end
    return info
end

-- Put a message, which is not behind another of its group, where it is to be until it is taken.
local function place(q, header, data, due_ms, is_aged)
    local record = pack(header) .. data
    q.rings, q.fills = true, true
    if due_ms <= now_ms then
        add(q, header[TRIES] > 0 and 'again' or 'new', header, record, is_aged)
        return
    end
    call('HSET', q.data, header[ID], record)
    call('ZADD', q.delayed, due_ms, header[ID])
    if is_aged then call('ZADD', q.old, begun_ms(header), header[ID]) end
    q.size.delayed = q.size.delayed + 1
end

local function group_prefix(group)
    return struct.pack('>I4', #group) .. group
end

-- A message that was just sent: behind its group, or to its place.
local function enter(q, header, data)
    local group = header[GROUP]
    found(q)
    count(q, 'sent', 1)
    if group ~= '' and call('HSETNX', q.groups, group, 1) == 0 then
        local number = call('HINCRBY', q.counts, 'seq', 1)
        call('HSET', q.data, header[ID], pack(header) .. data)
        call('ZADD', q.waiting, 0, group_prefix(group) .. struct.pack('>I8', number) .. header[ID])
        q.size.waiting = q.size.waiting + 1
        return
    end
    place(q, header, data, begun_ms(header))
end

-- The head of a group is done with: the next one's turn.
local function next_of(q, group)
    if group == '' then return end
    local prefix = group_prefix(group)
    local member = q.size.waiting > 0
        and call('ZRANGEBYLEX', q.waiting, '[' .. prefix, '[' .. prefix .. string.rep('\255', 9), 'LIMIT', 0, 1)[1]
    if not member then
        call('HDEL', q.groups, group)
        return
    end
    local id = sub(member, #prefix + 9)
    local record = call('HGET', q.data, id)
    call('ZREM', q.waiting, member)
    local header, data = parts(record)
    local is_due = begun_ms(header) <= now_ms
    if is_due then call('HDEL', q.data, id) end
    place(q, header, data, begun_ms(header), is_due)
end

-- -- sending ------------------------------------------------------------------------------------------------------------

local function ids_key(q, spans_ago)
    return q.key .. 'ids:' .. floor(now_ms / IDS_MS) - spans_ago
end

-- Messages from the arguments: queue, id, group, dedup id, delay in ms, data of each. Reads what sending them will touch.
local function read_sends(from)
    local sends = {}
    for i = from, #ARGV, 6 do
        local q = queue(ARGV[i], 'counts', 'new')
        if ARGV[i + 2] ~= '' then queue(ARGV[i], 'groups', 'waiting', 'delayed', 'data') end
        if tonumber(ARGV[i + 4]) > 0 then queue(ARGV[i], 'delayed', 'data') end
        if not q.ids then
            q.ids, q.ids_before = ids_key(q, 0), ids_key(q, 1)
            q.new_ids = look('SCARD', q.ids) == 0
            look('SCARD', q.ids_before)
        end
        local dedup = ARGV[i + 3] ~= '' and q.key .. 'dedup:' .. ARGV[i + 3]
        if dedup then look('GET', dedup) end
        sends[#sends + 1] = {q, ARGV[i + 1], ARGV[i + 2], dedup, tonumber(ARGV[i + 4]), ARGV[i + 5]}
    end
    return sends
end

-- The id of an earlier message with the same dedup id, if there is one; otherwise remembers this one.
local function first_of(q, dedup, id, dedup_ms)
    found(q)
    q.born = q.born or call('HGET', q.counts, 'born')
    local known = call('GET', dedup)
    if known and sub(known, 1, #q.born + 1) == q.born .. ':' then return sub(known, #q.born + 2) end
    call('SET', dedup, q.born .. ':' .. id, 'PX', dedup_ms)
    return nil
end

-- Returns the ids under which they are known.
local function send_all(sends, dedup_ms)
    local ids = {}
    for i, each in ipairs(sends) do
        local q, id, group, dedup, delay_ms, data = unpack(each)
        local first = dedup and first_of(q, dedup, id, dedup_ms)
        ids[i] = first or id
        if not first and call('SISMEMBER', q.ids_before, id) == 0 and call('SADD', q.ids, id) == 1 then
            if q.new_ids then
                call('PEXPIRE', q.ids, 2 * IDS_MS)
                q.new_ids = false
            end
            enter(q, {id, group, 0, now_ms, delay_ms, 0, ''}, data)
        end
    end
    return ids
end

-- -- the end of a call --------------------------------------------------------------------------------------------------

-- Whether a queue holds nothing but dead letters: what waits has a head in one of these.
local function is_idle(q)
    for _, part in ipairs({'new', 'again', 'delayed'}) do
        if redis.pcall(SIZES[part], q.key .. part) ~= 0 then return false end
    end
    return true
end

-- Counts, the set of busy queues, and bells.
local function finish()
    for name, q in pairs(queues) do
        for what, by in pairs(q.counted) do call('HINCRBY', q.counts, what, by) end
        if q.fills then
            call('SADD', 'faas:queues:busy', name)
        elseif q.drains and is_idle(q) then
            call('SREM', 'faas:queues:busy', name)
        end
        if q.rings then call('PUBLISH', 'faas:queues:bells', name) end
    end
end
