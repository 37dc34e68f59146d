// Package store keeps what must outlive a single request, and what several
// sidecars must share: the answers already given to DOKU's calls.
//
// [Memory] is the embedded store: no set-up, lost when the process ends.
package store

import (
	"context"
	"time"
)

// Store is a map from keys to values that expire. Keys name their owner, so
// that accounts stay apart. Implementations are safe for concurrent use.
type Store interface {
	// Get returns the value kept under key, and whether there is one. The
	// caller must not change the value.
	Get(ctx context.Context, key string) (value []byte, found bool, err error)

	// Set keeps value under key for ttl, which must be positive, in place of
	// any earlier one. The caller must not change value afterwards.
	Set(ctx context.Context, key string, value []byte, ttl time.Duration) error
}
