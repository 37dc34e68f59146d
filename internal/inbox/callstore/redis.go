package callstore

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

const (
	redisRetention = 60 * 24 * time.Hour // of an inbox that nobody writes to; dead calls stay
	redisPage      = 200                 // calls that one run of a script visits
)

// Redis is a [Store] in Redis, for several sidecars that share the work: the sidecar
// that has the slot of an ordering key delivers its first call. If that sidecar dies,
// another one continues after the lease has expired. Calls and answers are sealed with
// the secret of the account. It is safe for concurrent use.
//
// Each call is a hash, and each ordering key a list. Sorted sets have the ordering keys
// by due time and the calls by the time of receipt. It does not use a stream, because a
// stream can neither delay a call nor keep the calls of each virtual account in order.
// All keys of an inbox are in one slot of a Redis cluster.
type Redis struct {
	client redis.UniversalClient
	prefix string
	scope  func(account string) *store.Scoped
}

// NewRedis returns the store in r. scope returns the scope of an account, which seals its
// calls and answers, or nil if there is no such account.
func NewRedis(r *store.Redis, scope func(account string) *store.Scoped) *Redis {
	client, prefix := r.Client()
	return &Redis{client, prefix, scope}
}

// base returns the prefix of all keys of an inbox.
func (r *Redis) base(inbox string) string { return r.prefix + "{inbox:" + inbox + "}:" }

// inboxesKey returns the key of the set of the names of all inboxes.
func (r *Redis) inboxesKey() string { return r.prefix + "inboxes" }

func (r *Redis) run(ctx context.Context, script, inbox string, args ...any) *redis.Cmd {
	return redisScripts[script].Run(ctx, r.client, []string{r.base(inbox)}, args...)
}

var errNoAccount = errors.New("a kept call is of an account that is not configured here")

func redisFailed(err error) error {
	if err == nil || errors.Is(err, redis.Nil) {
		return nil
	}
	return fmt.Errorf("%w: redis: %w", ErrStore, err)
}

// sealCall returns c encoded and sealed.
func (r *Redis) sealCall(c Call) ([]byte, error) {
	value, err := encodeCall(c)
	if err != nil {
		return nil, err
	}
	scope := r.scope(c.Account)
	if scope == nil {
		return nil, fmt.Errorf("%w: %w: %s", ErrStore, errNoAccount, c.Account)
	}
	return scope.Seal(r.base(c.Inbox)+"call", value), nil
}

// openCall is the inverse of sealCall.
func (r *Redis) openCall(inbox, account, value string) (*Call, error) {
	scope := r.scope(account)
	if scope == nil {
		return nil, fmt.Errorf("%w: %w: %s", ErrUnreadable, errNoAccount, account)
	}
	text, err := scope.Open(r.base(inbox)+"call", []byte(value))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	c, err := decodeCall(text)
	return &c, err
}

// openAnswer returns the answer in the record of a taken call: the account, 0, and the
// sealed answer.
func (r *Redis) openAnswer(inbox, value string) (*store.Answer, error) {
	account, sealed, _ := strings.Cut(value, "\x00")
	scope := r.scope(account)
	if scope == nil {
		return nil, fmt.Errorf("%w: %w: %s", ErrStore, errNoAccount, account)
	}
	text, err := scope.Open(r.base(inbox)+"taken", []byte(sealed))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStore, err)
	}
	return store.DecodeAnswer(text)
}

// flagMaybeTaken is the value of the field refused of a call that the app may have taken.
const flagMaybeTaken = "2"

// refusedFlag returns the value of the field refused.
func refusedFlag(c Call) string {
	if c.MaybeTaken > 0 {
		return flagMaybeTaken
	}
	return flag(c.Refused)
}

