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

// Errors of [Locks.Acquire].
var (
	ErrOtherUse    = errors.New("in use for something else")              // a key is in use under another label
	ErrInFlight = errors.New("the same is still being done elsewhere") // ctx ended while Take waited for whoever is at it
)

const (
	pollShortest = 20 * time.Millisecond
	pollLongest  = 500 * time.Millisecond
)

// Locks has things done once for each of their keys, by this process or another
// one that uses the same store: whoever comes second waits for the first, and
// gets what it has left behind. Whoever is at it holds a lease, which is
// prolonged while it goes on; if its process dies, the next one can begin when
// the lease has run out. It is safe for concurrent use.
type Locks struct {
	store Store
	lease time.Duration
	name  string           // its own among all processes
	now   func() time.Time // the timers' clock

	mu    sync.Mutex
	turns map[string]*Lease // in this process, by key
	taken uint64           // so far
}

// NewLocks returns one that keeps what was done in s. lease is for how long at most
// the death of a process keeps others waiting.
func NewLocks(s Store, lease time.Duration) *Locks {
	return &Locks{store: s, lease: lease, name: rand.Text(), now: time.Now, turns: make(map[string]*Lease)} //nolint:forbidigo // timers have no other clock
}

// Lease is the right and duty to do something: it must be ended by [Lease.Commit]
// or [Lease.Release], once.
type Lease struct {
	once  *Locks
	owner string
	keys  []string
	ended chan struct{} // closed when the turn is over; nil until somebody waits for that

	mu    sync.Mutex  // held while the lease is prolonged
	timer *time.Timer // prolongs it; nil when there is nothing to prolong

	began time.Time
	until atomic.Int64 // when the lease runs out: a duration from began on
	lost  atomic.Bool  // the lease has run out, whatever came after
}

