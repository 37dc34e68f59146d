package inbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-doku/caddy-doku/store"
)

// redisKeeps is for how long a box that nobody writes to any more is kept.
const redisKeeps = 60 * 24 * time.Hour

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
if taken then return taken end
local call = base..'call:'..ARGV[1]
local dead = redis.call('HGET', call, 'dead')
if dead == '0' then return false end
if dead then remove(ARGV[1]) end
redis.call('HSET', call, 'account', ARGV[2], 'lane', ARGV[3], 'due', ARGV[4], 'received', ARGV[5], 'dead', '0', 'call', ARGV[6])
redis.call('RPUSH', base..'lane:'..ARGV[3], ARGV[1])
redis.call('ZADD', base..'all', ARGV[5], ARGV[1])
redis.call('ZADD', base..'waiting', ARGV[5], ARGV[1])
redue(ARGV[3])
for _, key in ipairs({call, base..'lane:'..ARGV[3], base..'all', base..'waiting', base..'dead', base..'due'}) do redis.call('EXPIRE', key, ARGV[7]) end
return false`),

		// ARGV: key, account and sealed answer, milliseconds to live.
		"take": redis.NewScript(redisCommon + `
redis.call('SET', base..'taken:'..ARGV[1], ARGV[2], 'PX', ARGV[3])
return remove(ARGV[1])`),

		// ARGV: key.
		"drop": redis.NewScript(redisCommon + `return remove(ARGV[1])`),

		// ARGV: lane.
		"head": redis.NewScript(redisCommon + `
local key = redis.call('LINDEX', base..'lane:'..ARGV[1], 0)
if not key then return false end
return redis.call('HMGET', base..'call:'..key, 'account', 'call', 'due')`),

		// ARGV: now, limit.
		"due": redis.NewScript(redisCommon + `
local lanes = redis.call('ZRANGEBYSCORE', base..'due', '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
local next = redis.call('ZRANGEBYSCORE', base..'due', '('..ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {next[2] or '', lanes}`),

		// ARGV: key, due, dead, call, received.
		"update": redis.NewScript(redisCommon + `
local call = base..'call:'..ARGV[1]
local before = redis.call('HMGET', call, 'lane', 'dead')
if not before[1] then return 0 end
redis.call('HSET', call, 'due', ARGV[2], 'dead', ARGV[3], 'call', ARGV[4])
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
return 1`),

		// ARGV: now.
		"hurry": redis.NewScript(redisCommon + `
for _, lane in ipairs(redis.call('ZRANGEBYSCORE', base..'due', '('..ARGV[1], '+inf')) do
  local key = redis.call('LINDEX', base..'lane:'..lane, 0)
  if key then redis.call('HSET', base..'call:'..key, 'due', ARGV[1]) end
  redue(lane)
end
return 1`),

		// ARGV: limit.
		"list": redis.NewScript(redisCommon + `
local found = {}
for _, key in ipairs(redis.call('ZRANGE', base..'all', 0, ARGV[1] - 1)) do
  local call = redis.call('HMGET', base..'call:'..key, 'account', 'call')
  if call[2] then found[#found+1] = call end
end
return found`),

		"stats": redis.NewScript(redisCommon + `
local oldest = redis.call('ZRANGE', base..'waiting', 0, 0, 'WITHSCORES')
return {redis.call('ZCARD', base..'waiting'), redis.call('ZCARD', base..'dead'), oldest[2] or ''}`),
	}

	errNoAccount = errors.New("a kept call is of an account that is not configured here")
)

const redisCommon = `
local base = KEYS[1]
-- redue puts a lane where its first call is due, or nowhere if it has none.
local function redue(lane)
  local key = redis.call('LINDEX', base..'lane:'..lane, 0)
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
  for _, set in ipairs({'all', 'waiting', 'dead'}) do redis.call('ZREM', base..set, key) end
  redue(lane)
  return 1
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

func dead(c Call) string {
	if c.Dead {
		return "1"
	}
	return "0"
}

// Add implements [Store].
func (r *Redis) Add(ctx context.Context, c Call) (*store.Answer, error) {
	sealed, err := r.seal(c)
	if err != nil {
		return nil, err
	}
	if _, err := r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.SAdd(ctx, r.boxes(), c.Box)
		p.Expire(ctx, r.boxes(), redisKeeps)
		return nil
	}); err != nil {
		return nil, redisFailed(err)
	}
	taken, err := r.run(ctx, "add", c.Box, c.Key, c.Account, c.Lane, c.Due.UnixMilli(), c.Received.UnixMilli(), sealed, int(redisKeeps.Seconds())).Text()
	if err != nil {
		return nil, redisFailed(err)
	}
	return r.answer(c.Box, taken)
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
	text, err := answer.Encode()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	scope := r.scope(c.Account)
	if scope == nil {
		return fmt.Errorf("%w: %w: %s", ErrStore, errNoAccount, c.Account)
	}
	sealed := scope.Seal(r.base(c.Box)+"taken", text)
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
	return redisFailed(r.run(ctx, "update", c.Box, c.Key, c.Due.UnixMilli(), dead(c), sealed, c.Received.UnixMilli()).Err())
}

// Hurry implements [Store].
func (r *Redis) Hurry(ctx context.Context, box string, now time.Time) error {
	return redisFailed(r.run(ctx, "hurry", box, now.UnixMilli()).Err())
}

// List implements [Store].
func (r *Redis) List(ctx context.Context, box string, limit int) ([]Call, error) {
	found, err := r.run(ctx, "list", box, limit).Slice()
	if err != nil {
		return nil, redisFailed(err)
	}
	var all []Call
	for _, item := range found {
		fields, _ := item.([]any)
		if len(fields) != 2 {
			continue
		}
		account, _ := fields[0].(string)
		value, _ := fields[1].(string)
		c, err := r.open(box, account, value)
		if err != nil {
			return nil, err
		}
		c.Body = nil
		all = append(all, *c)
	}
	return all, nil
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