// flag returns b as the scripts expect it.
func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// Add implements [Store].
func (r *Redis) Add(ctx context.Context, c Call) (added bool, acked *store.Answer, err error) {
	sealed, err := r.sealCall(c)
	if err != nil {
		return false, nil, err
	}
	if err := r.client.SAdd(ctx, r.inboxesKey(), c.Inbox).Err(); err != nil {
		return false, nil, redisFailed(err)
	}
	found, err := r.run(ctx, "add", c.Inbox, c.Key, c.Account, c.OrderingKey, c.Due.UnixMilli(), c.Received.UnixMilli(),
		sealed, int(redisRetention.Seconds()), refusedFlag(c)).StringSlice()
	switch {
	case err != nil:
		return false, nil, redisFailed(err)
	case len(found) == 2:
		acked, err = r.openAnswer(c.Inbox, found[1])
		return false, acked, err
	}
	return len(found) == 1 && found[0] == "added", nil, nil
}

// Lookup implements [Store].
func (r *Redis) Lookup(ctx context.Context, inbox, key string) (acked *store.Answer, maybeTaken bool, err error) {
	pipe := r.client.Pipeline()
	answer := pipe.Get(ctx, r.base(inbox)+"taken:"+key)
	kept := pipe.HMGet(ctx, r.base(inbox)+"call:"+key, "dead", "refused")
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, false, redisFailed(err)
	}
	fields := kept.Val()
	maybeTaken = fields[0] == flag(false) && fields[1] == flagMaybeTaken
	if value := answer.Val(); value != "" {
		acked, err = r.openAnswer(inbox, value)
	}
	return acked, maybeTaken, err
}

// Ack implements [Store].
func (r *Redis) Ack(ctx context.Context, c Call, answer store.Answer, ttl time.Duration) error {
	scope := r.scope(c.Account)
	if scope == nil {
		return fmt.Errorf("%w: %w: %s", ErrStore, errNoAccount, c.Account)
	}
	sealed := scope.Seal(r.base(c.Inbox)+"taken", answer.Encode())
	return redisFailed(r.run(ctx, "ack", c.Inbox, c.Key, c.Account+"\x00"+string(sealed), ttl.Milliseconds()).Err())
}

// Peek implements [Store].
func (r *Redis) Peek(ctx context.Context, inbox, orderingKey string) (*Call, error) {
	fields, err := r.run(ctx, "peek", inbox, orderingKey).StringSlice()
	if err != nil || len(fields) != 3 || fields[1] == "" {
		return nil, redisFailed(err)
	}
	c, err := r.openCall(inbox, fields[0], fields[1])
	if err != nil {
		return nil, err
	}
	c.Due = parseMillis(fields[2]) // RetryNow does not change the sealed call
	return c, nil
}

// Due implements [Store].
func (r *Redis) Due(ctx context.Context, inbox string, now time.Time, limit int) (orderingKeys []string, next time.Time, err error) {
	answer, err := r.run(ctx, "due", inbox, now.UnixMilli(), limit).Slice()
	if err != nil || len(answer) != 2 {
		return nil, next, redisFailed(err)
	}
	if text, _ := answer[0].(string); text != "" {
		next = parseMillis(text)
	}
	found, _ := answer[1].([]any)
	for _, item := range found {
		if name, ok := item.(string); ok {
			orderingKeys = append(orderingKeys, name)
		}
	}
	return orderingKeys, next, nil
}

// parseMillis reads a score of a sorted set.
func parseMillis(text string) time.Time {
	score, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(int64(score))
}

// Update implements [Store].
func (r *Redis) Update(ctx context.Context, c Call) error {
	sealed, err := r.sealCall(c)
	if err != nil {
		return err
	}
	return redisFailed(r.run(ctx, "update", c.Inbox, c.Key, c.Due.UnixMilli(), flag(c.Dead), sealed, c.Received.UnixMilli(),
		refusedFlag(c), int(redisRetention.Seconds()), c.OrderingKey).Err())
}

// RetryNow implements [Store]. It runs its script page by page, because Redis does
// nothing else while a script runs.
func (r *Redis) RetryNow(ctx context.Context, inbox string, now time.Time, refused bool) error {
	for left := int64(0); ; {
		counts, err := r.run(ctx, "retryNow", inbox, now.UnixMilli(), flag(refused), left, redisPage).Int64Slice()
		if err != nil || len(counts) != 2 || counts[0] < redisPage {
			return redisFailed(err)
		}
		left += counts[1]
	}
}