// Acquire returns a turn for keys if nothing has been done for any of them, or else
// the values left behind, one for each key and nil where there is none. While
// somebody else is at it, Acquire waits, until ctx ends at the longest, which is
// [ErrInFlight]. label, which has no "/", says what the keys are for: a key in use
// under another label is [ErrOtherUse]. Other errors are the store's, even if ctx has
// ended meanwhile.
func (o *Locks) Acquire(ctx context.Context, label string, keys ...string) (*Lease, [][]byte, error) {
	for {
		t, earlier, ended := o.begin(label, keys)
		if earlier == nil {
			values, err := t.claim(ctx, label)
			if values != nil || err != nil {
				t.end()
				return nil, values, err
			}
			return t, nil, nil
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

// TryAcquire is [Locks.Acquire] for those who do not wait: if somebody else is at it, that is
// [ErrInFlight] at once. It goes on if ctx ends, until the store answers or gives
// up, so that no lease is left behind.
func (o *Locks) TryAcquire(ctx context.Context, label string, keys ...string) (*Lease, [][]byte, error) {
	t, earlier, _ := o.begin(label, keys)
	switch {
	case earlier != nil && labelOf(earlier.owner) != label:
		return nil, nil, ErrOtherUse
	case earlier != nil:
		return nil, nil, ErrInFlight
	}
	ctx = context.WithoutCancel(ctx)
	held, values, err := t.ask(ctx, label)
	switch {
	case held:
		return t, nil, nil
	case errors.Is(err, ErrOtherUse):
	case err != nil:
		_ = t.once.store.Release(ctx, t.owner, t.keys...) // its lease may have been made all the same
	case values == nil:
		err = ErrInFlight
	}
	t.end()
	return nil, values, err
}

// claim waits until the keys are leased to t, or have values, which it returns.
func (t *Lease) claim(ctx context.Context, label string) ([][]byte, error) {
	for wait := pollShortest; ; wait = min(2*wait, pollLongest) {
		held, values, err := t.ask(ctx, label)
		if err != nil && wait > pollShortest && ctx.Err() != nil {
			return nil, inFlight(ctx) // it was, when last asked
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

// ask claims the keys, and reports whether they are leased to t now. If not, it
// returns the values that they have, or nil while somebody else is at it.
func (t *Lease) ask(ctx context.Context, label string) (held bool, values [][]byte, err error) {
	t.mu.Lock()
	claim, err := t.lease(ctx)
	if claim.Held {
		t.timer = time.AfterFunc(t.once.lease/3, t.prolong)
	}
	t.mu.Unlock()
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

// lease claims the keys. A lease that is had runs out a time after it was asked for,
// not after the answer. t.mu is held.
func (t *Lease) lease(ctx context.Context) (Claim, error) {
	until := t.age() + t.once.lease
	claim, err := t.once.store.Claim(ctx, t.owner, t.once.lease, t.keys...)
	if err != nil {
		return Claim{}, err
	}
	if !claim.Held {
		return claim, nil
	}
	if t.timer != nil && t.Expired() { // somebody may have come and gone
		t.lost.Store(true)
	}
	t.until.Store(int64(until))
	return claim, nil
}

// Expired reports whether somebody else may be at it by now, because the lease could
// not be prolonged in time. What was begun should not be gone on with then.
func (t *Lease) Expired() bool {
	return t.lost.Load() || int64(t.age()) >= t.until.Load()
}

// age is for how long there has been the turn.
func (t *Lease) age() time.Duration { return t.once.now().Sub(t.began) }

func inFlight(ctx context.Context) error {
	return fmt.Errorf("%w: %w", ErrInFlight, context.Cause(ctx))
}

// begin makes a turn for keys, or else returns the one in this process that has one
// of them, and what is closed when that ends.
func (o *Locks) begin(label string, keys []string) (t, earlier *Lease, ended <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, key := range keys {
		if earlier := o.turns[key]; earlier != nil {
			if earlier.ended == nil {
				earlier.ended = make(chan struct{})
			}
			return nil, earlier, earlier.ended
		}
	}
	o.taken++
	t = &Lease{once: o, owner: label + "/" + o.name + strconv.FormatUint(o.taken, 10), keys: keys, began: o.now()}
	for _, key := range keys {
		o.turns[key] = t
	}
	return t, nil, nil
}

func labelOf(owner string) string {
	label, _, _ := strings.Cut(owner, "/")
	return label
}

// prolong keeps the lease from running out until the turn ends. What cannot be
// prolonged runs out; then Lost and Finish tell.
func (t *Lease) prolong() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), t.once.lease/3)
	defer cancel()
	if claim, err := t.lease(ctx); err == nil && !claim.Held {
		t.lost.Store(true)
		t.timer = nil
		return
	}
	t.timer.Reset(t.once.lease / 3)
}

// settle ends the prolonging. After it, nothing leases the keys to t any more.
func (t *Lease) settle() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
}

// Commit leaves values behind, one for each key of the turn and in their order,
// for ttl, and ends the turn. It reports whether it could: not if the lease has
// run out and somebody else has taken over since. It is done even if ctx has
// ended.
func (t *Lease) Commit(ctx context.Context, ttl time.Duration, values ...[]byte) (bool, error) {
	t.settle()
	defer t.end()
	entries := make([]Entry, 0, len(t.keys))
	for i, value := range values {
		entries = append(entries, Entry{t.keys[i], value})
	}
	return t.once.store.Finish(context.WithoutCancel(ctx), t.owner, ttl, entries...)
}

// Release ends the turn with nothing left behind: the next one may begin. It is
// done even if ctx has ended. If the store fails, the lease runs out by itself.
func (t *Lease) Release(ctx context.Context) error {
	t.settle()
	defer t.end()
	return t.once.store.Release(context.WithoutCancel(ctx), t.owner, t.keys...)
}

// end wakes those who wait in this process.
func (t *Lease) end() {
	t.once.mu.Lock()
	defer t.once.mu.Unlock()
	for _, key := range t.keys {
		if t.once.turns[key] == t {
			delete(t.once.turns, key)
		}
	}
	if t.ended != nil {
		close(t.ended)
	}
}
