package callstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-doku/caddy-doku/internal/store"
)

// ackKey returns the key of the record of a taken call. It also identifies the call
// among the changes of a transaction.
func ackKey(inbox, key string) []byte { return []byte(inbox + "\x00" + key) }

func sequenceKey(sequence uint64) []byte { return binary.BigEndian.AppendUint64(nil, sequence) }

// Add implements [Store].
func (b *Bolt) Add(ctx context.Context, c Call) (added bool, acked *store.Answer, err error) {
	if kept := b.entry(c.Inbox, c.Key); kept != nil && !kept.dead {
		return false, nil, nil
	}
	if acked, _, err = b.Lookup(ctx, c.Inbox, c.Key); acked != nil || err != nil {
		return false, acked, err
	}
	value, err := encodeCall(c)
	if err != nil {
		return false, nil, err
	}
	var sequence uint64 // 0: it is not added
	var earlier *store.Answer
	err = b.write(&boltWrite{
		key: string(ackKey(c.Inbox, c.Key)),
		apply: func(tx *bolt.Tx) (err error) {
			sequence, earlier = 0, nil
			kept := b.entry(c.Inbox, c.Key)
			if kept != nil && !kept.dead {
				return nil
			}
			if earlier, err = b.readAcked(tx, c.Inbox, c.Key); earlier != nil || err != nil {
				return err
			}
			calls := tx.Bucket(callsBucket)
			if kept != nil {
				if err := calls.Delete(sequenceKey(kept.sequence)); err != nil {
					return err
				}
			}
			if sequence, err = calls.NextSequence(); err != nil {
				return err
			}
			return calls.Put(sequenceKey(sequence), value)
		},
		updateIndex: func() {
			if sequence == 0 {
				return
			}
			x := b.index(c.Inbox)
			x.remove(c.Key)
			x.add(newEntry(c, sequence))
		},
	})
	if err != nil {
		return false, nil, err
	}
	return sequence != 0, earlier, nil
}

// Lookup implements [Store].
func (b *Bolt) Lookup(_ context.Context, inbox, key string) (acked *store.Answer, maybeTaken bool, err error) {
	err = b.view(func(tx *bolt.Tx) error {
		acked, err = b.readAcked(tx, inbox, key)
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrStore, err)
	}
	kept := b.entry(inbox, key)
	return acked, kept != nil && kept.maybeTaken && !kept.dead, nil
}

func (b *Bolt) readAcked(tx *bolt.Tx, inbox, key string) (*store.Answer, error) {
	value := tx.Bucket(ackedBucket).Get(ackKey(inbox, key))
	if b.isExpired(value) {
		return nil, nil
	}
	return store.DecodeAnswer(slices.Clone(value[8:]))
}

// Ack implements [Store].
func (b *Bolt) Ack(_ context.Context, c Call, answer store.Answer, ttl time.Duration) error {
	record := append(binary.BigEndian.AppendUint64(nil, uint64(b.now().Add(ttl).UnixNano())), answer.Encode()...)
	return b.write(&boltWrite{
		key:        string(ackKey(c.Inbox, c.Key)),
		freesSpace: b.entry(c.Inbox, c.Key) != nil,
		apply: func(tx *bolt.Tx) error {
			if err := b.deleteCall(tx, c.Inbox, c.Key); err != nil {
				return err
			}
			return tx.Bucket(ackedBucket).Put(ackKey(c.Inbox, c.Key), record)
		},
		updateIndex: func() { b.index(c.Inbox).remove(c.Key) },
	})
}

