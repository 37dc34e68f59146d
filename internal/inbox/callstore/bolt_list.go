package callstore

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore/callindex"
)

// Due implements [Store].
func (b *Bolt) Due(_ context.Context, inbox string, now time.Time, limit int) (orderingKeys []string, next time.Time, err error) {
	if err := b.awaitMend(); err != nil {
		return nil, next, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	orderingKeys, next = b.index(inbox).DueAt(now, limit)
	return orderingKeys, next, nil
}

// RetryNow implements [Store]. It changes only the index: after a restart, waiting
// calls are soon due in any case.
func (b *Bolt) RetryNow(_ context.Context, inbox string, now time.Time, refused bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.index(inbox).RetryNow(now, func(e *callindex.Entry) bool { return !e.MaybeTaken && (refused || !e.Refused) })
	return nil
}

// List implements [Store].
func (b *Bolt) List(_ context.Context, inbox, after string, limit int) (all []Call, next string, err error) {
	from, err := parseCursor(after)
	if err != nil {
		return nil, "", err
	}
	var found []callindex.Entry
	b.mu.Lock()
	for _, e := range b.index(inbox).Entries {
		if from.before(e.Received, e.Key) {
			found = append(found, *e)
		}
	}
	b.mu.Unlock()
	slices.SortFunc(found, func(a, b callindex.Entry) int {
		return cmp.Or(cmp.Compare(a.Received.UnixMilli(), b.Received.UnixMilli()), cmp.Compare(a.Key, b.Key))
	})
	if len(found) > limit {
		found = found[:limit]
		next = cursor{found[limit-1].Received.UnixMilli(), found[limit-1].Key}.String()
	}
	for _, e := range found {
		c, err := b.get(&e)
		if err != nil {
			c = &Call{
				Key: e.Key, Inbox: inbox, Account: e.Account, OrderingKey: e.OrderingKey,
				Received: e.Received, Due: e.Due, Dead: e.Dead, Error: unreadable(err),
			}
		}
		if c != nil {
			c.Body = nil
			all = append(all, *c)
		}
	}
	return all, next, b.awaitMend()
}

// Stats implements [Store].
func (b *Bolt) Stats(_ context.Context, inbox string) (s Stats, err error) {
	if err := b.awaitMend(); err != nil {
		return s, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.index(inbox).Entries {
		if e.Dead {
			s.Dead++
			continue
		}
		s.Waiting++
		if s.Oldest.IsZero() || e.Received.Before(s.Oldest) {
			s.Oldest = e.Received
		}
	}
	return s, nil
}

// Inboxes implements [Store].
func (b *Bolt) Inboxes(context.Context) ([]string, error) {
	if err := b.awaitMend(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	for name, x := range b.indexes {
		if len(x.Entries) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}
