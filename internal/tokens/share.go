package tokens

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// How sidecars share an account's token through their store.
const (
	tokenKey      = "token"
	tokenFetchKey = "token/fetch" // leased to the sidecar that fetches

	fetchLease  = 4 * time.Second // for so long a sidecar that dies while fetching blocks the others
	fetchPoll   = 100 * time.Millisecond
	lookEvery   = time.Second // at most, for a token that another sidecar has got
	lookTimeout = 2 * time.Second
)

// sharedToken is a token as kept in the store.
type sharedToken struct {
	Value   string    `json:"value"`
	Issued  time.Time `json:"issued"`
	Expires time.Time `json:"expires"`
}

// obtain gets a token: one that another sidecar has left in the store, unless it
// is the one to be replaced, have, or the one that DOKU has rejected, or a new one
// is what is wanted; otherwise from DOKU. Only one sidecar at a time asks DOKU. If
// the store is away, this one does not wait for it to come back.
func (s *TokenSource) obtain(ctx context.Context, have *Token, rejected string, wantNew bool) (*Token, error) {
	if s.store == nil {
		return s.fetch(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*fetchDeadline)
	defer cancel()
	for {
		claim, err := s.store.Claim(ctx, s.owner, fetchLease, tokenFetchKey)
		if err != nil {
			if ctx.Err() != nil {
				return nil, s.ended(ctx)
			}
			s.log.WarnContext(ctx, "the store is away, so this sidecar fetches a token by itself", "client_id", s.clientID, "error", err)
			return s.fetch(ctx)
		}
		kept := s.kept(ctx, have, rejected)
		if kept != nil && !wantNew {
			if claim.Held {
				s.release(ctx)
			}
			return kept, nil
		}
		if claim.Held {
			return s.fetchForAll(ctx)
		}
		wantNew = false // whoever is at it will soon have a new one
		select {
		case <-time.After(fetchPoll):
		case <-ctx.Done():
			return nil, s.ended(ctx)
		}
	}
}

func (s *TokenSource) ended(ctx context.Context) error {
	if s.ctx.Err() != nil {
		return ErrTokenClosed
	}
	return fmt.Errorf("%w: waiting for another sidecar's token: %w", ErrTokenUnreachable, context.Cause(ctx))
}

// fetchForAll fetches a token while it holds the lease, which it then releases,
// and leaves it in the store.
func (s *TokenSource) fetchForAll(ctx context.Context) (*Token, error) {
	defer s.release(ctx)
	holding, stop := context.WithCancel(ctx)
	prolonging := make(chan struct{})
	go func() {
		defer close(prolonging)
		tick := time.NewTicker(fetchLease / 3)
		defer tick.Stop()
		for {
			select {
			case <-holding.Done():
				return
			case <-tick.C:
				// If it fails, another sidecar may fetch too: an extra token, no harm.
				_, _ = s.store.Claim(holding, s.owner, fetchLease, tokenFetchKey)
			}
		}
	}()
	t, err := s.fetch(ctx)
	stop()
	<-prolonging
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

// release lets others fetch, even if ctx has ended.
func (s *TokenSource) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer cancel()
	_ = s.store.Release(ctx, s.owner, tokenFetchKey) // otherwise the lease runs out
}

// kept returns the token in the store, or nil if there is none that may be used,
// or only the one that is in use already, have, or the one that DOKU has rejected.
func (s *TokenSource) kept(ctx context.Context, have *Token, rejected string) *Token {
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
func (s *TokenSource) look(now time.Time) {
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
