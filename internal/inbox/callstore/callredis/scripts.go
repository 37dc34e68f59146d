package callredis

import "github.com/redis/go-redis/v9"

// scripts are the atomic operations. KEYS has the prefix of all keys of the inbox.
// The scripts use the words of the keys in Redis, which must not change: a lane is an
// ordering key, a box is an inbox, a taken call is an acked one.
var scripts = map[string]*redis.Script{
	// ARGV: key, account, ordering key, due, received, call, seconds to keep the inbox, refused,
	// dead.
	"add": redis.NewScript(common + `
local taken = redis.call('GET', base..'taken:'..ARGV[1])
if taken then return {'taken', taken} end
local call = base..'call:'..ARGV[1]
local dead = redis.call('HGET', call, 'dead')
if dead == '0' then return {'kept'} end
if dead then remove(ARGV[1]) end
redis.call('HSET', call, 'account', ARGV[2], 'lane', ARGV[3], 'due', ARGV[4], 'received', ARGV[5],
  'dead', ARGV[9], 'refused', ARGV[8], 'call', ARGV[6])
redis.call('ZADD', base..'all', ARGV[5], ARGV[1])
if ARGV[9] == '1' then
  redis.call('ZADD', base..'dead', ARGV[5], ARGV[1])
else
  redis.call('RPUSH', base..'lane:'..ARGV[3], ARGV[1])
  redis.call('ZADD', base..'waiting', ARGV[5], ARGV[1])
end
redue(ARGV[3])
keep(ARGV[1], ARGV[3], ARGV[7])
return {'added'}`),

	// ARGV: key, account and sealed answer, milliseconds to live. The call is removed
	// first, because that frees memory.
	"ack": redis.NewScript(common + `
local removed = remove(ARGV[1])
redis.call('SET', base..'taken:'..ARGV[1], ARGV[2], 'PX', ARGV[3])
return removed`),

	// ARGV: key.
	"drop": redis.NewScript(common + `return remove(ARGV[1])`),

	// ARGV: ordering key.
	"peek": redis.NewScript(common + `
local key = first(ARGV[1])
if not key then return false end
return redis.call('HMGET', base..'call:'..key, 'account', 'call', 'due')`),

	// ARGV: now, limit.
	"due": redis.NewScript(common + `
local lanes = redis.call('ZRANGEBYSCORE', base..'due', '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
local next = redis.call('ZRANGEBYSCORE', base..'due', '('..ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {next[2] or '', lanes}`),

	// ARGV: key, due, dead, call, received, refused (2: maybe taken), seconds to keep the
	// inbox, ordering key.
	"update": redis.NewScript(common + `
local call = base..'call:'..ARGV[1]
local before = redis.call('HMGET', call, 'lane', 'dead')
if not before[1] then return 0 end
redis.call('HSET', call, 'due', ARGV[2], 'dead', ARGV[3], 'refused', ARGV[6], 'call', ARGV[4], 'lane', ARGV[8])
if ARGV[3] == '1' then
  redis.call('LREM', base..'lane:'..before[1], 0, ARGV[1])
  redis.call('ZREM', base..'waiting', ARGV[1])
  redis.call('ZADD', base..'dead', ARGV[5], ARGV[1])
elseif before[2] == '1' or before[1] ~= ARGV[8] then
  redis.call('LREM', base..'lane:'..before[1], 0, ARGV[1])
  redis.call('RPUSH', base..'lane:'..ARGV[8], ARGV[1])
  redis.call('ZREM', base..'dead', ARGV[1])
  redis.call('ZADD', base..'waiting', ARGV[5], ARGV[1])
end
redue(before[1])
redue(ARGV[8])
keep(ARGV[1], ARGV[8], ARGV[7])
return 1`),

	// ARGV: now, whether to include refused calls, how many ordering keys to skip, how
	// many to visit. The answer is how many were visited, and how many of them were left
	// as they are.
	"retryNow": redis.NewScript(common + `
local lanes = redis.call('ZRANGEBYSCORE', base..'due', '('..ARGV[1], '+inf', 'LIMIT', ARGV[3], ARGV[4])
local left = 0
for _, lane in ipairs(lanes) do
  local key = first(lane)
  local refused = key and redis.call('HGET', base..'call:'..key, 'refused')
  if refused == '2' or refused == '1' and ARGV[2] == '0' then
    left = left + 1
  else
    if key then redis.call('HSET', base..'call:'..key, 'due', ARGV[1]) end
    redue(lane)
  end
end
return {#lanes, left}`),

	// ARGV: received and key of the last call before, limit. The answer has one more call
	// than limit if there are more.
	"list": redis.NewScript(common + `
local found, offset, limit = {}, 0, ARGV[3] + 1
repeat
  local keys = redis.call('ZRANGEBYSCORE', base..'all', ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', offset, limit)
  for i = 1, #keys, 2 do
    if #found < limit and (keys[i+1] ~= ARGV[1] or keys[i] > ARGV[2]) then
      local call = redis.call('HMGET', base..'call:'..keys[i], 'account', 'lane', 'due', 'dead', 'call')
      if call[5] then
        table.insert(call, keys[i])
        table.insert(call, keys[i+1])
        found[#found+1] = call
      end
    end
  end
  offset = offset + #keys / 2
until #keys == 0 or #found == limit
return found`),

	"stats": redis.NewScript(common + `
local oldest = redis.call('ZRANGE', base..'waiting', 0, 0, 'WITHSCORES')
return {redis.call('ZCARD', base..'waiting'), redis.call('ZCARD', base..'dead'), oldest[2] or ''}`),
}

const common = `
local base = KEYS[1]
local function out(key)
  for _, set in ipairs({'all', 'waiting', 'dead'}) do redis.call('ZREM', base..set, key) end
end
-- first returns the first call of a lane, or nil. It removes calls that Redis has
-- evicted from the lane.
local function first(lane)
  while true do
    local key = redis.call('LINDEX', base..'lane:'..lane, 0)
    if not key then return nil end
    if redis.call('HEXISTS', base..'call:'..key, 'due') == 1 then return key end
    redis.call('LPOP', base..'lane:'..lane)
    out(key)
  end
end
-- redue sets the due time of a lane to that of its first call, and removes an empty lane.
local function redue(lane)
  local key = first(lane)
  if key then
    redis.call('ZADD', base..'due', redis.call('HGET', base..'call:'..key, 'due'), lane)
  else
    redis.call('ZREM', base..'due', lane)
  end
end
-- remove removes a call, and returns 1 if it was there.
local function remove(key)
  local call = base..'call:'..key
  local lane = redis.call('HGET', call, 'lane')
  if not lane then return 0 end
  redis.call('DEL', call)
  redis.call('LREM', base..'lane:'..lane, 0, key)
  out(key)
  redue(lane)
  return 1
end
-- keep renews the time to live of the box. Dead calls live until a person removes them.
local function keep(key, lane, seconds)
  for _, name in ipairs({'lane:'..lane, 'waiting', 'due'}) do redis.call('EXPIRE', base..name, seconds) end
  local dead = redis.call('ZCARD', base..'dead') > 0
  for _, name in ipairs({'all', 'dead'}) do
    if dead then redis.call('PERSIST', base..name) else redis.call('EXPIRE', base..name, seconds) end
  end
  if redis.call('HGET', base..'call:'..key, 'dead') == '1' then
    redis.call('PERSIST', base..'call:'..key)
  else
    redis.call('EXPIRE', base..'call:'..key, seconds)
  end
end
`
