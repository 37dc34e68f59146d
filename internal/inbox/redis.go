package inbox

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-doku/caddy-doku/internal/store"
)

// redisKeeps is for how long a box that nobody writes to any more is kept, but for
// what is dead, which stays.
const redisKeeps = 60 * 24 * time.Hour

// redisPage is how many calls a script looks at.
const redisPage = 200

// Redis is a [Store] in Redis, for sidecars that share the work: whichever of them
// leases a lane delivers its first call, and if it dies, another one does, when
// the lease has run out. What is kept is sealed with the account's secret.
//
// It is a hash for each call, a list for each lane, and sorted sets of the lanes by
// when they are due and of the calls by when they came: a stream can neither put a
// call off nor keep the order of each account's calls. All keys of a box are in
// one slot of a cluster.
type Redis struct {
	client redis.UniversalClient
	prefix string
	scope  func(account string) *store.Scoped
}

// NewRedis returns the store in r. scope returns an account's scope, which seals
// what is kept of it, or nil if there is no such account.
func NewRedis(r *store.Redis, scope func(account string) *store.Scoped) *Redis {
	client, prefix := r.Client()
	return &Redis{client, prefix, scope}
}

// base returns what all keys of a box begin with.
func (r *Redis) base(box string) string { return r.prefix + "{inbox:" + box + "}:" }

// boxes returns the key of the set of all boxes.
func (r *Redis) boxes() string { return r.prefix + "inboxes" }

