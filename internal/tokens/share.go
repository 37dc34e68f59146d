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

	fetchLease  = 4 * time.Second // the longest time that a sidecar that dies while fetching blocks the others
	fetchPoll   = 100 * time.Millisecond
	lookEvery   = time.Second // at most, for a token that another sidecar has fetched
	lookTimeout = 2 * time.Second
)

// sharedToken is a token as kept in the store.
type sharedToken struct {
	Value   string    `json:"value"`
	Issued  time.Time `json:"issued"`
	Expires time.Time `json:"expires"`
}

// obtain gets a token from the store, or from DOKU. One from the store must be neither
// have, which is to be replaced, nor rejected, which DOKU has rejected; with wantNew,
// another sidecar must be fetching it now. Only one sidecar at a time asks DOKU. If the
// store is away, this one does not wait for it.
func (s *Source) obtain(ctx context.Context, have *Token, rejected string, wantNew bool) (*Token, error) {
	if s.store == nil {
		return s.fetch(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*fetchDeadline)
	defer cancel()
	lease, waited, err := s.leaseFetch(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, s.ended(ctx)
	case err != nil:
		s.log.WarnContext(ctx, "the store is away, so this sidecar fetches a token by itself", "client_id", s.clientID, "error", err)
		return s.fetch(ctx)
	}
	defer func() { _ = lease.Release(ctx) }() // without the store, the lease expires
	if kept := s.kept(ctx, have, rejected); kept != nil && (waited || !wantNew) {
		return kept, nil
	}
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

// leaseFetch waits for the right to fetch. waited says that another sidecar has fetched
// meanwhile, or tried to. If the lease expires, two may fetch: an extra token, no harm.
func (s *Source) leaseFetch(ctx context.Context) (lease *store.Lease, waited bool, err error) {
	lease, _, err = s.locks.TryAcquire(ctx, tokenLabel, tokenFetchKey)
	for err != nil && ctx.Err() == nil {
		switch {
		case errors.Is(err, store.ErrInFlight):
		case errors.Is(err, store.ErrOtherUse): // a sidecar of an earlier version, whose leases have no label
			select {
			case <-time.After(fetchPoll):
			case <-ctx.Done():
			}
		default:
			return nil, waited, err
		}
		waited = true
		lease, _, err = s.locks.Acquire(ctx, tokenLabel, tokenFetchKey)
	}
	return lease, waited, err
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
