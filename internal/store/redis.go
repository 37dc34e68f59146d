package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// The default timeouts. They are short because every call waits for Redis. The URL
// can change all but commandTimeout.
const (
	redisDial    = 2 * time.Second
	redisTimeout = time.Second
	redisRetries = 1
	redisDials   = 1 // attempts to open a connection

	// commandTimeout limits one command in total: connecting, retries and the wait for
	// a free connection. A Redis that does not answer within it counts as away.
	commandTimeout = 2 * time.Second
)

// RedisConfig says where Redis is.
type RedisConfig struct {
	// URL is in the format of go-redis: redis://user:password@host:6379/0, rediss://
	// for TLS, unix:///path. With the parameter master_name it names Sentinels; with
	// addr=host:port, once for each further node, it names a cluster.
	URL string

	Cluster bool   // URL names a cluster, also without the parameter addr
	Prefix  string // of every key; default "doku:"
}

// Redis is a [Store] in a Redis server of version 6 or later, which several sidecars
// can share. Every key has a time to live. Each atomic operation is one script, which
// is one round trip. A command fails after 2 s. It is safe for concurrent use.
type Redis struct {
	client  redis.UniversalClient
	prefix  string
	contact *contact

	ignoreMaxMemory bool // see IgnoringMaxMemory
}

// NewRedis returns the store at cfg.URL, or an error if the URL is wrong. It does not
// use the network: commands connect when they need to. The caller must end it with
// [Redis.Close]. An error contains no part of the URL, which may have a password.
func NewRedis(cfg RedisConfig) (*Redis, error) {
	client, err := newClient(cfg)
	if err != nil {
		return nil, err
	}
	client.AddHook(bounded{})
	prefix := cfg.Prefix
	if prefix == "" {
		prefix = "doku:"
	}
	return &Redis{client: client, prefix: prefix, contact: newContact(client)}, nil
}

func newClient(cfg RedisConfig) (redis.UniversalClient, error) {
	u, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	query := u.Query()
	switch {
	case query.Has("master_name"):
		o, err := redis.ParseFailoverURL(cfg.URL)
		if err != nil {
			return nil, fmt.Errorf("redis: the Sentinel URL: %w", err)
		}
		setDefaults(&o.DialTimeout, &o.ReadTimeout, &o.WriteTimeout, &o.MaxRetries, &o.DialerRetries)
		o.ContextTimeoutEnabled = true
		return redis.NewFailoverClient(o), nil
	case cfg.Cluster || query.Has("addr"):
		o, err := redis.ParseClusterURL(cfg.URL)
		if err != nil {
			return nil, fmt.Errorf("redis: the cluster URL: %w", err)
		}
		setDefaults(&o.DialTimeout, &o.ReadTimeout, &o.WriteTimeout, &o.MaxRetries, &o.DialerRetries)
		o.ContextTimeoutEnabled = true
		return redis.NewClusterClient(o), nil
	}
	o, err := redis.ParseURL(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("redis: the URL: %w", err)
	}
	setDefaults(&o.DialTimeout, &o.ReadTimeout, &o.WriteTimeout, &o.MaxRetries, &o.DialerRetries)
	o.ContextTimeoutEnabled = true
	return redis.NewClient(o), nil
}

// parseURL returns an error that contains no part of the URL, which may have a password.
func parseURL(text string) (*url.URL, error) {
	const example = "redis://localhost:6379/0"
	u, err := url.Parse(text)
	switch {
	case strings.ContainsAny(text[:min(len(text), 1)], "\"'`") || strings.HasPrefix(text, "“"):
		return nil, fmt.Errorf("redis: expected a URL such as %s, found one in quotes; take them away", example)
	case err != nil && !strings.Contains(text, "://"), err == nil && u.Opaque != "", err == nil && u.Scheme == "":
		return nil, fmt.Errorf("redis: expected a URL such as %s, found one without redis:// in front", example)
	case err != nil:
		return nil, fmt.Errorf("redis: expected a URL such as %s, found something else; "+
			"write @, /, ? and # in a password as %%40, %%2F, %%3F and %%23", example)
	case u.Scheme != "redis" && u.Scheme != "rediss" && u.Scheme != "unix":
		return nil, fmt.Errorf("redis: expected a URL such as %s, rediss:// for TLS or unix:///path, found one with another scheme", example)
	}
	return u, nil
}

func setDefaults(dial, read, write *time.Duration, retries, dials *int) {
	for timeout, fallback := range map[*time.Duration]time.Duration{dial: redisDial, read: redisTimeout, write: redisTimeout} {
		if *timeout == 0 {
			*timeout = fallback
		}
	}
	if *retries == 0 {
		*retries = redisRetries
	}
	if *dials == 0 {
		*dials = redisDials
	}
}

// bounded sets the deadline of every command, so that no user of the client can
// forget it.
type bounded struct{}

func (bounded) DialHook(next redis.DialHook) redis.DialHook { return next }

func (bounded) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		ctx, cancel := context.WithTimeout(ctx, commandTimeout)
		defer cancel()
		return next(ctx, cmd)
	}
}

