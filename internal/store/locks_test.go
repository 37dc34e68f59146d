package store

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// replicas returns locks that share a store, as sidecars do. Call it within synctest,
// and call end before the bubble ends.
func replicas(n int) (_ []*Locks, end func()) {
	m := NewMemory()
	all := make([]*Locks, n)
	for i := range all {
		all[i] = NewLocks(m, 10*time.Second)
	}
	return all, func() { _ = m.Close() }
}

func TestTheResultOfOneCallerIsTheResultOfAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, end := replicas(3)
		defer end()
		var done atomic.Int32
		var wg sync.WaitGroup
		for i := range 60 {
			wg.Go(func() {
				lease, values, err := all[i%3].Acquire(t.Context(), "label", "a", "b")
				if err != nil {
					t.Error(err)
					return
				}
				if lease == nil {
					if string(values[0]) != "A" || string(values[1]) != "B" {
						t.Errorf("values %q", values)
					}
					return
				}
				done.Add(1)
				time.Sleep(time.Minute) // longer than a lease
				if ok, err := lease.Commit(t.Context(), time.Hour, []byte("A"), []byte("B")); err != nil || !ok {
					t.Errorf("commit: %v, %v", ok, err)
				}
			})
		}
		wg.Wait()
		if n := done.Load(); n != 1 {
			t.Errorf("done %d times", n)
		}
	})
}

func TestAfterAReleaseTheNextBegins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, end := replicas(2)
		defer end()
		var done atomic.Int32
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				lease, _, err := all[i%2].Acquire(t.Context(), "label", "a")
				if err != nil || lease == nil {
					t.Errorf("lease %v, %v", lease, err)
					return
				}
				done.Add(1)
				time.Sleep(time.Second)
				if err := lease.Release(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := done.Load(); n != 6 {
			t.Errorf("done %d times, expected 6", n)
		}
	})
}

func TestADeadProcessBlocksForALeaseAtMost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, end := replicas(2)
		defer end()
		dead, _, err := all[0].Acquire(t.Context(), "label", "a")
		if err != nil {
			t.Fatal(err)
		}
		dead.stopRenewing() // it does not renew its lease any more
		start := time.Now()
		lease, _, err := all[1].Acquire(t.Context(), "label", "a")
		if err != nil || lease == nil {
			t.Fatalf("lease %v, %v", lease, err)
		}
		if waited := time.Since(start); waited > 11*time.Second {
			t.Errorf("waited for %s", waited)
		}
		if ok, err := dead.Commit(t.Context(), time.Hour, []byte("late")); err != nil || ok {
			t.Errorf("the dead process could commit: %v, %v", ok, err)
		}
		if ok, err := lease.Commit(t.Context(), time.Hour, []byte("new")); err != nil || !ok {
			t.Errorf("commit: %v, %v", ok, err)
		}
	})
}

func TestAKeyInUseForSomethingElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, end := replicas(2)
		defer end()
		lease, _, err := all[0].Acquire(t.Context(), "one", "a", "b")
		if err != nil {
			t.Fatal(err)
		}
		for _, locks := range all {
			if _, _, err := locks.Acquire(t.Context(), "two", "b"); !errors.Is(err, ErrOtherUse) {
				t.Errorf("error %v", err)
			}
		}
		if err := lease.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAcquireStopsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, end := replicas(2)
		defer end()
		lease, _, err := all[0].Acquire(t.Context(), "label", "a")
		if err != nil {
			t.Fatal(err)
		}
		for _, locks := range all {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			start := time.Now()
			_, _, err := locks.Acquire(ctx, "label", "a")
			if !errors.Is(err, ErrInFlight) || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 3*time.Second {
				t.Errorf("error %v after %s", err, time.Since(start))
			}
			cancel()
		}
		if err := lease.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// hanging is a store that answers the first claims with another holder of the key,
// and then does not answer until the context ends or its own timeout.
type hanging struct {
	Store
	claims, busy int
	timeout      time.Duration
}

func (h *hanging) Claim(ctx context.Context, _ string, _ time.Duration, keys ...string) (Claim, error) {
	if h.claims++; h.claims <= h.busy {
		return Claim{Values: make([][]byte, len(keys)), Holders: []string{"label/other"}}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	<-ctx.Done()
	return Claim{}, failed(ctx.Err())
}

func TestAStoreThatHangsIsNotTakenForSomebodyElse(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		store   *hanging
		patient time.Duration // the timeout of the caller
		is, not error
	}{
		{"the store gives up", &hanging{timeout: 2 * time.Second}, time.Minute, ErrStore, ErrInFlight},
		{"the caller does", &hanging{timeout: time.Minute}, time.Second, ErrStore, ErrInFlight},
		{"the store gives up while somebody else is at it", &hanging{busy: 1, timeout: 2 * time.Second}, time.Minute, ErrStore, ErrInFlight},
		{"the caller does, while somebody else is at it", &hanging{busy: 1, timeout: time.Minute}, time.Second, ErrInFlight, ErrStore},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), test.patient)
				defer cancel()
				_, _, err := NewLocks(test.store, 10*time.Second).Acquire(ctx, "label", "a")
				if !errors.Is(err, test.is) || errors.Is(err, test.not) {
					t.Errorf("error %v", err)
				}
			})
		})
	}
}

func TestALeaseEndsEvenIfItsContextHasEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, end := replicas(1)
		defer end()
		ctx, cancel := context.WithCancel(t.Context())
		lease, _, err := all[0].Acquire(ctx, "label", "a")
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if ok, err := lease.Commit(ctx, time.Hour, []byte("A")); err != nil || !ok {
			t.Errorf("commit: %v, %v", ok, err)
		}
	})
}

// faltering is a store that cannot be reached while it is away.
type faltering struct {
	Store
	away atomic.Bool
}

func (f *faltering) Claim(ctx context.Context, owner string, lease time.Duration, keys ...string) (Claim, error) {
	if f.away.Load() {
		return Claim{}, ErrStore
	}
	return f.Store.Claim(ctx, owner, lease, keys...)
}

func TestALeaseThatWasNotRenewedHasExpired(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name           string
		away           time.Duration
		other, expired bool
	}{
		{"the store is there", 0, false, false},
		{"it is away for a short time", 5 * time.Second, false, false},
		{"it is away for longer than a lease, and nobody has come", 15 * time.Second, false, true},
		{"it is away for longer than a lease, and somebody has", 15 * time.Second, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := NewMemory()
				defer m.Close()
				s := &faltering{Store: m}
				lease, _, err := NewLocks(s, 10*time.Second).Acquire(t.Context(), "label", "a")
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				if lease.Expired() {
					t.Error("the lease has expired, though it was renewed")
				}
				s.away.Store(true)
				time.Sleep(test.away)
				if test.other {
					if other, _, err := NewLocks(m, 10*time.Second).Acquire(t.Context(), "label", "a"); err != nil || other == nil {
						t.Errorf("lease %v, %v", other, err)
					} else {
						defer func() { _ = other.Release(t.Context()) }()
					}
				}
				s.away.Store(false)
				time.Sleep(time.Minute)
				if lease.Expired() != test.expired {
					t.Errorf("expired: %v, expected %v", lease.Expired(), test.expired)
				}
				if err := lease.Release(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// slow is a store that answers after a second, even if the caller has left.
type slow struct{ Store }

func (s slow) Claim(ctx context.Context, owner string, lease time.Duration, keys ...string) (Claim, error) {
	time.Sleep(time.Second)
	claim, err := s.Store.Claim(ctx, owner, lease, keys...)
	return claim, errors.Join(err, ctx.Err())
}

func TestTryAcquireDoesNotWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory()
		defer m.Close()
		one, two := NewLocks(m, 10*time.Second), NewLocks(slow{m}, 10*time.Second)
		lease, _, err := one.TryAcquire(t.Context(), "label", "a")
		if err != nil || lease == nil {
			t.Fatalf("lease %v, %v", lease, err)
		}
		for _, locks := range []*Locks{one, two} {
			start := time.Now()
			lease, _, err := locks.TryAcquire(t.Context(), "label", "a")
			if lease != nil || !errors.Is(err, ErrInFlight) || time.Since(start) > time.Second {
				t.Errorf("lease %v, %v after %s", lease, err, time.Since(start))
			}
			if lease, _, err := locks.TryAcquire(t.Context(), "other", "a"); lease != nil || !errors.Is(err, ErrOtherUse) {
				t.Errorf("lease %v, %v", lease, err)
			}
		}
		if err := lease.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if lease, _, err = two.TryAcquire(gone, "label", "a"); err != nil || lease == nil {
			t.Fatalf("a slow store and a caller that has left: lease %v, %v", lease, err)
		}
		if ok, err := lease.Commit(t.Context(), time.Hour, []byte("A")); err != nil || !ok {
			t.Errorf("commit: %v, %v", ok, err)
		}
		if lease, values, err := one.TryAcquire(t.Context(), "label", "a"); lease != nil || err != nil || string(values[0]) != "A" {
			t.Errorf("lease %v, values %q, %v", lease, values, err)
		}
		broken := NewLocks(lossy{m}, 10*time.Second)
		if _, _, err := broken.TryAcquire(t.Context(), "label", "b"); !errors.Is(err, ErrStore) {
			t.Errorf("error %v", err)
		}
		if lease, _, err := one.TryAcquire(t.Context(), "label", "b"); err != nil || lease == nil {
			t.Errorf("the claim whose answer was lost left its lease behind: %v", err)
		} else {
			_ = lease.Release(t.Context())
		}
	})
}

func TestAClaimWhoseAnswerIsLostIsNotRenewed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory()
		defer m.Close()
		if _, _, err := NewLocks(lossy{m}, 10*time.Second).Acquire(t.Context(), "label", "a"); !errors.Is(err, ErrStore) {
			t.Errorf("error %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		lease, _, err := NewLocks(m, 10*time.Second).Acquire(ctx, "label", "a")
		if err != nil {
			t.Fatalf("longer than a lease after it: %v", err)
		}
		_ = lease.Release(t.Context())
	})
}

// lossy is a store whose answers to claims are lost.
type lossy struct{ Store }

func (l lossy) Claim(ctx context.Context, owner string, lease time.Duration, keys ...string) (Claim, error) {
	claim, err := l.Store.Claim(ctx, owner, lease, keys...)
	return claim, errors.Join(ErrStore, err)
}