// The scripts. KEYS has what keys of the box begin with.
var (
	redisScripts = map[string]*redis.Script{
		// ARGV: key, account, lane, due, received, call, seconds to keep the box.
		"add": redis.NewScript(redisCommon + `
local taken = redis.call('GET', base..'taken:'..ARGV[1])
if taken then return {'taken', taken} end
local call = base..'call:'..ARGV[1]
local dead = redis.call('HGET', call, 'dead')
if dead == '0' then return {'kept'} end
if dead then remove(ARGV[1]) end
redis.call('HSET', call, 'account', ARGV[2], 'lane', ARGV[3], 'due', ARGV[4], 'received', ARGV[5], 'dead', '0', 'refused', '0', 'call', ARGV[6])
redis.call('RPUSH', base..'lane:'..ARGV[3], ARGV[1])
redis.call('ZADD', base..'all', ARGV[5], ARGV[1])
redis.call('ZADD', base..'waiting', ARGV[5], ARGV[1])
redue(ARGV[3])
keep(ARGV[1], ARGV[3], ARGV[7])
return {'added'}`),

		// ARGV: key, account and sealed answer, milliseconds to live. What is removed
		// first makes room, if the memory is full.
		"take": redis.NewScript(redisCommon + `
local removed = remove(ARGV[1])
redis.call('SET', base..'taken:'..ARGV[1], ARGV[2], 'PX', ARGV[3])
return removed`),

		// ARGV: key.
		"drop": redis.NewScript(redisCommon + `return remove(ARGV[1])`),

		// ARGV: lane.
		"head": redis.NewScript(redisCommon + `
local key = first(ARGV[1])
if not key then return false end
return redis.call('HMGET', base..'call:'..key, 'account', 'call', 'due')`),

		// ARGV: now, limit.
		"due": redis.NewScript(redisCommon + `
local lanes = redis.call('ZRANGEBYSCORE', base..'due', '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
local next = redis.call('ZRANGEBYSCORE', base..'due', '('..ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {next[2] or '', lanes}`),

		// ARGV: key, due, dead, call, received, refused, seconds to keep the box.
		"update": redis.NewScript(redisCommon + `
local call = base..'call:'..ARGV[1]
local before = redis.call('HMGET', call, 'lane', 'dead')
if not before[1] then return 0 end
redis.call('HSET', call, 'due', ARGV[2], 'dead', ARGV[3], 'refused', ARGV[6], 'call', ARGV[4])
if ARGV[3] == '1' and before[2] == '0' then
  redis.call('LREM', base..'lane:'..before[1], 0, ARGV[1])
  redis.call('ZREM', base..'waiting', ARGV[1])
  redis.call('ZADD', base..'dead', ARGV[5], ARGV[1])
elseif ARGV[3] == '0' and before[2] == '1' then
  redis.call('RPUSH', base..'lane:'..before[1], ARGV[1])
  redis.call('ZREM', base..'dead', ARGV[1])
  redis.call('ZADD', base..'waiting', ARGV[5], ARGV[1])
end
redue(before[1])
keep(ARGV[1], before[1], ARGV[7])
return 1`),

		// ARGV: now, whether those that were refused, too, how many to leave out, how
		// many to look at. The answer is how many were looked at, and left.
		"hurry": redis.NewScript(redisCommon + `
local lanes = redis.call('ZRANGEBYSCORE', base..'due', '('..ARGV[1], '+inf', 'LIMIT', ARGV[3], ARGV[4])
local left = 0
for _, lane in ipairs(lanes) do
  local key = first(lane)
  if key and ARGV[2] == '0' and redis.call('HGET', base..'call:'..key, 'refused') == '1' then
    left = left + 1
  else
    if key then redis.call('HSET', base..'call:'..key, 'due', ARGV[1]) end
    redue(lane)
  end
end
return {#lanes, left}`),

		// ARGV: received and key of the last one before, limit. The answer has one more
		// if there are more.
		"list": redis.NewScript(redisCommon + `
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

		"stats": redis.NewScript(redisCommon + `
local oldest = redis.call('ZRANGE', base..'waiting', 0, 0, 'WITHSCORES')
return {redis.call('ZCARD', base..'waiting'), redis.call('ZCARD', base..'dead'), oldest[2] or ''}`),
	}

	errNoAccount = errors.New("a kept call is of an account that is not configured here")
)

const redisCommon = `
local base = KEYS[1]
local function out(key)
  for _, set in ipairs({'all', 'waiting', 'dead'}) do redis.call('ZREM', base..set, key) end
end
-- first returns the first call of a lane, or nil. What Redis has thrown away is
-- taken out of the lane on the way.
local function first(lane)
  while true do
    local key = redis.call('LINDEX', base..'lane:'..lane, 0)
    if not key then return nil end
    if redis.call('HEXISTS', base..'call:'..key, 'due') == 1 then return key end
    redis.call('LPOP', base..'lane:'..lane)
    out(key)
  end
end
-- redue puts a lane where its first call is due, or nowhere if it has none.
local function redue(lane)
  local key = first(lane)
  if key then
    redis.call('ZADD', base..'due', redis.call('HGET', base..'call:'..key, 'due'), lane)
  else
    redis.call('ZREM', base..'due', lane)
  end
end
-- remove removes a call, and says whether it was there.
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
-- keep lets the box live on from now, and what is dead, for people, for ever.
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

// run runs a script.
func (r *Redis) run(ctx context.Context, script, box string, args ...any) *redis.Cmd {
	return redisScripts[script].Run(ctx, r.client, []string{r.base(box)}, args...)
}

func redisFailed(err error) error {
	if err == nil || errors.Is(err, redis.Nil) {
		return nil
	}
	return fmt.Errorf("%w: redis: %w", ErrStore, err)
}

// seal returns c as it is kept.
func (r *Redis) seal(c Call) ([]byte, error) {
	value, err := encodeCall(c)
	if err != nil {
		return nil, err
	}
	scope := r.scope(c.Account)
	if scope == nil {
		return nil, fmt.Errorf("%w: %w: %s", ErrStore, errNoAccount, c.Account)
	}
	return scope.Seal(r.base(c.Box)+"call", value), nil
}

// open returns the call that was kept as value.
func (r *Redis) open(box, account, value string) (*Call, error) {
	scope := r.scope(account)
	if scope == nil {
		return nil, fmt.Errorf("%w: %w: %s", ErrStore, errNoAccount, account)
	}
	text, err := scope.Open(r.base(box)+"call", []byte(value))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStore, err)
	}
	c, err := decodeCall(text)
	return &c, err
}

// answer returns the answer that was kept as value: an account, 0, and what is
// sealed for it.
func (r *Redis) answer(box, value string) (*store.Answer, error) {
	account, sealed, _ := strings.Cut(value, "\x00")
	scope := r.scope(account)
	if scope == nil {
		return nil, fmt.Errorf("%w: %w: %s", ErrStore, errNoAccount, account)
	}
	text, err := scope.Open(r.base(box)+"taken", []byte(sealed))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStore, err)
	}
	return store.DecodeAnswer(text)
}

