package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Errors of [Locks.Acquire] and [Locks.TryAcquire].
var (
	ErrOtherUse = errors.New("in use for something else")              // a key is in use under another label
	ErrInFlight = errors.New("the same is still being done elsewhere") // another lease holds a key
)

const (
	pollShortest = 20 * time.Millisecond
	pollLongest  = 500 * time.Millisecond
)

// Locks runs work at most once per key across all processes that use the same
// store. The first caller gets a [Lease]; later callers wait for it and get the
// stored result. The lease is renewed while the work goes on. If its process dies,
// the lease expires and the next caller gets one. It is safe for concurrent use.
type Locks struct {
	store    Store
	duration time.Duration    // of a lease
	name     string           // unique among all processes
	now      func() time.Time // the clock of the timers

	mu     sync.Mutex
	leases map[string]*Lease // of this process, by key
	count  uint64            // of leases so far
}

// NewLocks returns locks that keep leases and results in s. lease is how long a
// lease lasts without renewal: the longest time that a dead process blocks others.
func NewLocks(s Store, lease time.Duration) *Locks {
	now := time.Now //nolint:forbidigo // timers have no other clock
	return &Locks{store: s, duration: lease, name: rand.Text(), now: now, leases: make(map[string]*Lease)}
}

// Lease is the exclusive right to do the work of its keys. The caller must end it
// once, with [Lease.Commit] or [Lease.Release].
type Lease struct {
	locks *Locks
	owner string
	keys  []string
	ended chan struct{} // closed when the lease ends; nil until a caller waits for that

	mu    sync.Mutex  // held while the keys are claimed
	timer *time.Timer // renews the lease; nil when there is nothing to renew

	debt *debt // what could not be committed; guarded by mu

	start   time.Time
	until   atomic.Int64 // when the lease expires, as a duration since start
	expired atomic.Bool  // the lease has expired once, so a later renewal does not count
}

// Acquire returns a lease of keys, or the stored values if any key has one: then
// there is one value for each key, nil where a key has none. While another caller
// holds a key, Acquire waits until ctx ends, which is [ErrInFlight]. label says what
// the keys are for and must not contain "/": a key in use under another label is
// [ErrOtherUse]. Other errors come from the store, also if ctx has ended meanwhile.
func (l *Locks) Acquire(ctx context.Context, label string, keys ...string) (*Lease, [][]byte, error) {
	for {
		lease, earlier, ended := l.reserve(label, keys)
		if earlier == nil {
			values, err := lease.waitForStore(ctx, label)
			if values != nil || err != nil {
				lease.unreserve()
				return nil, values, err
			}
			return lease, nil, nil
		}
		if labelOf(earlier.owner) != label {
			return nil, nil, ErrOtherUse
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return nil, nil, inFlight(ctx)
		}
	}
}

// TryAcquire is [Locks.Acquire] without the wait: if another caller holds a key, it
// returns [ErrInFlight] at once. It ignores the end of ctx until the store answers
// or gives up, so that it leaves no lease behind.
func (l *Locks) TryAcquire(ctx context.Context, label string, keys ...string) (*Lease, [][]byte, error) {
	lease, earlier, _ := l.reserve(label, keys)
	switch {
	case earlier != nil && labelOf(earlier.owner) != label:
		return nil, nil, ErrOtherUse
	case earlier != nil:
		return nil, nil, ErrInFlight
	}
	ctx = context.WithoutCancel(ctx)
	held, values, err := lease.try(ctx, label)
	switch {
	case held:
		return lease, nil, nil
	case errors.Is(err, ErrOtherUse):
	case err != nil:
		_ = l.store.Release(ctx, lease.owner, lease.keys...) // the store may hold the lease although it failed
	case values == nil:
		err = ErrInFlight
	}
	lease.unreserve()
	return nil, values, err
}

// waitForStore waits until the store leases the keys to l, or has values for them,
// which it returns.
func (l *Lease) waitForStore(ctx context.Context, label string) ([][]byte, error) {
	for wait := pollShortest; ; wait = min(2*wait, pollLongest) {
		held, values, err := l.try(ctx, label)
		if err != nil && wait > pollShortest && ctx.Err() != nil {
			return nil, inFlight(ctx) // another process held a key at the last poll
		}
		if held || values != nil || err != nil {
			return values, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, inFlight(ctx)
		}
	}
}

// try claims the keys once and reports whether l holds them now. If not, it returns
// the values of the keys, or nil if another process holds a key.
func (l *Lease) try(ctx context.Context, label string) (held bool, values [][]byte, err error) {
	l.mu.Lock()
	claim, err := l.claim(ctx)
	if claim.Held {
		l.timer = time.AfterFunc(l.locks.duration/3, l.renew)
	}
	l.mu.Unlock()
	if claim.Held || err != nil {
		return claim.Held, nil, err
	}
	for i, value := range claim.Values {
		if value != nil {
			return false, claim.Values, nil
		}
		if holder := claim.Holders[i]; holder != "" && labelOf(holder) != label {
			return false, nil, ErrOtherUse
		}
	}
	return false, nil, nil
}

