package inbox

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/store"
)

// Slots gives out the right to deliver the calls of one ordering key, to one caller at
// a time. All inboxes of this process with the same [callstore.Store] share one Slots, also the
// ones of the configurations before and after a reload. It also remembers the answers
// to calls that the app has taken while the store could not record that. It is safe
// for concurrent use.
//
// Callers of this process that wait for a slot get it in the order in which they came.
// Between sidecars there is no such order.
type Slots struct {
	locks *store.Locks

	mu         sync.Mutex
	queues     map[string][]chan struct{} // by slot name: the holder first, then the callers that wait; the first is closed
	unrecorded map[string]store.Answer    // by inbox and key
}

// NewSlots returns slots that are leased in s, each for the time lease; see
// [store.NewLocks]. They can be leased even if a Redis has reached its maxmemory,
// because delivering the calls in it frees memory.
func NewSlots(s store.Store, lease time.Duration) *Slots {
	if remote, ok := s.(*store.Redis); ok {
		s = remote.IgnoringMaxMemory()
	}
	return &Slots{locks: store.NewLocks(s, lease), queues: make(map[string][]chan struct{}), unrecorded: make(map[string]store.Answer)}
}

// slot is the right to deliver the calls of one ordering key, until it is released.
type slot struct {
	slots *Slots
	name  string
	first chan struct{} // in the queue of the slot
	lease *store.Lease
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

// release gives the slot back. If its store fails, the lease expires by itself.
func (s *slot) release(ctx context.Context) {
	_ = s.lease.Release(ctx)
	s.slots.remove(s)
}

// addUnrecorded keeps the app's answer to a call that the store could not record.
func (s *Slots) addUnrecorded(inbox, key string, answer store.Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unrecorded[slotName(inbox, key)] = answer
}

// popUnrecorded returns and removes the app's unrecorded answer to a call, if there is
// one.
func (s *Slots) popUnrecorded(inbox, key string) (answer store.Answer, found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer, found = s.unrecorded[slotName(inbox, key)]
	delete(s.unrecorded, slotName(inbox, key))
	return answer, found
}