// flag returns b as the scripts know it.
func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// Add implements [Store].
func (r *Redis) Add(ctx context.Context, c Call) (added bool, taken *store.Answer, err error) {
	sealed, err := r.seal(c)
	if err != nil {
		return false, nil, err
	}
	if err := r.client.SAdd(ctx, r.boxes(), c.Box).Err(); err != nil {
		return false, nil, redisFailed(err)
	}
	found, err := r.run(ctx, "add", c.Box, c.Key, c.Account, c.Lane, c.Due.UnixMilli(), c.Received.UnixMilli(), sealed, int(redisKeeps.Seconds())).StringSlice()
	switch {
	case err != nil:
		return false, nil, redisFailed(err)
	case len(found) == 2:
		taken, err = r.answer(c.Box, found[1])
		return false, taken, err
	}
	return len(found) == 1 && found[0] == "added", nil, nil
}

// Taken implements [Store].
func (r *Redis) Taken(ctx context.Context, box, key string) (*store.Answer, error) {
	value, err := r.client.Get(ctx, r.base(box)+"taken:"+key).Result()
	if err != nil {
		return nil, redisFailed(err)
	}
	return r.answer(box, value)
}

// Take implements [Store].
func (r *Redis) Take(ctx context.Context, c Call, answer store.Answer, ttl time.Duration) error {
	scope := r.scope(c.Account)
	if scope == nil {
		return fmt.Errorf("%w: %w: %s", ErrStore, errNoAccount, c.Account)
	}
	sealed := scope.Seal(r.base(c.Box)+"taken", answer.Encode())
	return redisFailed(r.run(ctx, "take", c.Box, c.Key, c.Account+"\x00"+string(sealed), ttl.Milliseconds()).Err())
}

// Head implements [Store].
func (r *Redis) Head(ctx context.Context, box, lane string) (*Call, error) {
	fields, err := r.run(ctx, "head", box, lane).StringSlice()
	if err != nil || len(fields) != 3 || fields[1] == "" {
		return nil, redisFailed(err)
	}
	c, err := r.open(box, fields[0], fields[1])
	if err != nil {
		return nil, err
	}
	c.Due = millis(fields[2]) // which hurry may have changed
	return c, nil
}

// Due implements [Store].
func (r *Redis) Due(ctx context.Context, box string, now time.Time, limit int) (lanes []string, next time.Time, err error) {
	answer, err := r.run(ctx, "due", box, now.UnixMilli(), limit).Slice()
	if err != nil || len(answer) != 2 {
		return nil, next, redisFailed(err)
	}
	if text, _ := answer[0].(string); text != "" {
		next = millis(text)
	}
	found, _ := answer[1].([]any)
	for _, lane := range found {
		if name, ok := lane.(string); ok {
			lanes = append(lanes, name)
		}
	}
	return lanes, next, nil
}

// millis reads a score of a sorted set.
func millis(text string) time.Time {
	score, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(int64(score))
}

// Update implements [Store].
func (r *Redis) Update(ctx context.Context, c Call) error {
	sealed, err := r.seal(c)
	if err != nil {
		return err
	}
	return redisFailed(r.run(ctx, "update", c.Box, c.Key, c.Due.UnixMilli(), flag(c.Dead), sealed, c.Received.UnixMilli(),
		flag(c.Refused), int(redisKeeps.Seconds())).Err())
}

// Hurry implements [Store]. Others are let in between: a script keeps Redis from
// everything else.
func (r *Redis) Hurry(ctx context.Context, box string, now time.Time, refused bool) error {
	for left := int64(0); ; {
		counts, err := r.run(ctx, "hurry", box, now.UnixMilli(), flag(refused), left, redisPage).Int64Slice()
		if err != nil || len(counts) != 2 || counts[0] < redisPage {
			return redisFailed(err)
		}
		left += counts[1]
	}
}