// claim claims the keys. The lease counts from before the request to the store, not
// from its answer, so that it never ends later here than in the store. The caller
// holds l.mu.
func (l *Lease) claim(ctx context.Context) (Claim, error) {
	until := l.age() + l.locks.duration
	claim, err := l.locks.store.Claim(ctx, l.owner, l.locks.duration, l.keys...)
	if err != nil {
		return Claim{}, err
	}
	if !claim.Held {
		return claim, nil
	}
	if l.timer != nil && l.Expired() { // another process may have had the keys in between
		l.expired.Store(true)
	}
	l.until.Store(int64(until))
	return claim, nil
}

// Expired reports whether another process may hold the keys by now, because the
// lease was not renewed in time. The caller must then stop its work.
func (l *Lease) Expired() bool {
	return l.expired.Load() || int64(l.age()) >= l.until.Load()
}

func (l *Lease) age() time.Duration { return l.locks.now().Sub(l.start) }

func inFlight(ctx context.Context) error {
	return fmt.Errorf("%w: %w", ErrInFlight, context.Cause(ctx))
}

// reserve returns a new lease of keys, which no other caller of this process can
// reserve. If a lease of this process has one of the keys, it returns that lease,
// and a channel that is closed when that lease ends.
func (l *Locks) reserve(label string, keys []string) (lease, earlier *Lease, ended <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		if earlier := l.leases[key]; earlier != nil {
			if earlier.ended == nil {
				earlier.ended = make(chan struct{})
			}
			return nil, earlier, earlier.ended
		}
	}
	l.count++
	lease = &Lease{locks: l, owner: label + "/" + l.name + "." + strconv.FormatUint(l.count, 10), keys: keys, start: l.now()}
	for _, key := range keys {
		l.leases[key] = lease
	}
	return lease, nil, nil
}

func labelOf(owner string) string {
	label, _, _ := strings.Cut(owner, "/")
	return label
}

// renew renews the lease until it ends, and commits what could not be committed before. A
// lease that cannot be renewed expires; [Lease.Expired] and [Lease.Commit] report that.
func (l *Lease) renew() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer == nil || l.debt != nil && l.pay() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.locks.duration/3)
	defer cancel()
	next := l.locks.duration / 3
	claim, err := l.claim(ctx)
	switch {
	case err == nil && !claim.Held && l.debt == nil:
		l.expired.Store(true)
		l.timer = nil
		return
	case err != nil, l.debt != nil: // the sooner the better when the store is back
		next = min(next, retryInterval)
	}
	l.timer.Reset(next)
}

// debt is what the store could not keep when a lease was committed.
type debt struct {
	entries []Entry
	ttl     time.Duration
	end     time.Time // when it is worth nothing any more
}

// retryInterval is the time between attempts to renew a lease, or to commit, while the
// store is away.
const retryInterval = 500 * time.Millisecond

// owe keeps the lease, and commits d as soon as the store can.
func (l *Lease) owe(d *debt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.debt = d
	l.timer = time.AfterFunc(min(retryInterval, l.locks.duration/3), l.renew)
}

// pay tries to commit the debt, and reports whether that has ended the lease. The caller
// holds l.mu.
func (l *Lease) pay() bool {
	ctx, cancel := context.WithTimeout(context.Background(), l.locks.duration/3)
	defer cancel()
	_, err := l.locks.store.Commit(ctx, l.owner, l.debt.ttl, l.debt.entries...)
	if err != nil && !errors.Is(err, ErrClosed) && l.locks.now().Before(l.debt.end) {
		return false
	}
	l.timer = nil
	l.unreserve()
	return true
}

// stopRenewing ends the renewals. After it, nothing claims the keys for l.
func (l *Lease) stopRenewing() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}

// Commit stores values for ttl, one for each key of the lease and in their order,
// and ends the lease. It reports false, and stores nothing, if the lease has expired
// and another process has taken a key since. It runs even if ctx has ended. If the store
// fails, the lease goes on, and with it the wait of other callers, until the store has the
// values: the work is done, so nobody must do it again.
func (l *Lease) Commit(ctx context.Context, ttl time.Duration, values ...[]byte) (bool, error) {
	l.stopRenewing()
	entries := make([]Entry, 0, len(l.keys))
	for i, value := range values {
		entries = append(entries, Entry{l.keys[i], value})
	}
	done, err := l.locks.store.Commit(context.WithoutCancel(ctx), l.owner, ttl, entries...)
	if err != nil && !errors.Is(err, ErrClosed) {
		l.owe(&debt{entries, ttl, l.locks.now().Add(ttl)})
		return false, err
	}
	l.unreserve()
	return done, err
}

// Release ends the lease and stores nothing: the next caller can begin. It runs even
// if ctx has ended. If the store fails, the lease expires by itself; this process does not
// wait for that.
func (l *Lease) Release(ctx context.Context) error {
	l.stopRenewing()
	defer l.unreserve()
	return l.locks.store.Release(context.WithoutCancel(ctx), l.owner, l.keys...)
}

// unreserve frees the keys within this process and wakes the callers that wait.
func (l *Lease) unreserve() {
	l.locks.mu.Lock()
	defer l.locks.mu.Unlock()
	for _, key := range l.keys {
		if l.locks.leases[key] == l {
			delete(l.locks.leases, key)
		}
	}
	if l.ended != nil {
		close(l.ended)
	}
}
