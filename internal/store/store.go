// Package store keeps what must outlive a single request, and what several
// sidecars must share: tokens, the external ids of calls, and the answers given.
//
// [Memory] is the embedded store: no set-up, lost when the process ends.
// [Redis] is shared by all sidecars that name the same server. [Scope] keeps
// accounts apart and values secret within either. [Locks] sees to it, on top of
// any of them, that a thing is done once for each of its keys.
package store

import (
	"context"
	"errors"
	"time"
)

// ErrStore is wrapped by every error of a [Store] that is not the context's: the
// store cannot be reached, or holds something that cannot be read.
var ErrStore = errors.New("the store failed")

// Store is a map from keys to values that expire, with leases: for a while, a key
// can be held by an owner, whether it has a value or not. Values are never empty,
// and callers must not change them once they were given or received.
// Implementations are safe for concurrent use, and give up by themselves within
// seconds, even if ctx has no deadline: what uses a store has no other one.
type Store interface {
	// Get returns the value kept under key, or nil if there is none.
	Get(ctx context.Context, key string) ([]byte, error)

	// Set keeps value under key for ttl, which must be positive, in place of any
	// earlier one.
	Set(ctx context.Context, key string, value []byte, ttl time.Duration) error

	// Add keeps value under key for ttl, unless there is a value already: then it
	// returns that one, otherwise nil.
	Add(ctx context.Context, key string, value []byte, ttl time.Duration) ([]byte, error)

	// Claim leases all of keys to owner, if none of them has a value or is leased
	// to somebody else. An owner may claim again what it holds, which prolongs
	// the lease.
	Claim(ctx context.Context, owner string, lease time.Duration, keys ...string) (Claim, error)

	// Finish keeps the values of entries for ttl and ends owner's leases of their
	// keys, and reports whether it did: not if one of them has a value by now, or
	// is leased to somebody else. That a lease has run out is no hindrance if
	// nobody else has taken the key since.
	Finish(ctx context.Context, owner string, ttl time.Duration, entries ...Entry) (bool, error)

	// Release ends those leases of keys that owner holds.
	Release(ctx context.Context, owner string, keys ...string) error
}

// Entry is a value with its key.
type Entry struct {
	Key   string
	Value []byte
}

// Claim is what came of claiming keys.
type Claim struct {
	Held bool // whether all keys are leased to the one who asked; then there is nothing else to tell

	Values  [][]byte // for each key its value, or nil
	Holders []string // for each key the owner of its lease, or ""
}
