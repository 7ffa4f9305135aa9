"""What Redis does in one step, where several commands would leave a gap for others."""

from typing import Final

# KEYS: the claim. ARGV: our value, its time in milliseconds. Returns the value that is held.
CLAIM: Final = """
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return held end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""

# KEYS: the claim. ARGV: our value.
RELEASE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""

# KEYS: bytes. ARGV: where they begin; more of them. Bytes that are sent twice are kept once, and
# where those in front of them were lost nothing is kept.
WRITE: Final = """
if redis.call('STRLEN', KEYS[1]) ~= tonumber(ARGV[1]) then return 0 end
return redis.call('APPEND', KEYS[1], ARGV[2])
"""

# KEYS: who uses an id; that there was a stream; the stream's own keys, its state first. ARGV: our
# process, the key of leases in front of its name, the time of a use in milliseconds. Returns the
# number of the last event that the id has had, -1 while another process uses it: not where that is
# gone. Our own stream has ended, though that may not be written here yet.
START: Final = """
local user = redis.call('GET', KEYS[1])
if user and user ~= ARGV[1] and redis.call('EXISTS', ARGV[2] .. user) == 1 then return -1 end
local state, last = redis.call('HMGET', KEYS[3], 'last', 'lost'), 0
for _, number in ipairs({state[1] or 0, state[2] or 0, redis.call('GET', KEYS[2]) or 0}) do
  last = math.max(last, tonumber(number) or 0)
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
redis.call('DEL', unpack(KEYS, 3))
return last
"""

# KEYS: events, state, use. ARGV: the id of the newest event, "" for none; the new number of the
# newest; the data of stream.done; the time it is kept, in milliseconds; ids and events by turns.
# The entry 1-0 is behind all that the stream's own process could still add.
CLOSE: Final = """
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if (newest[1] and newest[1][1] or '') ~= ARGV[1] then return 0 end
if redis.call('HEXISTS', KEYS[2], 'done') == 1 then return 0 end
for i = 5, #ARGV, 2 do redis.call('XADD', KEYS[1], ARGV[i], 'd', ARGV[i + 1]) end
redis.call('XADD', KEYS[1], '1-0', 'd', '')
redis.call('HSET', KEYS[2], 'done', ARGV[3], 'end', 'cut', 'lost', ARGV[2])
redis.call('DEL', KEYS[3])
for i = 1, 2 do redis.call('PEXPIRE', KEYS[i], ARGV[4]) end
return 1
"""

# KEYS: the owner's streams that have ended, by the time of that; their sizes, the sum under "".
# ARGV: the id of one that ends; its size; the time; the time before which none is kept any more;
# the most streams, the most bytes; what the names of the owner's keys begin with; how long all of
# this is kept, in milliseconds. An id that is in use again is only not counted any more.
ENDED: Final = """
local function size_of(id) return tonumber(redis.call('HGET', KEYS[2], id) or 0) end
local function forget(id)
  if size_of(id) > 0 then redis.call('HINCRBY', KEYS[2], '', -size_of(id)) end
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[1], id)
end
forget(ARGV[1])
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('HINCRBY', KEYS[2], '', ARGV[2])
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[4], 'LIMIT', 0, 100)) do
  forget(id)
end
while redis.call('ZCARD', KEYS[1]) > tonumber(ARGV[5]) or size_of('') > tonumber(ARGV[6]) do
  local id = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
  if not id then break end
  local name = ARGV[7] .. id
  if redis.call('HEXISTS', name .. ':state', 'done') == 1 then
    redis.call('UNLINK', name .. ':state', name .. ':events', name .. ':bytes')
  end
  forget(id)
end
for i = 1, 2 do redis.call('PEXPIRE', KEYS[i], ARGV[8]) end
return 1
"""

# KEYS: ids and who made each; their order. ARGV: an id; who made it; the most ids; how long all of
# them are kept, in seconds. The oldest is forgotten first.
KEEP_ID: Final = """
local newest = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], (newest[2] or 0) + 1, ARGV[1])
if redis.call('ZCARD', KEYS[2]) > tonumber(ARGV[3]) then
  redis.call('HDEL', KEYS[1], redis.call('ZPOPMIN', KEYS[2])[1])
end
for i = 1, 2 do redis.call('EXPIRE', KEYS[i], ARGV[4]) end
return 1
"""
