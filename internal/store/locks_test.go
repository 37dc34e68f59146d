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

// replicas returns several Once that share a store, as sidecars do. It must be
// called in a bubble of synctest, whose end it lets come.
func replicas(n int) (_ []*Locks, end func()) {
	m := NewMemory()
	all := make([]*Locks, n)
	for i := range all {
		all[i] = NewLocks(m, 10*time.Second)
	}
	return all, func() { _ = m.Close() }
}

func TestWhatIsDoneOnceIsHadByAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, end := replicas(3)
		defer end()
		var done atomic.Int32
		var wg sync.WaitGroup
		for i := range 60 {
			wg.Go(func() {
				turn, values, err := all[i%3].Acquire(t.Context(), "label", "a", "b")
				if err != nil {
					t.Error(err)
					return
				}
				if turn == nil {
					if string(values[0]) != "A" || string(values[1]) != "B" {
						t.Errorf("values %q", values)
					}
					return
				}
				done.Add(1)
				time.Sleep(time.Minute) // longer than a lease
				if ok, err := turn.Commit(t.Context(), time.Hour, []byte("A"), []byte("B")); err != nil || !ok {
					t.Errorf("finishing: %v, %v", ok, err)
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
				turn, _, err := all[i%2].Acquire(t.Context(), "label", "a")
				if err != nil || turn == nil {
					t.Errorf("turn %v, %v", turn, err)
					return
				}
				done.Add(1)
				time.Sleep(time.Second)
				if err := turn.Release(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := done.Load(); n != 6 {
			t.Errorf("done %d times, expected one after the other", n)
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
		dead.settle() // it does not prolong its lease any more
		start := time.Now()
		turn, _, err := all[1].Acquire(t.Context(), "label", "a")
		if err != nil || turn == nil {
			t.Fatalf("turn %v, %v", turn, err)
		}
		if waited := time.Since(start); waited > 11*time.Second {
			t.Errorf("waited for %s", waited)
		}
		if ok, err := dead.Commit(t.Context(), time.Hour, []byte("late")); err != nil || ok {
			t.Errorf("the dead one could finish: %v, %v", ok, err)
		}
		if ok, err := turn.Commit(t.Context(), time.Hour, []byte("new")); err != nil || !ok {
			t.Errorf("finishing: %v, %v", ok, err)
		}
	})
}

func TestAKeyInUseForSomethingElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, end := replicas(2)
		defer end()
		turn, _, err := all[0].Acquire(t.Context(), "one", "a", "b")
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range all {
			if _, _, err := o.Acquire(t.Context(), "two", "b"); !errors.Is(err, ErrOtherUse) {
				t.Errorf("error %v", err)
			}
		}
		if err := turn.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestWhoeverWaitsStopsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, end := replicas(2)
		defer end()
		turn, _, err := all[0].Acquire(t.Context(), "label", "a")
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range all {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			start := time.Now()
			if _, _, err := o.Acquire(ctx, "label", "a"); !errors.Is(err, ErrInFlight) || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 3*time.Second {
				t.Errorf("error %v after %s", err, time.Since(start))
			}
			cancel()
		}
		if err := turn.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// hanging is a store that has said of so many claims that somebody else has the
// key, and then says nothing until the caller's context or a time of its own ends.
type hanging struct {
	Store
	claims, busy int
	gives        time.Duration
}

func (h *hanging) Claim(ctx context.Context, _ string, _ time.Duration, keys ...string) (Claim, error) {
	if h.claims++; h.claims <= h.busy {
		return Claim{Values: make([][]byte, len(keys)), Holders: []string{"label/other"}}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, h.gives)
	defer cancel()
	<-ctx.Done()
	return Claim{}, failed(ctx.Err())
}

func TestAStoreThatHangsIsNotTakenForSomebodyElse(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		store   *hanging
		patient time.Duration // the caller
		is, not error
	}{
		{"the store gives up", &hanging{gives: 2 * time.Second}, time.Minute, ErrStore, ErrInFlight},
		{"the caller does", &hanging{gives: time.Minute}, time.Second, ErrStore, ErrInFlight},
		{"the store gives up while somebody else is at it", &hanging{busy: 1, gives: 2 * time.Second}, time.Minute, ErrStore, ErrInFlight},
		{"the caller does, while somebody else is at it", &hanging{busy: 1, gives: time.Minute}, time.Second, ErrInFlight, ErrStore},
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

func TestEndingATurnDoesNotDependOnItsCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, end := replicas(1)
		defer end()
		ctx, cancel := context.WithCancel(t.Context())
		turn, _, err := all[0].Acquire(ctx, "label", "a")
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if ok, err := turn.Commit(ctx, time.Hour, []byte("A")); err != nil || !ok {
			t.Errorf("finishing: %v, %v", ok, err)
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

func TestALeaseThatIsLostIsNoticed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name        string
		away        time.Duration
		other, lost bool
	}{
		{"the store is there", 0, false, false},
		{"it is away for a moment", 5 * time.Second, false, false},
		{"it is away for longer than a lease, and nobody has come", 15 * time.Second, false, true},
		{"it is away for longer than a lease, and somebody has", 15 * time.Second, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := NewMemory()
				defer m.Close()
				s := &faltering{Store: m}
				turn, _, err := NewLocks(s, 10*time.Second).Acquire(t.Context(), "label", "a")
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				if turn.Expired() {
					t.Error("it is lost, though it was prolonged")
				}
				s.away.Store(true)
				time.Sleep(test.away)
				if test.other {
					if other, _, err := NewLocks(m, 10*time.Second).Acquire(t.Context(), "label", "a"); err != nil || other == nil {
						t.Errorf("turn %v, %v", other, err)
					} else {
						defer func() { _ = other.Release(t.Context()) }()
					}
				}
				s.away.Store(false)
				time.Sleep(time.Minute)
				if turn.Expired() != test.lost {
					t.Errorf("lost: %v, expected %v", turn.Expired(), test.lost)
				}
				if err := turn.Release(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// slow is a store that answers late, whoever has ceased to wait.
type slow struct{ Store }

func (s slow) Claim(ctx context.Context, owner string, lease time.Duration, keys ...string) (Claim, error) {
	time.Sleep(time.Second)
	claim, err := s.Store.Claim(ctx, owner, lease, keys...)
	return claim, errors.Join(err, ctx.Err())
}

func TestWhoTriesDoesNotWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory()
		defer m.Close()
		one, two := NewLocks(m, 10*time.Second), NewLocks(slow{m}, 10*time.Second)
		turn, _, err := one.TryAcquire(t.Context(), "label", "a")
		if err != nil || turn == nil {
			t.Fatalf("turn %v, %v", turn, err)
		}
		for _, o := range []*Locks{one, two} {
			start := time.Now()
			if turn, _, err := o.TryAcquire(t.Context(), "label", "a"); turn != nil || !errors.Is(err, ErrInFlight) || time.Since(start) > time.Second {
				t.Errorf("turn %v, %v after %s", turn, err, time.Since(start))
			}
			if turn, _, err := o.TryAcquire(t.Context(), "other", "a"); turn != nil || !errors.Is(err, ErrOtherUse) {
				t.Errorf("turn %v, %v", turn, err)
			}
		}
		if err := turn.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if turn, _, err = two.TryAcquire(gone, "label", "a"); err != nil || turn == nil {
			t.Fatalf("of a slow store, and a caller that has gone: turn %v, %v", turn, err)
		}
		if ok, err := turn.Commit(t.Context(), time.Hour, []byte("A")); err != nil || !ok {
			t.Errorf("finishing: %v, %v", ok, err)
		}
		if turn, values, err := one.TryAcquire(t.Context(), "label", "a"); turn != nil || err != nil || string(values[0]) != "A" {
			t.Errorf("turn %v, values %q, %v", turn, values, err)
		}
		lost := NewLocks(lossy{m}, 10*time.Second)
		if _, _, err := lost.TryAcquire(t.Context(), "label", "b"); !errors.Is(err, ErrStore) {
			t.Errorf("error %v", err)
		}
		if turn, _, err := one.TryAcquire(t.Context(), "label", "b"); err != nil || turn == nil {
			t.Errorf("a claim whose answer was lost has left its lease behind: %v", err)
		} else {
			_ = turn.Release(t.Context())
		}
	})
}

func TestAClaimWhoseAnswerIsLostIsNotProlonged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory()
		defer m.Close()
		if _, _, err := NewLocks(lossy{m}, 10*time.Second).Acquire(t.Context(), "label", "a"); !errors.Is(err, ErrStore) {
			t.Errorf("error %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		turn, _, err := NewLocks(m, 10*time.Second).Acquire(ctx, "label", "a")
		if err != nil {
			t.Fatalf("longer than a lease after it: %v", err)
		}
		_ = turn.Release(t.Context())
	})
}

// lossy is a store whose answers get lost on their way.
type lossy struct{ Store }

func (l lossy) Claim(ctx context.Context, owner string, lease time.Duration, keys ...string) (Claim, error) {
	claim, err := l.Store.Claim(ctx, owner, lease, keys...)
	return claim, errors.Join(ErrStore, err)
}
