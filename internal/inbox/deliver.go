package inbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

const (
	pollInterval = time.Second     // between two reads of the store, which other sidecars write
	stopTimeout  = 5 * time.Second // for attempts that are under way when Run ends
	clockSetBack = time.Second     // a clock set back by more than this makes waiting calls due now
)

// Run delivers kept calls that are due until ctx ends. It then waits at most 5 s for
// the attempts that are under way, and stops them.
func (i *Inbox) Run(ctx context.Context) {
	working, abort := context.WithCancelCause(context.WithoutCancel(ctx))
	defer abort(nil)
	w := &workers{stopping: ctx, free: make(chan struct{}, i.cfg.Concurrency)}
	for last := (time.Time{}); ; {
		// Sidecar and app often start together, so earlier due times do not count at the
		// start. Nor do they after the clock was set back.
		now := i.cfg.Now().Round(0)
		if last.IsZero() || last.Sub(now) > clockSetBack {
			if err := i.cfg.Store.RetryNow(ctx, i.cfg.Name, now, true); err != nil && ctx.Err() == nil {
				i.cfg.Logger.WarnContext(ctx, "kept calls could not be made due now; they wait for their due time", "error", err)
			}
		}
		last = now
		i.settle(ctx) // first: what is owed must be recorded before others are called
		next, err := i.dispatch(working, w)
		if err != nil && ctx.Err() == nil {
			i.cfg.Logger.ErrorContext(ctx, "the inbox cannot be read; its calls are not delivered until it can", "error", err)
		}
		idle := pollInterval
		if until := next.Sub(i.cfg.Now()); err == nil && !next.IsZero() && until < idle {
			idle = max(until, time.Millisecond)
		}
		select {
		case <-ctx.Done():
			end := time.AfterFunc(stopTimeout, func() { abort(errStopped) })
			w.running.Wait()
			end.Stop()
			i.settle(ctx)
			return
		case <-i.wake:
		case <-time.After(idle):
		}
	}
}

// signal wakes Run.
func (i *Inbox) signal() {
	select {
	case i.wake <- struct{}{}:
	default: // it is about to wake
	}
}

// workers are the goroutines of one [Inbox.Run].
type workers struct {
	stopping context.Context //nolint:containedctx // ends before the context of the attempts under way
	free     chan struct{}   // has one element for each running worker
	running  sync.WaitGroup
}

// dispatch starts a worker for each ordering key that is due, and waits while all of
// them are busy. It returns when the next ordering key is due.
func (i *Inbox) dispatch(ctx context.Context, w *workers) (next time.Time, err error) {
	now := i.cfg.Now()
	orderingKeys, next, err := i.cfg.Store.Due(ctx, i.cfg.Name, now, 4*i.cfg.Concurrency+i.countBackoffs(now))
	if err != nil {
		return next, err
	}
	for _, orderingKey := range orderingKeys {
		if !i.startGroup(orderingKey, now) {
			continue
		}
		select {
		case w.free <- struct{}{}:
		case <-w.stopping.Done():
			i.endGroup(orderingKey)
			return next, nil
		}
		w.running.Go(func() {
			defer func() {
				<-w.free
				i.endGroup(orderingKey)
			}()
			if i.deliverGroup(ctx, w, orderingKey) {
				i.signal() // more ordering keys may be due than Due returned
			}
		})
	}
	return next, nil
}

// startGroup reserves an ordering key for a worker. It reports false if another worker
// has it, or if it is in backoff.
func (i *Inbox) startGroup(orderingKey string, now time.Time) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.delivering[orderingKey] || now.Before(i.backoffs[orderingKey].until) {
		return false
	}
	i.delivering[orderingKey] = true
	return true
}

func (i *Inbox) endGroup(orderingKey string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.delivering, orderingKey)
}

// deliverGroup delivers the calls of an ordering key that are due, one after the other.
// It reports whether any of them has moved on.
func (i *Inbox) deliverGroup(ctx context.Context, w *workers, orderingKey string) (moved bool) {
	slot, err := i.cfg.Slots.tryAcquire(ctx, i.cfg.Name, orderingKey)
	if errors.Is(err, store.ErrInFlight) {
		return false
	}
	if err == nil {
		defer slot.release(ctx)
		moved, err = i.deliverDue(ctx, w, slot, orderingKey)
	}
	i.noteFailure(ctx, orderingKey, err)
	return moved
}

// deliverDue is deliverGroup after the slot is acquired. An error means that the
// ordering key needs a backoff.
func (i *Inbox) deliverDue(ctx context.Context, w *workers, slot *slot, orderingKey string) (moved bool, err error) {
	for w.stopping.Err() == nil && !slot.expired() {
		first, err := i.cfg.Store.Peek(ctx, i.cfg.Name, orderingKey)
		if err != nil {
			return moved, fmt.Errorf("reading the next call: %w", err)
		}
		if first == nil || first.Due.After(i.cfg.Now()) {
			return moved, nil
		}
		answer, err := i.attempt(ctx, slot, first)
		switch {
		case err == nil, first.Dead: // the next call is first now
			moved = true
		case !errors.Is(err, callstore.ErrStore): // the call has a new due time
			return true, nil
		case answer.Status != 0: // the app has taken it; the slot stays leased until that is recorded
			return moved, nil
		default:
			return moved, err
		}
	}
	return moved, nil
}
