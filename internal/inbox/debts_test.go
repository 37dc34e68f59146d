package inbox

import (
	"errors"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

// TestWhatTheAppHasTakenIsNotGivenAgain has the app's yes to a call that DOKU waits for,
// while the store can record nothing. One is the sidecar that has the yes, two another one.
func TestWhatTheAppHasTakenIsNotGivenAgain(t *testing.T) {
	t.Parallel()
	inBubbleWith(t, func(t *testing.T, b *callstore.Bolt, leases store.Store) {
		t.Helper()
		s := &forgetful{Store: b}
		one, two := newEnv(t, s, leases), newEnv(t, s, leases)
		defer one.run(t.Context())()
		defer two.run(t.Context())()
		s.broken.Store(true)
		for range 2 {
			if got, err := one.Forward(t.Context(), now("k", "va")); err != nil || got.Status != thanks.Status {
				t.Fatal(got, err)
			}
		}
		time.Sleep(time.Minute) // longer than a lease
		if _, err := two.Forward(t.Context(), now("k", "va")); !errors.Is(err, ErrKept) {
			t.Errorf("the other sidecar: %v", err)
		}
		s.broken.Store(false)
		time.Sleep(3 * time.Second)
		for _, e := range []*env{one, two} {
			if got, err := e.Forward(t.Context(), now("k", "va")); err != nil || got.Status != thanks.Status {
				t.Error(got, err)
			}
		}
		if n := len(one.app.given()) + len(two.app.given()); n != 1 {
			t.Errorf("the app got the call %d times", n)
		}
		if n := two.waiting(t); n != 0 {
			t.Errorf("%d wait", n)
		}
		if n := len(one.cfg.Slots.queues) + len(one.cfg.Slots.debts); n != 0 {
			t.Errorf("%d queues and debts are left", n)
		}
	})
}

func TestWhatTheAppMayHaveTakenIsNotTriedSoonThoughThatCannotBeRecorded(t *testing.T) {
	t.Parallel()
	inBubbleWith(t, func(t *testing.T, b *callstore.Bolt, leases store.Store) {
		t.Helper()
		s := &forgetful{Store: b}
		e := newEnv(t, s, leases)
		e.app.set(answering(200, ""))
		if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
			t.Fatal(err)
		}
		s.broken.Store(true)
		defer e.run(t.Context())()
		time.Sleep(time.Minute)
		if got := e.app.given(); len(got) != 1 {
			t.Errorf("the app was given %v", got)
		}
		s.broken.Store(false)
		time.Sleep(30 * time.Second) // the third attempt is a minute after the second
		if got := e.app.given(); len(got) != 2 {
			t.Errorf("the app was given %v", got)
		}
	})
}