// List implements [Store].
func (r *Redis) List(ctx context.Context, box, after string, limit int) (all []Call, next string, err error) {
	from, err := parseCursor(after)
	if err != nil {
		return nil, "", err
	}
	for {
		page, more, err := r.page(ctx, box, from, min(limit-len(all), redisPage))
		if err != nil {
			return nil, "", err
		}
		if all = append(all, page...); !more {
			return all, "", nil
		}
		last := all[len(all)-1]
		if from = (cursor{last.Received.UnixMilli(), last.Key}); len(all) == limit {
			return all, from.String(), nil
		}
	}
}

// page returns at most limit calls behind a place, and whether there are more.
func (r *Redis) page(ctx context.Context, box string, from cursor, limit int) (calls []Call, more bool, err error) {
	score := strconv.FormatInt(from.received, 10)
	if from == (cursor{received: math.MinInt64}) {
		score = "-inf"
	}
	found, err := r.run(ctx, "list", box, score, from.key, limit).Slice()
	if err != nil {
		return nil, false, redisFailed(err)
	}
	for _, item := range found[:min(limit, len(found))] {
		fields, _ := item.([]any)
		var text [7]string
		for i := range min(len(fields), len(text)) {
			text[i], _ = fields[i].(string)
		}
		c, err := r.open(box, text[0], text[4])
		if err != nil {
			c = &Call{
				Key: text[5], Box: box, Account: text[0], Lane: text[1],
				Received: millis(text[6]), Due: millis(text[2]), Dead: text[3] == "1", Error: unreadable(err),
			}
		}
		c.Body = nil
		calls = append(calls, *c)
	}
	return calls, len(found) > limit, nil
}

// Get implements [Store].
func (r *Redis) Get(ctx context.Context, box, key string) (*Call, error) {
	fields, err := r.client.HMGet(ctx, r.base(box)+"call:"+key, "account", "call").Result()
	if err != nil {
		return nil, redisFailed(err)
	}
	account, _ := fields[0].(string)
	value, ok := fields[1].(string)
	if !ok {
		return nil, nil
	}
	return r.open(box, account, value)
}

// Drop implements [Store].
func (r *Redis) Drop(ctx context.Context, box, key string) (bool, error) {
	removed, err := r.run(ctx, "drop", box, key).Bool()
	return removed, redisFailed(err)
}

// Stats implements [Store].
func (r *Redis) Stats(ctx context.Context, box string) (s Stats, err error) {
	answer, err := r.run(ctx, "stats", box).Slice()
	if err != nil || len(answer) != 3 {
		return s, redisFailed(err)
	}
	waiting, _ := answer[0].(int64)
	buried, _ := answer[1].(int64)
	s.Waiting, s.Dead = int(waiting), int(buried)
	if text, _ := answer[2].(string); text != "" {
		s.Oldest = millis(text)
	}
	return s, nil
}

// Boxes implements [Store].
func (r *Redis) Boxes(ctx context.Context) ([]string, error) {
	all, err := r.client.SMembers(ctx, r.boxes()).Result()
	if err != nil {
		return nil, redisFailed(err)
	}
	slices.Sort(all)
	var names []string
	for _, name := range all {
		s, err := r.Stats(ctx, name)
		if err != nil {
			return nil, err
		}
		if s.Waiting+s.Dead > 0 {
			names = append(names, name)
		}
	}
	return names, nil
}

// Doubts returns what in the server's settings speaks against trusting it with what
// must not be lost, such as that it keeps nothing on disk.
func (r *Redis) Doubts(ctx context.Context) ([]string, error) {
	info, err := r.client.Info(ctx, "persistence", "memory").Result()
	if err != nil {
		return nil, redisFailed(err)
	}
	var doubts []string
	for line := range strings.SplitSeq(info, "\r\n") {
		switch name, value, _ := strings.Cut(line, ":"); {
		case name == "aof_enabled" && value == "0":
			doubts = append(doubts, "it has no append-only file: if it dies, calls are lost; set `appendonly yes`, and `appendfsync always` to lose nothing at all")
		case name == "maxmemory_policy" && value != "noeviction":
			doubts = append(doubts, "it may throw away what it keeps when its memory is full; set `maxmemory-policy noeviction`")
		}
	}
	return doubts, nil
}

var _ Store = (*Redis)(nil)