func (bounded) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		ctx, cancel := context.WithTimeout(ctx, commandTimeout)
		defer cancel()
		return next(ctx, cmds)
	}
}

// Close closes the connections. The store must not be used after it.
func (r *Redis) Close() error {
	r.contact.close()
	return r.client.Close()
}

// Client returns the connections and the prefix of all keys, for packages that keep
// data in the same Redis without a [Store].
func (r *Redis) Client() (client redis.UniversalClient, prefix string) { return r.client, r.prefix }

// IgnoringMaxMemory returns the same store, but its [Redis.Claim] succeeds even if
// Redis has reached its maxmemory. It is for work that frees memory.
func (r *Redis) IgnoringMaxMemory() *Redis {
	return &Redis{client: r.client, prefix: r.prefix, contact: r.contact, ignoreMaxMemory: true}
}

// Ping returns nil if the server answers.
func (r *Redis) Ping(ctx context.Context) error { return failed(r.client.Ping(ctx).Err()) }

// Get implements [Store].
func (r *Redis) Get(ctx context.Context, key string) ([]byte, error) {
	pipe := r.client.Pipeline()
	now, before := pipe.Get(ctx, r.value(key)), pipe.Get(ctx, r.oldValue(key))
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, failed(err)
	}
	if now.Err() != nil {
		now = before
	}
	value, err := now.Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	return value, failed(err)
}

// Set implements [Store].
func (r *Redis) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if err := check(ttl, value); err != nil {
		return err
	}
	return failed(r.client.Set(ctx, r.value(key), value, ttl).Err())
}

// The scripts. KEYS are the keys of values, each followed by the key of its lease and the
// key of its last lease, except in addScript. All keys of one script are in one slot of a cluster, because
// [Scope] puts the account in braces.
var (
	addScript = redis.NewScript(`
local kept = redis.call('GET', KEYS[1])
if kept then return kept end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false`)

	// KEYS[1] is the contact of this process. ARGV: owner, lease in ms, whether to ignore
	// maxmemory, ms to remember a lease that has expired. Redis checks its memory only
	// before the first write of a script, and it always allows a DEL.
	//
	// A lease that has expired, and was not released, is taken over only in contact: see
	// [contact].
	claimScript = redis.NewScript(redisOther + `
local function inContact()` + redisNow + `  local since = tonumber(redis.call('GET', KEYS[1]) or '')
  return since and now - since >= tonumber(ARGV[2])
end
local held = 1
local answer = {}
for i = 2, #KEYS, 3 do
  local value = redis.call('GET', KEYS[i])
  local holder = redis.call('GET', KEYS[i+1])
  if not holder then
    local past = redis.call('GET', KEYS[i+2])
    if past and other(past) and not inContact() then holder = past end
  end
  if value or holder and other(holder) then held = 0 end
  answer[#answer+1] = value or ''
  answer[#answer+1] = holder or ''
end
if held == 1 then
  for i = 2, #KEYS, 3 do
    if ARGV[3] == '1' then redis.call('DEL', KEYS[i+1]) end
    redis.call('SET', KEYS[i+1], ARGV[1], 'PX', ARGV[2])
    redis.call('SET', KEYS[i+2], ARGV[1], 'PX', ARGV[4])
  end
end
answer[#answer+1] = held
return answer`)

	// ARGV: owner, time to live in ms, values. If the first answer was lost and the
	// script runs again, it returns 1 again.
	commitScript = redis.NewScript(redisOther + `
local free, done = true, true
for i = 1, #KEYS, 3 do
  local value = redis.call('GET', KEYS[i])
  local holder = redis.call('GET', KEYS[i+1])
  if value or holder and other(holder) then free = false end
  if value ~= ARGV[2+(i+2)/3] then done = false end
end
if done then return 1 end
if not free then return 0 end
for i = 1, #KEYS, 3 do
  redis.call('SET', KEYS[i], ARGV[2+(i+2)/3], 'PX', ARGV[2])
  redis.call('DEL', KEYS[i+1], KEYS[i+2])
end
return 1`)

	// ARGV: owner. Only its own leases: a release that runs late must not end a later one.
	releaseScript = redis.NewScript(`
for i = 1, #KEYS, 3 do
  for j = i + 1, i + 2 do
    if redis.call('GET', KEYS[j]) == ARGV[1] then redis.call('DEL', KEYS[j]) end
  end
end
return 1`)
)

// redisOther says in Lua whether an owner is of another process than the caller, which is
// ARGV[1]. Its function process is [processOf].
const redisOther = `
local function process(owner) return string.match(owner, '^[^/]*/(.*)%.%d+$') or owner end
local function other(owner) return owner ~= ARGV[1] and process(owner) ~= process(ARGV[1]) end
`

// pastKept is how long an expired lease is remembered, if nobody has released it. It is
// longer than Redis is ever away.
const pastKept = 24 * time.Hour

// keys returns, for each key, the keys in Redis of its value, of its lease and of its last
// lease, which is there until it is released. They come after those that are given.
func (r *Redis) keys(keys []string, before ...string) []string {
	all := append(make([]string, 0, len(before)+3*len(keys)), before...)
	for _, key := range keys {
		name := nameOf(key)
		all = append(all, r.prefix+"value:"+name, r.prefix+"lease:"+name, r.prefix+"past:"+name)
	}
	return all
}