// Update implements [Store].
func (b *Bolt) Update(_ context.Context, c Call) error {
	value, err := encodeCall(c)
	if err != nil {
		return err
	}
	var sequence uint64 // 0: it is not kept any more
	return b.write(&boltWrite{
		key: string(ackKey(c.Inbox, c.Key)), freesSpace: true,
		apply: func(tx *bolt.Tx) (err error) {
			sequence = 0
			kept := b.entry(c.Inbox, c.Key)
			if kept == nil {
				return nil
			}
			calls := tx.Bucket(callsBucket)
			target := kept.sequence
			if kept.dead && !c.Dead || kept.orderingKey != c.OrderingKey { // it becomes the last of its ordering key
				if err := calls.Delete(sequenceKey(target)); err != nil {
					return err
				}
				if target, err = calls.NextSequence(); err != nil {
					return err
				}
			}
			sequence = target
			return calls.Put(sequenceKey(target), value)
		},
		updateIndex: func() {
			x := b.index(c.Inbox)
			kept := x.entries[c.Key]
			if sequence == 0 || kept == nil {
				return
			}
			if kept.dead || c.Dead || kept.orderingKey != c.OrderingKey {
				x.remove(c.Key)
				x.add(newEntry(c, sequence))
				return
			}
			kept.due, kept.refused, kept.maybeTaken = c.Due, c.Refused, c.MaybeTaken > 0
			x.fixDue(kept.orderingKey)
		},
	})
}

// Drop implements [Store].
func (b *Bolt) Drop(_ context.Context, inbox, key string) (bool, error) {
	if b.entry(inbox, key) == nil {
		return false, nil
	}
	return true, b.write(&boltWrite{
		key: string(ackKey(inbox, key)), freesSpace: true,
		apply:       func(tx *bolt.Tx) error { return b.deleteCall(tx, inbox, key) },
		updateIndex: func() { b.index(inbox).remove(key) },
	})
}

// entry returns a copy of the index entry of a call, or nil.
func (b *Bolt) entry(inbox, key string) *entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.index(inbox).entries[key]
	if e == nil {
		return nil
	}
	found := *e
	return &found
}

// deleteCall removes a call from the file, if it is kept.
func (b *Bolt) deleteCall(tx *bolt.Tx, inbox, key string) error {
	if e := b.entry(inbox, key); e != nil {
		return tx.Bucket(callsBucket).Delete(sequenceKey(e.sequence))
	}
	return nil
}

// readCall returns a call from the file, or nil if it was removed meanwhile. e is a
// copy of its index entry.
func readCall(tx *bolt.Tx, e *entry) (*Call, error) {
	value := tx.Bucket(callsBucket).Get(sequenceKey(e.sequence))
	if value == nil {
		return nil, nil
	}
	c, err := decodeCall(value)
	if err != nil {
		return nil, err
	}
	c.Due = e.due // RetryNow changes only the index
	return &c, nil
}

// Get implements [Store].
func (b *Bolt) Get(_ context.Context, inbox, key string) (*Call, error) {
	return b.get(b.entry(inbox, key))
}

func (b *Bolt) get(e *entry) (c *Call, err error) {
	if e == nil {
		return nil, nil
	}
	err = b.view(func(tx *bolt.Tx) error {
		if c, err = readCall(tx, e); c != nil {
			c.Body = slices.Clone(c.Body)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStore, err)
	}
	return c, nil
}

// Peek implements [Store].
func (b *Bolt) Peek(_ context.Context, inbox, orderingKey string) (*Call, error) {
	for {
		b.mu.Lock()
		var first *entry
		if found := b.index(inbox).groups[orderingKey]; found != nil {
			e := *found.entries[0]
			first = &e
		}
		b.mu.Unlock()
		c, err := b.get(first)
		if c != nil || first == nil || err != nil {
			return c, err
		}
		if err := b.removeStale(inbox, first); err != nil {
			return nil, err
		}
	}
}

// removeStale removes an entry from the index if its call is not in the file: the call
// has just been removed, or a failing disk reported an error for a removal that it made.
func (b *Bolt) removeStale(inbox string, e *entry) error {
	gone := false
	return b.write(&boltWrite{
		key: string(ackKey(inbox, e.key)), freesSpace: true,
		apply: func(tx *bolt.Tx) error {
			gone = tx.Bucket(callsBucket).Get(sequenceKey(e.sequence)) == nil
			return nil
		},
		updateIndex: func() {
			if now := b.index(inbox).entries[e.key]; gone && now != nil && now.sequence == e.sequence {
				b.index(inbox).remove(e.key)
			}
		},
	})
}
