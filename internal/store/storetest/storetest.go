// Package storetest has stores that fail, for tests.
package storetest

import (
	"context"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/store"
)

// Away is a store that cannot be reached.
type Away struct{ store.Store }

// Get fails.
func (Away) Get(context.Context, string) ([]byte, error) { return nil, store.ErrStore }

// Add fails.
func (Away) Add(context.Context, string, []byte, time.Duration) ([]byte, error) {
	return nil, store.ErrStore
}

// Claim fails.
func (Away) Claim(context.Context, string, time.Duration, ...string) (store.Claim, error) {
	return store.Claim{}, store.ErrStore
}

// Set fails.
func (Away) Set(context.Context, string, []byte, time.Duration) error { return store.ErrStore }

// Commit fails.
func (Away) Commit(context.Context, string, time.Duration, ...store.Entry) (bool, error) {
	return false, store.ErrStore
}

// Release fails.
func (Away) Release(context.Context, string, ...string) error { return store.ErrStore }
