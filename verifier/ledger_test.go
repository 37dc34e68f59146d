package verifier

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/store"
)

func identity(externalID, paymentID, body string) Identity {
	return Identity{Account: "default", Service: snap.ServiceVAPayment, ExternalID: externalID, PaymentID: paymentID, Digest: snap.Digest([]byte(body))}
}

func newLedger(t testing.TB) *Ledger {
	t.Helper()
	memory := store.NewMemory()
	t.Cleanup(func() { _ = memory.Close() })
	return NewLedger(memory, DefaultLease)
}

// deliver begins a call that is expected to be handed to the app.
func deliver(t *testing.T, l *Ledger, id Identity) *Delivery {
	t.Helper()
	answer, delivery, err := l.Begin(t.Context(), id)
	if err != nil || answer != nil || delivery == nil {
		t.Fatalf("expected a delivery, found answer %v, error %v", answer, err)
	}
	return delivery
}

func fail(t *testing.T, d *Delivery) {
	t.Helper()
	if err := d.Failed(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestLedger(t *testing.T) {
	t.Parallel()
	given := store.Answer{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(`{"responseCode":"2002500"}`)}
	accepted := func(t *testing.T, l *Ledger, id Identity) {
		t.Helper()
		if err := deliver(t, l, id).Accepted(t.Context(), given, noon); err != nil {
			t.Fatal(err)
		}
	}
	replayed := func(t *testing.T, l *Ledger, id Identity) {
		t.Helper()
		answer, delivery, err := l.Begin(t.Context(), id)
		if err != nil || delivery != nil || answer == nil || !bytes.Equal(answer.Body, given.Body) {
			t.Errorf("expected the earlier answer, found %v, error %v", answer, err)
		}
	}
	t.Run("a repeat gets the earlier answer", func(t *testing.T) {
		t.Parallel()
		l := newLedger(t)
		accepted(t, l, identity("1", "p", "b"))
		replayed(t, l, identity("1", "p", "b"))
	})
	t.Run("the same payment under another external id is a repeat", func(t *testing.T) {
		t.Parallel()
		l := newLedger(t)
		accepted(t, l, identity("1", "p", "b"))
		replayed(t, l, identity("2", "p", "b"))
	})
	t.Run("the same payment id with another body goes to the app", func(t *testing.T) {
		t.Parallel()
		l := newLedger(t)
		accepted(t, l, identity("1", "p", "b"))
		fail(t, deliver(t, l, identity("2", "p", "other")))
	})
	t.Run("the same external id with another body is a conflict, also in flight", func(t *testing.T) {
		t.Parallel()
		l := newLedger(t)
		flying := deliver(t, l, identity("1", "p", "b"))
		for range 2 {
			if _, _, err := l.Begin(t.Context(), identity("1", "q", "other")); !errors.Is(err, ErrConflict) {
				t.Errorf("error %v", err)
			}
			if flying != nil {
				if err := flying.Accepted(t.Context(), given, noon); err != nil {
					t.Fatal(err)
				}
				flying = nil
			}
		}
	})
	t.Run("after a failure the next one goes to the app", func(t *testing.T) {
		t.Parallel()
		l := newLedger(t)
		fail(t, deliver(t, l, identity("1", "p", "b")))
		accepted(t, l, identity("1", "p", "b"))
	})
	t.Run("a repeat in flight stops waiting when its caller does", func(t *testing.T) {
		t.Parallel()
		l := newLedger(t)
		flying := deliver(t, l, identity("1", "p", "b"))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := l.Begin(ctx, identity("1", "p", "b")); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		fail(t, flying)
	})
	t.Run("services are apart", func(t *testing.T) {
		t.Parallel()
		l := newLedger(t)
		id := identity("1", "p", "b")
		accepted(t, l, id)
		id.Service = snap.ServiceVAInquiry
		fail(t, deliver(t, l, id))
	})
	t.Run("a store that fails lets nothing through", func(t *testing.T) {
		t.Parallel()
		l := NewLedger(failing{}, DefaultLease)
		if _, _, err := l.Begin(t.Context(), identity("1", "p", "b")); !errors.Is(err, errStore) {
			t.Errorf("error %v", err)
		}
	})
}

func TestLedgerUnderLoadCallsTheAppOnce(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	var (
		mu    sync.Mutex
		calls int
		wg    sync.WaitGroup
	)
	for i := range 100 {
		wg.Go(func() {
			answer, delivery, err := l.Begin(t.Context(), identity(string(rune('a'+i%5)), "p", "b"))
			if err != nil {
				t.Error(err)
				return
			}
			if delivery == nil {
				if answer.Status != 200 {
					t.Errorf("status %d", answer.Status)
				}
				return
			}
			mu.Lock()
			calls++
			mu.Unlock()
			if err := delivery.Accepted(t.Context(), store.Answer{Status: 200}, noon); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if calls != 1 {
		t.Errorf("the app was called %d times", calls)
	}
}

var errStore = errors.New("store away")

// failing is a store that is away.
type failing struct{ store.Store }

func (failing) Claim(context.Context, string, time.Duration, ...string) (store.Claim, error) {
	return store.Claim{}, errStore
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	key := identity("1", "p", "b").Key()
	if again := identity("2", "p", "b").Key(); again != key {
		t.Error("the same payment under another external id has another key")
	}
	if other := identity("1", "p", "other").Key(); other == key {
		t.Error("another body has the same key")
	}
	if PaymentID(snap.ServiceVAPayment, []byte(`{"paymentRequestId":"x"}`)) != "x" ||
		PaymentID(snap.ServiceDebitNotify, []byte(`{"originalExternalId":"x","latestTransactionStatus":"00"}`)) != "x/00" ||
		PaymentID(snap.ServiceVAPayment, []byte(`{}`)) != "" {
		t.Error("payment ids")
	}
}
