// Package store keeps data that outlives a request and that several sidecars share:
// tokens, external ids of calls, and answers.
//
// [Memory] needs no set-up and loses its content when the process ends. [Redis] is
// shared by all sidecars that name the same server. [Scope] separates the accounts
// within a store and seals their values. [Locks] runs work at most once per key, on
// any store.
package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrStore means that the store cannot be reached, or that a value in it cannot be
// read. Every error of a [Store] wraps it, except the error of a context.
var ErrStore = errors.New("the store failed")

// ErrClosed means that the store is closed: it does not come back. It wraps [ErrStore].
var ErrClosed = fmt.Errorf("%w: it is closed", ErrStore)

// Store is a map from keys to values that expire, with leases: an owner can hold a
// key for a time, whether the key has a value or not. Values are never empty. A
// caller must not change a value after it passed it to a store or got it from one.
// Implementations are safe for concurrent use. They give up within seconds even if
// ctx has no deadline, because their callers rely on that.
type Store interface {
	// Get returns the value kept under key, or nil if there is none.
	Get(ctx context.Context, key string) ([]byte, error)

	// Set keeps value under key for ttl, at least 1 ms, and replaces an earlier value.
	Set(ctx context.Context, key string, value []byte, ttl time.Duration) error

	// Add keeps value under key for ttl and returns nil. If the key has a value
	// already, Add returns that value and changes nothing.
	Add(ctx context.Context, key string, value []byte, ttl time.Duration) ([]byte, error)

	// Claim leases all keys to owner, if none of them has a value or a lease of
	// another process. If owner claims again, that renews the lease. Owners with the form
	// <label>/<process>.<number> and the same process are of one process, which sees to
	// it that only one of them uses a key. Every other owner is a process of its own.
	//
	// A lease that its owner could not renew because the store was away is not given to
	// another process before its owner had time to renew it.
	Claim(ctx context.Context, owner string, lease time.Duration, keys ...string) (Claim, error)

	// Commit keeps the values of entries for ttl, ends the leases of owner on their
	// keys, and returns true. If a key has a value by now, or another process leases it,
	// Commit changes nothing and returns false. An expired lease does not prevent
	// Commit if no other process has taken the key since.
	Commit(ctx context.Context, owner string, ttl time.Duration, entries ...Entry) (bool, error)

	// Release ends the leases of owner on keys.
	Release(ctx context.Context, owner string, keys ...string) error
}

// Entry is a key with its value.
type Entry struct {
	Key   string
	Value []byte
}

// Claim is the result of [Store].Claim.
type Claim struct {
	Held bool // all keys are leased to the caller; then Values and Holders are nil

	Values  [][]byte // for each key its value, or nil
	Holders []string // for each key the owner of its lease, or ""
}

// processOf returns the process of an owner; see [Store].Claim.
func processOf(owner string) string {
	_, rest, found := strings.Cut(owner, "/")
	at := strings.LastIndexByte(rest, '.')
	if !found || at < 0 {
		return owner
	}
	return rest[:at]
}
