package inbox

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

// Slots gives out the right to deliver the calls of one ordering key, to one caller at
// a time. All inboxes of this process with the same [callstore.Store] share one Slots, also the
// ones of the configurations before and after a reload. It is safe for concurrent use.
//
// It also keeps the debts: what the store could not record. The slot of a debt stays
// leased until the debt is paid, because others would deliver the call again.
//
// Callers of this process that wait for a slot get it in the order in which they came.
// Between sidecars there is no such order.
type Slots struct {
	locks *store.Locks

	mu     sync.Mutex
	queues map[string][]chan struct{} // by slot name: the holder first, then the callers that wait; the first is closed
	debts  map[string]*debt           // by inbox and key
}

// debt is what became of a call and could not be recorded.
type debt struct {
	answer *store.Answer // of the app, which has taken the call; nil: it may have taken it

	pay  func(ctx context.Context, s callstore.Store) error // records it
	paid func(ctx context.Context)                          // is called after that
	slot *slot                                              // nil: there is none
}

// NewSlots returns slots that are leased in s, each for the time lease; see
// [store.NewLocks]. They can be leased even if a Redis has reached its maxmemory,
// because delivering the calls in it frees memory.
func NewSlots(s store.Store, lease time.Duration) *Slots {
	if remote, ok := s.(*store.Redis); ok {
		s = remote.IgnoringMaxMemory()
	}
	return &Slots{locks: store.NewLocks(s, lease), queues: make(map[string][]chan struct{}), debts: make(map[string]*debt)}
}

// slot is the right to deliver the calls of one ordering key, until it is released.
type slot struct {
	slots *Slots
	name  string
	first chan struct{} // in the queue of the slot
	lease *store.Lease

	debts    int  // that are not paid; guarded by slots.mu, as is released
	released bool // it ends with its last debt
}

// slotName returns the key of the lease of a slot. All slots of an inbox are in one
// slot of a Redis cluster.
func slotName(inbox, orderingKey string) string { return "{inbox:" + inbox + "}/" + orderingKey }

// slotLabel is the label of the leases. It is part of what is kept in Redis.
const slotLabel = "lane"

// acquire waits for a slot until ctx ends, which is [store.ErrInFlight]. Other errors
// come from the store.
func (s *Slots) acquire(ctx context.Context, inbox, orderingKey string) (*slot, error) {
	acquired := &slot{slots: s, name: slotName(inbox, orderingKey), first: make(chan struct{})}
	s.mu.Lock()
	s.push(acquired)
	s.mu.Unlock()
	select {
	case <-acquired.first:
	case <-ctx.Done():
		s.remove(acquired)
		return nil, fmt.Errorf("%w: %w", store.ErrInFlight, context.Cause(ctx))
	}
	var err error
	if acquired.lease, _, err = s.locks.Acquire(ctx, slotLabel, acquired.name); err != nil {
		s.remove(acquired)
		return nil, err
	}
	return acquired, nil
}

// tryAcquire is acquire without the wait: a slot in use is [store.ErrInFlight].
func (s *Slots) tryAcquire(ctx context.Context, inbox, orderingKey string) (*slot, error) {
	acquired := &slot{slots: s, name: slotName(inbox, orderingKey), first: make(chan struct{})}
	s.mu.Lock()
	busy := len(s.queues[acquired.name]) > 0
	if !busy {
		s.push(acquired)
	}
	s.mu.Unlock()
	if busy {
		return nil, store.ErrInFlight
	}
	var err error
	if acquired.lease, _, err = s.locks.TryAcquire(ctx, slotLabel, acquired.name); err != nil {
		s.remove(acquired)
		return nil, err
	}
	return acquired, nil
}

// push puts a caller at the end of the queue of its slot. The caller holds s.mu.
func (s *Slots) push(waiting *slot) {
	s.queues[waiting.name] = append(s.queues[waiting.name], waiting.first)
	if len(s.queues[waiting.name]) == 1 {
		close(waiting.first)
	}
}

// remove removes a caller from the queue of its slot, at any position.
func (s *Slots) remove(waiting *slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	queue := s.queues[waiting.name]
	at := slices.Index(queue, waiting.first)
	queue = slices.Delete(queue, at, at+1)
	switch {
	case len(queue) == 0:
		delete(s.queues, waiting.name)
		return
	case at == 0:
		close(queue[0])
	}
	s.queues[waiting.name] = queue
}

// expired reports whether another sidecar may have the slot by now.
func (s *slot) expired() bool { return s.lease.Expired() }

// release gives the slot back, or, if it has debts, does so when they are paid. If its
// store fails, the lease expires by itself. release does nothing for nil.
func (s *slot) release(ctx context.Context) {
	if s == nil {
		return
	}
	s.slots.mu.Lock()
	s.released = true
	owes := s.debts > 0
	s.slots.mu.Unlock()
	if !owes {
		s.end(ctx)
	}
}

func (s *slot) end(ctx context.Context) {
	_ = s.lease.Release(ctx)
	s.slots.remove(s)
}

// owe adds a debt.
func (s *Slots) owe(inbox, key string, d *debt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.slot != nil {
		d.slot.debts++
	}
	s.debts[slotName(inbox, key)] = d
}

// owed returns the debt of a call, or nil.
func (s *Slots) owed(inbox, key string) *debt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.debts[slotName(inbox, key)]
}

// owing returns the names of all debts.
func (s *Slots) owing() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.debts))
}

// settle pays a debt, or returns the error of the store. Only one caller at a time tries.
func (s *Slots) settle(ctx context.Context, name string, in callstore.Store) error {
	s.mu.Lock()
	d := s.debts[name]
	delete(s.debts, name)
	s.mu.Unlock()
	if d == nil {
		return nil
	}
	if err := d.pay(ctx, in); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.debts[name] == nil || d.slot != nil { // at most one debt of a call has a slot
			s.debts[name] = d
		}
		return err
	}
	if d.paid != nil {
		d.paid(ctx)
	}
	if d.slot == nil {
		return nil
	}
	s.mu.Lock()
	d.slot.debts--
	last := d.slot.released && d.slot.debts == 0
	s.mu.Unlock()
	if last {
		d.slot.end(ctx)
	}
	return nil
}
