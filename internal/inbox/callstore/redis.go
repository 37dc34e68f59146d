package callstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore/callredis"
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
// Each account has an inbox of its own; all its keys are in one slot of a Redis cluster.
type Redis struct {
	in  *callredis.Redis
	now func() time.Time

	mu      sync.Mutex
	adopted map[string]time.Time // by inbox; see adopt
}

// NewRedis returns the store in r, which sees the calls of some accounts only. scope
// returns the scope of an account, which seals its calls and answers.
func NewRedis(r *store.Redis, scope func(account string) *store.Scoped, accounts ...string) *Redis {
	now := time.Now //nolint:forbidigo // only for how often it looks; see adoptEvery
	return &Redis{in: callredis.New(r, scope, accounts), now: now, adopted: make(map[string]time.Time)}
}

var errNoAccount = errors.New("a kept call is of an account that is not configured here")

// of returns the place of an account.
func (r *Redis) of(account string) (callredis.Place, error) {
	if p, found := r.in.Of(account); found {
		return p, nil
	}
	return callredis.Place{}, fmt.Errorf("%w: %w: %s", ErrStore, errNoAccount, account)
}

// runAll runs a script on an inbox of every account.
func (r *Redis) runAll(ctx context.Context, script, inbox string, args ...any) ([]*redis.Cmd, error) {
	answers := r.in.RunAll(ctx, script, inbox, args...)
	for _, answer := range answers {
		if err := redisFailed(answer.Err()); err != nil {
			return nil, err
		}
	}
	return answers, nil
}

func redisFailed(err error) error {
	if err == nil || errors.Is(err, redis.Nil) {
		return nil
	}
	return fmt.Errorf("%w: redis: %w", ErrStore, err)
}

func exec(ctx context.Context, pipe redis.Pipeliner) error {
	_, err := pipe.Exec(ctx)
	return redisFailed(err)
}

// sealCall returns c encoded and sealed.
func sealCall(p callredis.Place, c Call) ([]byte, error) {
	value, err := encodeCall(c)
	if err != nil {
		return nil, err
	}
	return p.Scope.Seal(p.Base(c.Inbox)+"call", value), nil
}

// openCall is the inverse of sealCall, for a call that is kept below base.
func openCall(p callredis.Place, base, value string) (*Call, error) {
	text, err := p.Scope.Open(base+"call", []byte(value))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	c, err := decodeCall(text)
	c.Account = p.Account // which may have had another name
	return &c, err
}

// openAnswer returns the answer in the record below base of a taken call: the account, 0,
// and the sealed answer.
func openAnswer(p callredis.Place, base, value string) (*store.Answer, error) {
	_, sealed, _ := strings.Cut(value, "\x00")
	text, err := p.Scope.Open(base+"taken", []byte(sealed))
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
	p, err := r.of(c.Account)
	if err != nil {
		return false, nil, err
	}
	if err := r.adopt(ctx, c.Inbox); err != nil {
		return false, nil, err
	}
	sealed, err := sealCall(p, c)
	if err != nil {
		return false, nil, err
	}
	pipe := r.in.Client.Pipeline()
	pipe.SAdd(ctx, r.in.NamesKey(), c.Inbox)
	before := pipe.Get(ctx, r.in.OldBase(c.Inbox)+"taken:"+c.Key)
	if err := exec(ctx, pipe); err != nil {
		return false, nil, err
	}
	if acked, err := openAnswer(p, r.in.OldBase(c.Inbox), before.Val()); before.Val() != "" && err == nil {
		return false, acked, nil
	}
	return r.addSealed(ctx, p, c, sealed)
}

func (r *Redis) addSealed(ctx context.Context, p callredis.Place, c Call, sealed []byte) (added bool, acked *store.Answer, err error) {
	found, err := r.in.Run(ctx, "add", p.Base(c.Inbox), c.Key, c.Account, c.OrderingKey, c.Due.UnixMilli(), c.Received.UnixMilli(),
		sealed, int(redisRetention.Seconds()), refusedFlag(c), flag(c.Dead)).StringSlice()
	switch {
	case err != nil:
		return false, nil, redisFailed(err)
	case len(found) == 2:
		acked, err = openAnswer(p, p.Base(c.Inbox), found[1])
		return false, acked, err
	}
	return len(found) == 1 && found[0] == "added", nil, nil
}

