package inbox

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/store"
)

// Lanes is what the inboxes of one place share within this process, those of the
// configurations before and after a reload, too: who is at which lane, who waits
// for it, and which calls the app has taken while that could not be recorded. It
// is safe for concurrent use.
//
// Who waits for a lane gets it in the order in which they came. Between sidecars
// there is no such order: whoever asks first, when a lane is free, has it.
type Lanes struct {
	once *store.Locks

	mu         sync.Mutex
	queues     map[string][]chan struct{} // by lane: who is at it, then who waits; closed for the first
	unrecorded map[string]store.Answer    // by box and key
}

// NewLanes returns lanes that are leased in s, for lease at a time; see
// [store.Locks]. Of a Redis whose memory is full they can be leased, too, since to
// deliver what it keeps is what makes room.
func NewLanes(s store.Store, lease time.Duration) *Lanes {
	if remote, ok := s.(*store.Redis); ok {
		s = remote.IgnoringMaxMemory()
	}
	return &Lanes{once: store.NewLocks(s, lease), queues: make(map[string][]chan struct{}), unrecorded: make(map[string]store.Answer)}
}

// place is the right to deliver the calls of a lane, until it is left.
type place struct {
	lanes *Lanes
	lane  string
	first chan struct{} // in the lane's queue
	turn  *store.Lease
}

// laneName returns the name of a lane's lease. All those of a box are in one slot
// of a cluster.
func laneName(box, lane string) string { return "{inbox:" + box + "}/" + lane }

// take waits for a lane until ctx ends, which is [store.ErrInFlight]; other errors
// are the store's.
func (l *Lanes) take(ctx context.Context, box, lane string) (*place, error) {
	p := &place{lanes: l, lane: laneName(box, lane), first: make(chan struct{})}
	l.mu.Lock()
	l.queue(p)
	l.mu.Unlock()
	select {
	case <-p.first:
	case <-ctx.Done():
		l.leave(p)
		return nil, fmt.Errorf("%w: %w", store.ErrInFlight, context.Cause(ctx))
	}
	var err error
	if p.turn, _, err = l.once.Acquire(ctx, "lane", p.lane); err != nil {
		l.leave(p)
		return nil, err
	}
	return p, nil
}

// try is take for those who do not wait.
func (l *Lanes) try(ctx context.Context, box, lane string) (*place, error) {
	p := &place{lanes: l, lane: laneName(box, lane), first: make(chan struct{})}
	l.mu.Lock()
	busy := len(l.queues[p.lane]) > 0
	if !busy {
		l.queue(p)
	}
	l.mu.Unlock()
	if busy {
		return nil, store.ErrInFlight
	}
	var err error
	if p.turn, _, err = l.once.TryAcquire(ctx, "lane", p.lane); err != nil {
		l.leave(p)
		return nil, err
	}
	return p, nil
}

// queue puts p at the end of its lane's queue. l.mu is held.
func (l *Lanes) queue(p *place) {
	if l.queues[p.lane] = append(l.queues[p.lane], p.first); len(l.queues[p.lane]) == 1 {
		close(p.first)
	}
}

// leave takes p out of its lane's queue, wherever it is in it.
func (l *Lanes) leave(p *place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	queue := l.queues[p.lane]
	at := slices.Index(queue, p.first)
	queue = slices.Delete(queue, at, at+1)
	switch {
	case len(queue) == 0:
		delete(l.queues, p.lane)
		return
	case at == 0:
		close(queue[0])
	}
	l.queues[p.lane] = queue
}

// lost reports whether another sidecar may be at the lane by now.
func (p *place) lost() bool { return p.turn.Expired() }

// leave gives the lane back. If its store fails, the lease runs out by itself.
func (p *place) leave(ctx context.Context) {
	_ = p.turn.Release(ctx)
	p.lanes.leave(p)
}

// remember notes an answer of the app's that could not be recorded.
func (l *Lanes) remember(box, key string, answer store.Answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unrecorded[laneName(box, key)] = answer
}

// settle returns the app's answer to a call that could not be recorded, and forgets it.
func (l *Lanes) settle(box, key string) (answer store.Answer, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	answer, known = l.unrecorded[laneName(box, key)]
	delete(l.unrecorded, laneName(box, key))
	return answer, known
}