// Add implements [Store].
func (r *Redis) Add(ctx context.Context, key string, value []byte, ttl time.Duration) ([]byte, error) {
	if err := check(ttl, value); err != nil {
		return nil, err
	}
	added, before, err := r.runBeside(ctx, addScript, []string{r.value(key)}, []any{value, ttl.Milliseconds()}, r.oldValue(key))
	if err != nil {
		return nil, err
	}
	earlier, err := added.Text()
	switch {
	case err == nil:
		return []byte(earlier), nil
	case !errors.Is(err, redis.Nil):
		return nil, failed(err)
	case before[0] == nil:
		return nil, nil
	}
	left, err := r.client.PTTL(ctx, r.oldValue(key)).Result()
	if err != nil {
		return nil, failed(err)
	}
	return before[0], r.Set(ctx, key, before[0], max(left, time.Millisecond))
}

// Claim implements [Store].
func (r *Redis) Claim(ctx context.Context, owner string, lease time.Duration, keys ...string) (Claim, error) {
	if err := check(lease); err != nil {
		return Claim{}, err
	}
	if len(keys) == 0 {
		return Claim{Held: true}, nil
	}
	old := make([]string, 0, 2*len(keys))
	for _, key := range keys {
		old = append(old, r.oldValue(key), r.oldLease(key))
	}
	claimed, before, err := r.runBeside(ctx, claimScript, r.keys(keys, r.contact.of(r.prefix, nameOf(keys[0]))),
		[]any{owner, lease.Milliseconds(), r.ignoreMaxMemory, pastKept.Milliseconds()}, old...)
	if err != nil {
		return Claim{}, err
	}
	answer, err := claimed.Slice()
	if err != nil {
		return Claim{}, failed(err)
	}
	if len(answer) != 2*len(keys)+1 {
		return Claim{}, fmt.Errorf("%w: expected an answer of %d parts, found %d", ErrStore, 2*len(keys)+1, len(answer))
	}
	held, _ := answer[2*len(keys)].(int64)
	anew := slices.ContainsFunc(before, func(value []byte) bool { return value != nil })
	if held == 1 && !anew {
		return Claim{Held: true}, nil
	}
	if held == 1 {
		if err := r.Release(ctx, owner, keys...); err != nil {
			return Claim{}, err
		}
	}
	c := Claim{Values: make([][]byte, len(keys)), Holders: make([]string, len(keys))}
	for i := range keys {
		if value, _ := answer[2*i].(string); value != "" {
			c.Values[i] = []byte(value)
		}
		c.Holders[i], _ = answer[2*i+1].(string)
		if c.Values[i] == nil {
			c.Values[i] = before[2*i]
		}
		if c.Holders[i] == "" {
			c.Holders[i] = string(before[2*i+1])
		}
	}
	return c, nil
}

// Commit implements [Store].
func (r *Redis) Commit(ctx context.Context, owner string, ttl time.Duration, entries ...Entry) (bool, error) {
	args := []any{owner, ttl.Milliseconds()}
	var keys []string
	for _, e := range entries {
		if err := check(ttl, e.Value); err != nil {
			return false, err
		}
		keys = append(keys, e.Key)
		args = append(args, e.Value)
	}
	done, err := commitScript.Run(ctx, r.client, r.keys(keys), args...).Bool()
	return done, failed(err)
}

// Release implements [Store].
func (r *Redis) Release(ctx context.Context, owner string, keys ...string) error {
	return failed(releaseScript.Run(ctx, r.client, r.keys(keys), owner).Err())
}

// Denied reports whether err says that Redis does not accept the user or its password, or
// forbids the user a command. Waiting does not help then.
func Denied(err error) bool {
	return err != nil && (redis.IsAuthError(err) || redis.IsPermissionError(err))
}

// NoDatabase reports whether err says that Redis has no database of the number in the URL.
// Waiting does not help then.
func NoDatabase(err error) bool {
	return redis.HasErrorPrefix(err, "DB index is out of range") || redis.HasErrorPrefix(err, "invalid DB index") ||
		redis.HasErrorPrefix(err, "SELECT is not allowed")
}

// LogTo sets where the Redis client of this process logs. It has no levels; errors of
// commands are returned, so what it logs is of the second rank.
func LogTo(log *slog.Logger) { redis.SetLogger(clientLog{log}) }

type clientLog struct{ log *slog.Logger }

// Printf implements the logger of the client.
func (l clientLog) Printf(ctx context.Context, format string, args ...any) {
	l.log.LogAttrs(ctx, slog.LevelWarn, "the Redis client reports", slog.String("detail", strings.TrimSpace(fmt.Sprintf(format, args...))))
}

// failed wraps an error of the client. The errors of Redis contain no values, so the
// result does not, either.
func failed(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, redis.ErrClosed) {
		return fmt.Errorf("%w: redis: %w", ErrClosed, err)
	}
	return fmt.Errorf("%w: redis: %w", ErrStore, err)
}

var _ Store = (*Redis)(nil)
