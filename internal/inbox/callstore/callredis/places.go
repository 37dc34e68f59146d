// Package callredis has the atomic operations on inboxes in Redis, and where their keys
// are.
package callredis

import (
	"context"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-doku/caddy-doku/internal/store"
)

// Redis has the inboxes of some accounts. It is safe for concurrent use.
type Redis struct {
	Client redis.UniversalClient
	Prefix string // of all keys
	Places []Place
}

// Place is where the inboxes of an account are.
type Place struct {
	Account string
	Scope   *store.Scoped

	prefix, hash string
}

// New returns the inboxes of accounts in r. scope returns the scope of an account.
func New(r *store.Redis, scope func(account string) *store.Scoped, accounts []string) *Redis {
	client, prefix := r.Client()
	all := &Redis{Client: client, Prefix: prefix}
	for _, account := range accounts {
		of := scope(account)
		all.Places = append(all.Places, Place{account, of, prefix, store.HashName(of.Name())})
	}
	return all
}

// Base returns the prefix of all keys of an inbox of the account. They are in one slot of
// a cluster.
func (p Place) Base(inbox string) string { return p.prefix + "{inbox:" + inbox + ":" + p.hash + "}:" }

// Of returns the place of an account, if it is one of these.
func (r *Redis) Of(account string) (p Place, found bool) {
	for _, p := range r.Places {
		if p.Account == account {
			return p, true
		}
	}
	return Place{}, false
}

// OldBase returns the prefix of all keys of an inbox in versions before this one, which
// kept the calls of all accounts in one inbox.
func (r *Redis) OldBase(inbox string) string { return r.Prefix + "{inbox:" + inbox + "}:" }

// OldLease returns the key of the lease of an ordering key in those versions.
func (r *Redis) OldLease(inbox, orderingKey string) string {
	return r.Prefix + "lease:{inbox:" + inbox + "}/" + orderingKey
}

// NamesKey returns the key of the set of the names of all inboxes.
func (r *Redis) NamesKey() string { return r.Prefix + "inboxes" }

// Run runs a script on the inbox whose keys begin with base.
func (r *Redis) Run(ctx context.Context, script, base string, args ...any) *redis.Cmd {
	return scripts[script].Run(ctx, r.Client, []string{base}, args...)
}

// RunAll runs a script on an inbox of every account, in one round trip, and returns the
// answers in the order of the places.
func (r *Redis) RunAll(ctx context.Context, script, inbox string, args ...any) []*redis.Cmd {
	answers := make([]*redis.Cmd, len(r.Places))
	pipe := r.Client.Pipeline()
	for i, p := range r.Places {
		answers[i] = scripts[script].EvalSha(ctx, pipe, []string{p.Base(inbox)}, args...)
	}
	_, _ = pipe.Exec(ctx) // the error is that of one of the commands
	for i, p := range r.Places {
		if redis.HasErrorPrefix(answers[i].Err(), "NOSCRIPT") {
			answers[i] = r.Run(ctx, script, p.Base(inbox), args...)
		}
	}
	return answers
}

// Kept is a call as it is in Redis.
type Kept struct {
	OrderingKey, Due, Value, Key, Received string
	Dead                                   bool
}

// List returns, in the order in which they were received, up to one more than limit calls
// below base that come after a score and a key.
func (r *Redis) List(ctx context.Context, base, score, key string, limit int) ([]Kept, error) {
	found, err := r.Run(ctx, "list", base, score, key, limit).Slice()
	if err != nil {
		return nil, err
	}
	calls := make([]Kept, len(found))
	for n, item := range found {
		fields, _ := item.([]any)
		var text [7]string
		for i := range min(len(fields), len(text)) {
			text[i], _ = fields[i].(string)
		}
		calls[n] = Kept{OrderingKey: text[1], Due: text[2], Dead: text[3] == "1", Value: text[4], Key: text[5], Received: text[6]}
	}
	return calls, nil
}

// DurabilityWarnings returns a warning for each setting of the server that can lose calls,
// and how to change it. While the server loads its data, it waits until ctx ends.
func (r *Redis) DurabilityWarnings(ctx context.Context) (warnings []string, err error) {
	info, err := r.loaded(ctx)
	for line := range strings.SplitSeq(info, "\r\n") {
		switch name, value, _ := strings.Cut(line, ":"); {
		case name == "aof_enabled" && value == "0":
			warnings = append(warnings, "it has no append-only file: if it dies, calls are lost; "+
				"set `appendonly yes`, and `appendfsync always` to lose nothing at all")
		case name == "maxmemory_policy" && value != "noeviction":
			warnings = append(warnings, "it may throw away what it keeps when its memory is full; set `maxmemory-policy noeviction`")
		}
	}
	return warnings, err
}

const loadingPoll = time.Second

// loaded returns the settings of the server when it has loaded its data. Until then it says
// that it has no append-only file.
func (r *Redis) loaded(ctx context.Context) (info string, err error) {
	for {
		info, err = r.Client.Info(ctx, "persistence", "memory").Result()
		if err == nil && !strings.Contains(info, "\r\nloading:1") && !strings.Contains(info, "\r\nasync_loading:1") {
			return info, nil
		}
		if err != nil && !redis.HasErrorPrefix(err, "LOADING") {
			return "", err
		}
		select {
		case <-time.After(loadingPoll):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}
