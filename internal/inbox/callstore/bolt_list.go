package callstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Due implements [Store].
func (b *Bolt) Due(_ context.Context, inbox string, now time.Time, limit int) (orderingKeys []string, next time.Time, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	orderingKeys, next = b.index(inbox).dueAt(now, limit)
	return orderingKeys, next, nil
}

// RetryNow implements [Store]. It changes only the index: after a restart, waiting
// calls are soon due in any case.
func (b *Bolt) RetryNow(_ context.Context, inbox string, now time.Time, refused bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.index(inbox).retryNow(now, func(e *entry) bool { return !e.maybeTaken && (refused || !e.refused) })
	return nil
}

// List implements [Store].
func (b *Bolt) List(_ context.Context, inbox, after string, limit int) (all []Call, next string, err error) {
	from, err := parseCursor(after)
	if err != nil {
		return nil, "", err
	}
	var found []entry
	b.mu.Lock()
	for _, e := range b.index(inbox).entries {
		if from.before(e.received, e.key) {
			found = append(found, *e)
		}
	}
	b.mu.Unlock()
	slices.SortFunc(found, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.received.UnixMilli(), b.received.UnixMilli()), cmp.Compare(a.key, b.key))
	})
	if len(found) > limit {
		found = found[:limit]
		next = cursor{found[limit-1].received.UnixMilli(), found[limit-1].key}.String()
	}
	err = b.view(func(tx *bolt.Tx) error {
		for _, e := range found {
			c, err := readCall(tx, &e)
			if err != nil {
				c = &Call{
					Key: e.key, Inbox: inbox, Account: e.account, OrderingKey: e.orderingKey,
					Received: e.received, Due: e.due, Dead: e.dead, Error: unreadable(err),
				}
			}
			if c != nil {
				c.Body = nil
				all = append(all, *c)
			}
		}
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrStore, err)
	}
	return all, next, nil
}

// Stats implements [Store].
func (b *Bolt) Stats(_ context.Context, inbox string) (s Stats, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.index(inbox).entries {
		if e.dead {
			s.Dead++
			continue
		}
		s.Waiting++
		if s.Oldest.IsZero() || e.received.Before(s.Oldest) {
			s.Oldest = e.received
		}
	}
	return s, nil
}

// Inboxes implements [Store].
func (b *Bolt) Inboxes(context.Context) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	for name, x := range b.indexes {
		if len(x.entries) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}
