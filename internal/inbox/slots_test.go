package inbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

// leaseStore is a store of leases that is slow, or away.
type leaseStore struct {
	store.Store
	slow time.Duration
	away atomic.Bool
}

func (l *leaseStore) Claim(ctx context.Context, owner string, lease time.Duration, keys ...string) (store.Claim, error) {
	if l.away.Load() {
		return store.Claim{}, store.ErrStore
	}
	claim, err := l.Store.Claim(ctx, owner, lease, keys...)
	select {
	case <-time.After(l.slow):
		return claim, err
	case <-ctx.Done():
		return store.Claim{}, ctx.Err()
	}
}

func TestSlotsAreLeased(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"a slow store of leases is enough", slotsOfASlowStore},
		{"a store of leases that is away is logged now and then", slotsOfAStoreThatIsAway},
		{"Forward keeps the call when its lease has expired", forwardWithAnExpiredSlot},
		{"a worker stops when its lease has expired", workerWithAnExpiredSlot},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t)
		})
	}
}

func slotsOfASlowStore(t *testing.T) {
	t.Helper()
	inBubbleWith(t, func(t *testing.T, b *callstore.Bolt, leases store.Store) {
		t.Helper()
		e := newEnv(t, b, &leaseStore{Store: leases, slow: time.Second})
		defer e.run(t.Context())()
		if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if e.waiting(t) != 0 {
			t.Error("it is not delivered")
		}
	})
}

func slotsOfAStoreThatIsAway(t *testing.T) {
	t.Helper()
	inBubbleWith(t, func(t *testing.T, b *callstore.Bolt, leases store.Store) {
		t.Helper()
		l := &leaseStore{Store: leases}
		l.away.Store(true)
		e := newEnv(t, b, l)
		defer e.run(t.Context())()
		for n := range 50 {
			if err := e.Enqueue(t.Context(), now(fmt.Sprint(n), fmt.Sprint("va", n))); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		if n := strings.Count(e.log.String(), "cannot deliver the kept calls"); n < 2 || n > 7 {
			t.Errorf("it is logged %d times in a minute: %s", n, e.log)
		}
		l.away.Store(false)
		time.Sleep(6 * time.Minute)
		if n := e.waiting(t); n != 0 {
			t.Errorf("%d still wait", n)
		}
	})
}

func forwardWithAnExpiredSlot(t *testing.T) {
	t.Helper()
	inBubbleWith(t, func(t *testing.T, b *callstore.Bolt, leases store.Store) {
		t.Helper()
		l := &leaseStore{Store: leases}
		e := newEnv(t, b, l)
		e.cfg.AnswerWithin, e.cfg.AttemptTimeout = time.Hour, time.Minute
		e.app.set(func(callstore.Call) (store.Answer, error) {
			l.away.Store(true)
			time.Sleep(15 * time.Second)
			return store.Answer{Status: 503}, nil
		})
		begin := time.Now()
		_, err := e.Forward(t.Context(), now("k", "va"))
		if !errors.Is(err, ErrKept) || !errors.Is(err, errSlotExpired) || time.Since(begin) > 16*time.Second {
			t.Errorf("error %v after %s", err, time.Since(begin))
		}
	})
}

func workerWithAnExpiredSlot(t *testing.T) {
	t.Helper()
	inBubbleWith(t, func(t *testing.T, b *callstore.Bolt, leases store.Store) {
		t.Helper()
		l := &leaseStore{Store: leases}
		one, two := newEnv(t, b, l), newEnv(t, b, leases)
		one.cfg.AttemptTimeout = time.Minute
		one.app.set(func(callstore.Call) (store.Answer, error) {
			time.Sleep(15 * time.Second)
			return thanks, nil
		})
		two.app.set(func(callstore.Call) (store.Answer, error) {
			time.Sleep(4 * time.Second)
			return thanks, nil
		})
		for n := range 6 {
			if err := one.Enqueue(t.Context(), now(fmt.Sprint(n), "va")); err != nil {
				t.Fatal(err)
			}
		}
		defer one.run(t.Context())()
		synctest.Wait()
		l.away.Store(true)
		defer two.run(t.Context())()
		time.Sleep(20 * time.Second)
		l.away.Store(false)
		time.Sleep(2 * time.Minute)
		if first, others := one.app.given(), two.app.given(); fmt.Sprint(first) != "[0/1]" || len(others) != 6 {
			t.Errorf("the worker whose lease expired delivered %v, the other one %v", first, others)
		}
	})
}

func TestCallersThatWaitForASlotGetItInOrder(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, e *env) {
		t.Helper()
		e.app.set(func(callstore.Call) (store.Answer, error) {
			time.Sleep(3 * time.Second)
			return thanks, nil
		})
		var wg sync.WaitGroup
		for n := range 6 {
			wg.Go(func() {
				ctx := t.Context()
				if n == 1 { // this caller gives up after a second
					impatient, cancel := context.WithTimeout(ctx, time.Second)
					defer cancel()
					ctx = impatient
				}
				if _, err := e.Forward(ctx, now(fmt.Sprint(n), "va")); n != 1 && err != nil || n == 1 && !errors.Is(err, ErrKept) {
					t.Errorf("%d: %v", n, err)
				}
			})
			time.Sleep(100 * time.Millisecond)
		}
		wg.Wait()
		if got := strings.Join(e.app.given(), " "); got != "0/1 1/1 2/1 3/1 4/1 5/1" {
			t.Errorf("the app was given %s", got)
		}
		if n := len(e.cfg.Slots.queues); n != 0 {
			t.Errorf("%d queues are left", n)
		}
	})
}