// Lookup implements [Store].
func (r *Redis) Lookup(ctx context.Context, inbox, key string) (acked *store.Answer, maybeTaken bool, err error) {
	if err := r.adopt(ctx, inbox); err != nil {
		return nil, false, err
	}
	pipe := r.in.Client.Pipeline()
	answers, kept := make([]*redis.StringCmd, len(r.in.Places)), make([]*redis.SliceCmd, len(r.in.Places))
	for i, p := range r.in.Places {
		answers[i] = pipe.Get(ctx, p.Base(inbox)+"taken:"+key)
		kept[i] = pipe.HMGet(ctx, p.Base(inbox)+"call:"+key, "dead", "refused")
	}
	before := pipe.Get(ctx, r.in.OldBase(inbox)+"taken:"+key)
	if err := exec(ctx, pipe); err != nil {
		return nil, false, err
	}
	for i, p := range r.in.Places {
		if fields := kept[i].Val(); len(fields) == 2 && fields[0] == flag(false) && fields[1] == flagMaybeTaken {
			maybeTaken = true
		}
		if value := answers[i].Val(); value != "" {
			acked, err = openAnswer(p, p.Base(inbox), value)
			return acked, maybeTaken, err
		}
		if acked, err := openAnswer(p, r.in.OldBase(inbox), before.Val()); before.Val() != "" && err == nil {
			return acked, maybeTaken, nil
		}
	}
	return nil, maybeTaken, nil
}

// Ack implements [Store].
func (r *Redis) Ack(ctx context.Context, c Call, answer store.Answer, ttl time.Duration) error {
	p, err := r.of(c.Account)
	if err != nil {
		return err
	}
	base := p.Base(c.Inbox)
	sealed := p.Scope.Seal(base+"taken", answer.Encode())
	return redisFailed(r.in.Run(ctx, "ack", base, c.Key, c.Account+"\x00"+string(sealed), ttl.Milliseconds()).Err())
}

// Peek implements [Store].
func (r *Redis) Peek(ctx context.Context, inbox, orderingKey string) (*Call, error) {
	answers, err := r.runAll(ctx, "peek", inbox, orderingKey)
	if err != nil {
		return nil, err
	}
	for i, p := range r.in.Places {
		fields, err := answers[i].StringSlice()
		if err != nil || len(fields) != 3 || fields[1] == "" {
			continue
		}
		c, err := openCall(p, p.Base(inbox), fields[1])
		if err != nil {
			return nil, err
		}
		c.Due = parseMillis(fields[2]) // RetryNow does not change the sealed call
		return c, nil
	}
	return nil, nil
}

