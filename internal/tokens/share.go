package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/store"
)

// How sidecars share an account's token through their store.
const (
	tokenKey      = "token"
	tokenFetchKey = "token/fetch" // leased to the sidecar that fetches
	tokenLabel    = "fetch"

	fetchLease  = 4 * time.Second        // the longest time that a sidecar that dies while fetching blocks the others
	fetchPoll   = 100 * time.Millisecond // between two looks for the token that another sidecar fetches
	lookEvery   = time.Second            // at most, for a token that another sidecar has fetched
	lookTimeout = 2 * time.Second
)

// sharedToken is a token as kept in the store.
type sharedToken struct {
	Value   string    `json:"value"`
	Issued  time.Time `json:"issued"`
	Expires time.Time `json:"expires"`
}

// obtain gets a token from the store, or from DOKU. One from the store must be neither
// have, which is to be replaced, nor rejected, which DOKU has rejected. With wantNew,
// another sidecar must have fetched it meanwhile. Only one sidecar at a time asks DOKU.
// While another one does, a usable token in the store is taken at once: a renewal makes
// nobody wait. If the store is away, obtain asks DOKU without it.
func (s *Source) obtain(ctx context.Context, have *Token, rejected string, wantNew bool) (*Token, error) {
	if s.store == nil {
		return s.fetch(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*fetchDeadline)
	defer cancel()
	for {
		lease, err := s.tryLease(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, s.ended(ctx)
		case err != nil:
			s.log.WarnContext(ctx, "the store is away, so this sidecar fetches a token by itself", "client_id", s.clientID, "error", err)
			return s.fetch(ctx)
		}
		// After the attempt to get the lease: an earlier holder stores its token first, and
		// then ends its lease.
		kept := s.kept(ctx, have, rejected)
		if kept != nil && !wantNew {
			if lease != nil {
				_ = lease.Release(ctx) // without the store, the lease expires
			}
			return kept, nil
		}
		if lease != nil {
			return s.fetchForAll(ctx, lease)
		}
		wantNew = false // the sidecar that has the lease is about to store a new one
		select {
		case <-time.After(fetchPoll):
		case <-ctx.Done():
			return nil, s.ended(ctx)
		}
	}
}

// tryLease returns the right to fetch, or nil while another sidecar has it.
func (s *Source) tryLease(ctx context.Context) (*store.Lease, error) {
	lease, _, err := s.locks.TryAcquire(ctx, tokenLabel, tokenFetchKey)
	if errors.Is(err, store.ErrInFlight) || errors.Is(err, store.ErrOtherUse) { // earlier versions lease without a label
		return nil, nil
	}
	return lease, err
}

// fetchForAll fetches a token and stores it, and then ends the lease. If the lease
// expires meanwhile, two sidecars may fetch: an extra token, no harm.
func (s *Source) fetchForAll(ctx context.Context, lease *store.Lease) (*Token, error) {
	defer func() { _ = lease.Release(ctx) }() // without the store, the lease expires
	t, err := s.fetch(ctx)
	if err != nil {
		return nil, err
	}
	value, err := json.Marshal(sharedToken{t.Value, t.Issued, t.Expires})
	if err != nil {
		return nil, fmt.Errorf("keeping the token: %w", err)
	}
	if err := s.store.Set(ctx, tokenKey, value, t.Expires.Sub(s.clock.Now())); err != nil {
		s.log.WarnContext(ctx, "the new token could not be shared with other sidecars", "client_id", s.clientID, "error", err)
	}
	return t, nil
}

func (s *Source) ended(ctx context.Context) error {
	if s.ctx.Err() != nil {
		return ErrClosed
	}
	return fmt.Errorf("%w: waiting for another sidecar's token: %w", ErrUnreachable, context.Cause(ctx))
}

// kept returns the token in the store, or nil if there is none that may be used,
// or only the one that is in use already, have, or the one that DOKU has rejected.
func (s *Source) kept(ctx context.Context, have *Token, rejected string) *Token {
	value, err := s.store.Get(ctx, tokenKey)
	if err != nil {
		s.log.WarnContext(ctx, "the token in the store cannot be read", "client_id", s.clientID, "error", err)
		return nil
	}
	var shared sharedToken
	if value == nil || json.Unmarshal(value, &shared) != nil || !s.clock.Now().Before(shared.Expires) {
		return nil
	}
	if have != nil && shared.Value == have.Value || shared.Value == rejected {
		return nil
	}
	return newToken(shared.Value, shared.Issued, shared.Expires)
}

// look takes over, in the background, a newer token than the one in use that
// another sidecar has left in the store: DOKU promises only the newest to work.
func (s *Source) look(now time.Time) {
	last := s.lastLook.Load()
	if s.store == nil || now.UnixNano()-last < int64(lookEvery) || !s.lastLook.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil || s.flight != nil {
		return
	}
	s.wg.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, lookTimeout)
		defer cancel()
		have := s.current.Load()
		kept := s.kept(ctx, have, "")
		if kept == nil || have == nil || kept.Issued.Before(have.Issued) {
			return
		}
		if s.current.CompareAndSwap(have, kept) {
			s.log.DebugContext(ctx, "took over another sidecar's token", "client_id", s.clientID, "expires", kept.Expires)
		}
	})
}