// List implements [Store].
func (r *Redis) List(ctx context.Context, inbox, after string, limit int) (all []Call, next string, err error) {
	from, err := parseCursor(after)
	if err != nil {
		return nil, "", err
	}
	for {
		page, more, err := r.page(ctx, inbox, from, min(limit-len(all), redisPage))
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

// page returns at most limit calls after a position, and whether there are more.
func (r *Redis) page(ctx context.Context, inbox string, from cursor, limit int) (calls []Call, more bool, err error) {
	score := strconv.FormatInt(from.received, 10)
	if from == (cursor{received: math.MinInt64}) {
		score = "-inf"
	}
	found, err := r.run(ctx, "list", inbox, score, from.key, limit).Slice()
	if err != nil {
		return nil, false, redisFailed(err)
	}
	for _, item := range found[:min(limit, len(found))] {
		fields, _ := item.([]any)
		var text [7]string
		for i := range min(len(fields), len(text)) {
			text[i], _ = fields[i].(string)
		}
		c, err := r.openCall(inbox, text[0], text[4])
		if err != nil {
			c = &Call{
				Key: text[5], Inbox: inbox, Account: text[0], OrderingKey: text[1],
				Received: parseMillis(text[6]), Due: parseMillis(text[2]), Dead: text[3] == "1", Error: unreadable(err),
			}
		}
		c.Body = nil
		calls = append(calls, *c)
	}
	return calls, len(found) > limit, nil
}

// Get implements [Store].
func (r *Redis) Get(ctx context.Context, inbox, key string) (*Call, error) {
	fields, err := r.client.HMGet(ctx, r.base(inbox)+"call:"+key, "account", "call").Result()
	if err != nil {
		return nil, redisFailed(err)
	}
	account, _ := fields[0].(string)
	value, ok := fields[1].(string)
	if !ok {
		return nil, nil
	}
	return r.openCall(inbox, account, value)
}

// Drop implements [Store].
func (r *Redis) Drop(ctx context.Context, inbox, key string) (bool, error) {
	removed, err := r.run(ctx, "drop", inbox, key).Bool()
	return removed, redisFailed(err)
}

// Stats implements [Store].
func (r *Redis) Stats(ctx context.Context, inbox string) (s Stats, err error) {
	answer, err := r.run(ctx, "stats", inbox).Slice()
	if err != nil || len(answer) != 3 {
		return s, redisFailed(err)
	}
	waiting, _ := answer[0].(int64)
	dead, _ := answer[1].(int64)
	s.Waiting, s.Dead = int(waiting), int(dead)
	if text, _ := answer[2].(string); text != "" {
		s.Oldest = parseMillis(text)
	}
	return s, nil
}

// Inboxes implements [Store].
func (r *Redis) Inboxes(ctx context.Context) ([]string, error) {
	all, err := r.client.SMembers(ctx, r.inboxesKey()).Result()
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

// DurabilityWarnings returns a warning for each setting of the server that can lose
// calls, and how to change it. For example, the server may keep nothing on disk.
func (r *Redis) DurabilityWarnings(ctx context.Context) ([]string, error) {
	info, err := r.client.Info(ctx, "persistence", "memory").Result()
	if err != nil {
		return nil, redisFailed(err)
	}
	var warnings []string
	for line := range strings.SplitSeq(info, "\r\n") {
		switch name, value, _ := strings.Cut(line, ":"); {
		case name == "aof_enabled" && value == "0":
			warnings = append(warnings, "it has no append-only file: if it dies, calls are lost; "+
				"set `appendonly yes`, and `appendfsync always` to lose nothing at all")
		case name == "maxmemory_policy" && value != "noeviction":
			warnings = append(warnings, "it may throw away what it keeps when its memory is full; set `maxmemory-policy noeviction`")
		}
	}
	return warnings, nil
}

var _ Store = (*Redis)(nil)