// Due implements [Store].
func (r *Redis) Due(ctx context.Context, inbox string, now time.Time, limit int) (orderingKeys []string, next time.Time, err error) {
	if err := r.adopt(ctx, inbox); err != nil {
		return nil, next, err
	}
	answers, err := r.runAll(ctx, "due", inbox, now.UnixMilli(), limit)
	if err != nil {
		return nil, next, err
	}
	found := make([][]any, len(answers))
	for i, answer := range answers {
		fields, err := answer.Slice()
		if err != nil || len(fields) != 2 {
			return nil, next, redisFailed(err)
		}
		if text, _ := fields[0].(string); text != "" {
			if at := parseMillis(text); next.IsZero() || at.Before(next) {
				next = at
			}
		}
		found[i], _ = fields[1].([]any)
	}
	for n := range limit { // in turn, so that no account waits for another
		for _, lanes := range found {
			if n < len(lanes) && len(orderingKeys) < limit {
				name, _ := lanes[n].(string)
				orderingKeys = append(orderingKeys, name)
			}
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
	p, err := r.of(c.Account)
	if err != nil {
		return err
	}
	sealed, err := sealCall(p, c)
	if err != nil {
		return err
	}
	return redisFailed(r.in.Run(ctx, "update", p.Base(c.Inbox), c.Key, c.Due.UnixMilli(), flag(c.Dead), sealed, c.Received.UnixMilli(),
		refusedFlag(c), int(redisRetention.Seconds()), c.OrderingKey).Err())
}

// RetryNow implements [Store]. It runs its script page by page, because Redis does
// nothing else while a script runs.
func (r *Redis) RetryNow(ctx context.Context, inbox string, now time.Time, refused bool) error {
	if err := r.adopt(ctx, inbox); err != nil {
		return err
	}
	for _, p := range r.in.Places {
		for left, more := int64(0), true; more; {
			counts, err := r.in.Run(ctx, "retryNow", p.Base(inbox), now.UnixMilli(), flag(refused), left, redisPage).Int64Slice()
			if err != nil {
				return redisFailed(err)
			}
			more = len(counts) == 2 && counts[0] == redisPage
			if more {
				left += counts[1]
			}
		}
	}
	return nil
}

// List implements [Store].
func (r *Redis) List(ctx context.Context, inbox, after string, limit int) (all []Call, next string, err error) {
	from, err := parseCursor(after)
	if err != nil {
		return nil, "", err
	}
	if err := r.adopt(ctx, inbox); err != nil {
		return nil, "", err
	}
	for _, p := range r.in.Places {
		calls, err := r.list(ctx, p, inbox, from, limit+1)
		if err != nil {
			return nil, "", err
		}
		all = append(all, calls...)
	}
	slices.SortFunc(all, func(a, b Call) int {
		return cmp.Or(cmp.Compare(a.Received.UnixMilli(), b.Received.UnixMilli()), cmp.Compare(a.Key, b.Key))
	})
	if len(all) > limit {
		last := all[limit-1]
		return all[:limit], cursor{last.Received.UnixMilli(), last.Key}.String(), nil
	}
	return all, "", nil
}

// list returns at most limit calls of an account after a position.
func (r *Redis) list(ctx context.Context, p callredis.Place, inbox string, from cursor, limit int) (all []Call, err error) {
	for len(all) < limit {
		page := min(limit-len(all), redisPage)
		found, err := r.in.List(ctx, p.Base(inbox), from.score(), from.key, page)
		if err != nil {
			return nil, redisFailed(err)
		}
		for _, kept := range found[:min(page, len(found))] {
			all = append(all, listed(p, inbox, kept))
		}
		if len(found) <= page {
			break
		}
		last := all[len(all)-1]
		from = cursor{last.Received.UnixMilli(), last.Key}
	}
	return all, nil
}

// score returns the time of the position as a bound of a sorted set.
func (c cursor) score() string {
	if c == (cursor{received: math.MinInt64}) {
		return "-inf"
	}
	return strconv.FormatInt(c.received, 10)
}

// listed returns a kept call without its body.
func listed(p callredis.Place, inbox string, kept callredis.Kept) Call {
	c, err := openCall(p, p.Base(inbox), kept.Value)
	if err != nil {
		c = &Call{
			Key: kept.Key, Inbox: inbox, Account: p.Account, OrderingKey: kept.OrderingKey,
			Received: parseMillis(kept.Received), Due: parseMillis(kept.Due), Dead: kept.Dead, Error: unreadable(err),
		}
	}
	c.Body = nil
	return *c
}

// Get implements [Store].
func (r *Redis) Get(ctx context.Context, inbox, key string) (*Call, error) {
	if err := r.adopt(ctx, inbox); err != nil {
		return nil, err
	}
	for _, p := range r.in.Places {
		value, err := r.in.Client.HGet(ctx, p.Base(inbox)+"call:"+key, "call").Result()
		if redisFailed(err) != nil {
			return nil, redisFailed(err)
		}
		if err == nil {
			return openCall(p, p.Base(inbox), value)
		}
	}
	return nil, nil
}

// Drop implements [Store].
func (r *Redis) Drop(ctx context.Context, inbox, key string) (removed bool, err error) {
	if err := r.adopt(ctx, inbox); err != nil {
		return false, err
	}
	answers, err := r.runAll(ctx, "drop", inbox, key)
	for _, answer := range answers {
		if n, _ := answer.Int(); n > 0 {
			removed = true
		}
	}
	return removed, err
}

// Stats implements [Store].
func (r *Redis) Stats(ctx context.Context, inbox string) (s Stats, err error) {
	if err := r.adopt(ctx, inbox); err != nil {
		return s, err
	}
	answers, err := r.runAll(ctx, "stats", inbox)
	if err != nil {
		return s, err
	}
	for _, answer := range answers {
		fields, err := answer.Slice()
		if err != nil || len(fields) != 3 {
			return s, redisFailed(err)
		}
		waiting, _ := fields[0].(int64)
		dead, _ := fields[1].(int64)
		s.Waiting, s.Dead = s.Waiting+int(waiting), s.Dead+int(dead)
		if text, _ := fields[2].(string); text != "" {
			if oldest := parseMillis(text); s.Oldest.IsZero() || oldest.Before(s.Oldest) {
				s.Oldest = oldest
			}
		}
	}
	return s, nil
}

// Inboxes implements [Store].
func (r *Redis) Inboxes(ctx context.Context) ([]string, error) {
	all, err := r.in.Client.SMembers(ctx, r.in.NamesKey()).Result()
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
	warnings, err := r.in.DurabilityWarnings(ctx)
	return warnings, redisFailed(err)
}

var _ Store = (*Redis)(nil)
