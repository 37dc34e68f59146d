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
func replicas(n int) (_ []*Once, end func()) {
	m := NewMemory()
	all := make([]*Once, n)
	for i := range all {
		all[i] = NewOnce(m, 10*time.Second)
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
				turn, values, err := all[i%3].Take(t.Context(), "label", "a", "b")
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
				if ok, err := turn.Finish(t.Context(), time.Hour, []byte("A"), []byte("B")); err != nil || !ok {
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
				turn, _, err := all[i%2].Take(t.Context(), "label", "a")
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
		dead, _, err := all[0].Take(t.Context(), "label", "a")
		if err != nil {
			t.Fatal(err)
		}
		dead.settle() // it does not prolong its lease any more
		start := time.Now()
		turn, _, err := all[1].Take(t.Context(), "label", "a")
		if err != nil || turn == nil {
			t.Fatalf("turn %v, %v", turn, err)
		}
		if waited := time.Since(start); waited > 11*time.Second {
			t.Errorf("waited for %s", waited)
		}
		if ok, err := dead.Finish(t.Context(), time.Hour, []byte("late")); err != nil || ok {
			t.Errorf("the dead one could finish: %v, %v", ok, err)
		}
		if ok, err := turn.Finish(t.Context(), time.Hour, []byte("new")); err != nil || !ok {
			t.Errorf("finishing: %v, %v", ok, err)
		}
	})
}

func TestAKeyInUseForSomethingElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, end := replicas(2)
		defer end()
		turn, _, err := all[0].Take(t.Context(), "one", "a", "b")
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range all {
			if _, _, err := o.Take(t.Context(), "two", "b"); !errors.Is(err, ErrTaken) {
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
		turn, _, err := all[0].Take(t.Context(), "label", "a")
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range all {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			start := time.Now()
			if _, _, err := o.Take(ctx, "label", "a"); !errors.Is(err, ErrInFlight) || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 3*time.Second {
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
				_, _, err := NewOnce(test.store, 10*time.Second).Take(ctx, "label", "a")
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
		turn, _, err := all[0].Take(ctx, "label", "a")
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if ok, err := turn.Finish(ctx, time.Hour, []byte("A")); err != nil || !ok {
			t.Errorf("finishing: %v, %v", ok, err)
		}
	})
}
