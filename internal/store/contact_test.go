package store

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

// expire waits until the lease of a key has expired in Redis.
func expire(t *testing.T, r *Redis, key string) {
	t.Helper()
	doktest.Eventually(t, "the end of a lease", func() bool {
		n, err := r.client.Exists(t.Context(), r.lease(key)).Result()
		return err == nil && n == 0
	})
}

// awaitContact waits until r has been in contact for as long as its leases of key last.
func awaitContact(t *testing.T, r *Redis, lease time.Duration, key string) {
	t.Helper()
	name := r.contact.of(r.prefix, nameOf(key))
	doktest.Eventually(t, "contact", func() bool {
		since, err := r.client.Get(t.Context(), name).Int64()
		now, failed := r.client.Time(t.Context()).Result()
		return err == nil && failed == nil && now.UnixMilli()-since >= lease.Milliseconds()
	})
}

func TestAnExpiredLeaseIsTakenOverInContactOnly(t *testing.T) {
	t.Parallel()
	const lease = time.Second
	server := doktest.StartRedis(t)
	holder, taker := newRedis(t, server), newRedis(t, server)
	claim := func(r *Redis, owner, key string) bool {
		t.Helper()
		c, err := r.Claim(t.Context(), owner, lease, key)
		if err != nil {
			t.Fatal(err)
		}
		if !c.Held && c.Values[0] == nil && c.Holders[0] == "" {
			t.Errorf("nobody holds %s, and yet it was not leased to %s", key, owner)
		}
		return c.Held
	}
	for _, test := range []struct {
		name  string
		check func(t *testing.T)
	}{
		{"a process that has just begun waits for the holder", func(t *testing.T) {
			t.Helper()
			fresh := newRedis(t, server)
			if !claim(holder, "l/holder.1", "a") {
				t.Fatal("it is not free")
			}
			expire(t, holder, "a")
			if claim(fresh, "l/fresh.1", "a") {
				t.Error("it took over at once what may be at work")
			}
			if !claim(holder, "l/holder.1", "a") {
				t.Error("the holder lost its lease though nobody took it")
			}
			expire(t, holder, "a")
			awaitContact(t, fresh, lease, "a")
			if !claim(fresh, "l/fresh.1", "a") {
				t.Error("nobody renewed the lease for its whole length, and yet it is blocked")
			}
		}},
		{"an outage begins the contact again", func(t *testing.T) {
			t.Helper()
			if claim(taker, "l/taker.1", "b"); !claim(holder, "l/holder.2", "b2") {
				t.Fatal("it is not free")
			}
			awaitContact(t, taker, lease, "b2")
			// As in an outage: no contact until the entry of it has expired.
			if err := taker.client.Del(t.Context(), taker.contact.of(taker.prefix, nameOf("b2"))).Err(); err != nil {
				t.Fatal(err)
			}
			expire(t, holder, "b2")
			if claim(taker, "l/taker.2", "b2") {
				t.Error("it took over what could not be renewed")
			}
		}},
		{"a lease that was given back is free at once", func(t *testing.T) {
			t.Helper()
			if !claim(holder, "l/holder.3", "c") {
				t.Fatal("it is not free")
			}
			if err := holder.Release(t.Context(), "l/holder.3", "c"); err != nil {
				t.Fatal(err)
			}
			if !claim(newRedis(t, server), "l/new.1", "c") {
				t.Error("it is not free")
			}
		}},
		{"a process takes what it could not give back", func(t *testing.T) {
			t.Helper()
			if !claim(holder, "l/holder.4", "d") || !claim(holder, "m/holder.5", "d") {
				t.Error("it waits for itself")
			}
			if err := holder.Release(t.Context(), "l/holder.4", "d"); err != nil {
				t.Fatal(err)
			}
			if claim(taker, "l/taker.3", "d") {
				t.Error("a late release of an earlier lease has ended the later one")
			}
		}},
	} {
		t.Run(test.name, test.check)
	}
}

// stubborn is a store that does not keep values for a while.
type stubborn struct {
	Store
	away, closed atomic.Bool
	tries        atomic.Int32
}

func (s *stubborn) Commit(ctx context.Context, owner string, ttl time.Duration, entries ...Entry) (bool, error) {
	s.tries.Add(1)
	switch {
	case s.closed.Load():
		return false, ErrClosed
	case s.away.Load():
		return false, ErrStore
	}
	return s.Store.Commit(ctx, owner, ttl, entries...)
}

func TestWhatCouldNotBeCommittedIsCommittedLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := NewMemory()
		defer memory.Close()
		s := &stubborn{Store: memory}
		holder, other := NewLocks(s, 10*time.Second), NewLocks(memory, 10*time.Second)
		lease, _, err := holder.Acquire(t.Context(), "label", "a")
		if err != nil {
			t.Fatal(err)
		}
		s.away.Store(true)
		if done, err := lease.Commit(t.Context(), time.Hour, []byte("A")); done || !errors.Is(err, ErrStore) {
			t.Fatal(done, err)
		}
		for _, locks := range []*Locks{holder, other} { // longer than a lease
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if _, _, err := locks.Acquire(ctx, "label", "a"); !errors.Is(err, ErrInFlight) {
				t.Errorf("somebody else may do again what is done: %v", err)
			}
			cancel()
		}
		s.away.Store(false)
		for _, locks := range []*Locks{holder, other} {
			if lease, values, err := locks.Acquire(t.Context(), "label", "a"); lease != nil || err != nil || string(values[0]) != "A" {
				t.Errorf("%v %q %v", lease, values, err)
			}
		}
	})
}

func TestNothingIsOwedToAStoreThatIsClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := NewMemory()
		defer memory.Close()
		s := &stubborn{Store: memory}
		locks := NewLocks(s, 10*time.Second)
		lease, _, err := locks.Acquire(t.Context(), "label", "a")
		if err != nil {
			t.Fatal(err)
		}
		s.away.Store(true)
		if _, err := lease.Commit(t.Context(), time.Hour, []byte("A")); err == nil {
			t.Fatal("no error")
		}
		s.closed.Store(true)
		time.Sleep(time.Minute)
		before := s.tries.Load()
		time.Sleep(time.Hour)
		if n := s.tries.Load(); n != before || n > 5 {
			t.Errorf("%d attempts, then %d", before, n)
		}
	})
}
