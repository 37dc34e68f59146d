package callstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore/boltfile"
	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore/callindex"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
)

// ackKey returns the key of the record of a taken call. It also identifies the call
// among the changes of a transaction.
func ackKey(inbox, key string) []byte { return []byte(inbox + "\x00" + key) }

func sequenceKey(sequence uint64) []byte { return binary.BigEndian.AppendUint64(nil, sequence) }

// Add implements [Store].
func (b *Bolt) Add(ctx context.Context, c Call) (added bool, acked *store.Answer, err error) {
	if kept := b.entry(c.Inbox, c.Key); kept != nil && !kept.Dead && b.onDisk(kept) {
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
	err = b.write(ctx, &boltWrite{
		key: string(ackKey(c.Inbox, c.Key)),
		apply: func(tx *boltfile.Tx) (err error) {
			sequence, earlier = 0, nil
			kept := b.entry(c.Inbox, c.Key)
			if kept != nil && !kept.Dead {
				return mustHave(tx, kept)
			}
			if earlier, err = b.readAcked(tx.Get, c.Inbox, c.Key); earlier != nil || err != nil {
				return err
			}
			if kept != nil {
				if err := tx.Delete(callsBucket, sequenceKey(kept.Sequence)); err != nil {
					return err
				}
			}
			if sequence, err = tx.NextSequence(callsBucket); err != nil {
				return err
			}
			return tx.Put(callsBucket, sequenceKey(sequence), value)
		},
		updateIndex: func() {
			if sequence == 0 {
				return
			}
			b.newest.Store(max(b.newest.Load(), sequence))
			x := b.index(c.Inbox)
			x.Remove(c.Key)
			x.Add(newEntry(c, sequence))
		},
	})
	if err != nil {
		return false, nil, err
	}
	return sequence != 0, earlier, nil
}

// onDisk reports whether a kept call can be read, from a file that is in its place.
func (b *Bolt) onDisk(e *callindex.Entry) bool {
	c, err := b.get(e)
	return c != nil && err == nil && b.inPlace() == nil
}

// mustHave returns an error if the file does not have a call that is in the index.
func mustHave(tx *boltfile.Tx, e *callindex.Entry) error {
	value, err := tx.Get(callsBucket, sequenceKey(e.Sequence))
	if err == nil && value == nil {
		return errMissing
	}
	return err
}

// Lookup implements [Store]. What it says must be on disk: DOKU may be told so.
func (b *Bolt) Lookup(_ context.Context, inbox, key string) (acked *store.Answer, maybeTaken bool, err error) {
	acked, err = b.readAcked(b.read, inbox, key)
	kept := b.entry(inbox, key)
	maybeTaken = kept != nil && kept.MaybeTaken && !kept.Dead
	if err == nil && acked == nil && maybeTaken {
		var c *Call
		c, err = b.get(kept)
		maybeTaken = c != nil
	}
	if err == nil && (acked != nil || maybeTaken) {
		err = b.inPlace()
	}
	if err != nil {
		return nil, false, b.note(err)
	}
	return acked, maybeTaken, nil
}

// readAcked returns the answer to a taken call, or nil.
func (b *Bolt) readAcked(get func(bucket string, key []byte) ([]byte, error), inbox, key string) (*store.Answer, error) {
	record, err := get(ackedBucket, ackKey(inbox, key))
	if record == nil || err != nil {
		return nil, err
	}
	expires, answer, _, err := decodeAck(ackKey(inbox, key), record)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", boltfile.ErrDamaged, err)
	}
	if !b.cfg.Now().Before(expires) {
		return nil, nil
	}
	return store.DecodeAnswer(slices.Clone(answer))
}

// Ack implements [Store]. If there is no room for the answer, it records a short one: a call
// that the app has taken must leave the inbox, and that frees more.
func (b *Bolt) Ack(ctx context.Context, c Call, answer store.Answer, ttl time.Duration) error {
	kept := b.entry(c.Inbox, c.Key) != nil
	err := b.ack(ctx, c, answer, ttl, kept)
	if kept && boltfile.Full(err) {
		answer = store.Answer{
			Status: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: snap.Successful.Answer(c.Service),
		}
		err = b.ack(ctx, c, answer, ttl, kept)
	}
	return err
}

func (b *Bolt) ack(ctx context.Context, c Call, answer store.Answer, ttl time.Duration, freesSpace bool) error {
	key := ackKey(c.Inbox, c.Key)
	record := encodeAck(key, b.cfg.Now().Add(ttl), answer)
	return b.write(ctx, &boltWrite{
		key: string(key), freesSpace: freesSpace,
		apply: func(tx *boltfile.Tx) error {
			if err := b.deleteCall(tx, c.Inbox, c.Key); err != nil {
				return err
			}
			return tx.Put(ackedBucket, key, record)
		},
		updateIndex: func() { b.index(c.Inbox).Remove(c.Key) },
	})
}

// Update implements [Store].
func (b *Bolt) Update(ctx context.Context, c Call) error {
	value, err := encodeCall(c)
	if err != nil {
		return err
	}
	var sequence uint64 // 0: it is not kept any more
	return b.write(ctx, &boltWrite{
		key: string(ackKey(c.Inbox, c.Key)), freesSpace: true,
		apply: func(tx *boltfile.Tx) (err error) {
			sequence = 0
			kept := b.entry(c.Inbox, c.Key)
			if kept == nil {
				return nil
			}
			target := kept.Sequence
			if kept.Dead && !c.Dead || kept.OrderingKey != c.OrderingKey { // it becomes the last of its ordering key
				if err := tx.Delete(callsBucket, sequenceKey(target)); err != nil {
					return err
				}
				if target, err = tx.NextSequence(callsBucket); err != nil {
					return err
				}
			}
			sequence = target
			return tx.Put(callsBucket, sequenceKey(target), value)
		},
		updateIndex: func() {
			x := b.index(c.Inbox)
			kept := x.Entries[c.Key]
			if sequence == 0 || kept == nil {
				return
			}
			if kept.Dead || c.Dead || kept.OrderingKey != c.OrderingKey {
				b.newest.Store(max(b.newest.Load(), sequence))
				x.Remove(c.Key)
				x.Add(newEntry(c, sequence))
				return
			}
			kept.Due, kept.Refused, kept.MaybeTaken = c.Due, c.Refused, c.MaybeTaken > 0
			x.FixDue(kept.OrderingKey)
		},
	})
}

// Drop implements [Store].
func (b *Bolt) Drop(ctx context.Context, inbox, key string) (bool, error) {
	if b.entry(inbox, key) == nil {
		return false, nil
	}
	return true, b.write(ctx, &boltWrite{
		key: string(ackKey(inbox, key)), freesSpace: true,
		apply:       func(tx *boltfile.Tx) error { return b.deleteCall(tx, inbox, key) },
		updateIndex: func() { b.index(inbox).Remove(key) },
	})
}

// entry returns a copy of the index entry of a call, or nil.
func (b *Bolt) entry(inbox, key string) *callindex.Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.index(inbox).Entries[key]
	if e == nil {
		return nil
	}
	found := *e
	return &found
}

// deleteCall removes a call from the file, if it is kept.
func (b *Bolt) deleteCall(tx *boltfile.Tx, inbox, key string) error {
	if e := b.entry(inbox, key); e != nil {
		return tx.Delete(callsBucket, sequenceKey(e.Sequence))
	}
	return nil
}

// read returns a value from the file, or nil.
func (b *Bolt) read(bucket string, key []byte) ([]byte, error) {
	for {
		if err := b.awaitMend(); err != nil {
			return nil, err
		}
		file := b.file.Load()
		value, err := file.Get(bucket, key)
		if err == nil || file == b.file.Load() {
			return value, err
		}
	}
}

// inPlace returns an error if the file is not in its place any more.
func (b *Bolt) inPlace() error { return b.file.Load().InPlace() }

// Get implements [Store].
func (b *Bolt) Get(_ context.Context, inbox, key string) (*Call, error) {
	return b.get(b.entry(inbox, key))
}

// get returns a call from the file, or nil if it was removed meanwhile. e is a copy of its
// index entry.
func (b *Bolt) get(e *callindex.Entry) (*Call, error) {
	if e == nil {
		return nil, nil
	}
	value, err := b.read(callsBucket, sequenceKey(e.Sequence))
	if err != nil {
		return nil, b.note(err)
	}
	if value == nil {
		return nil, nil
	}
	c, err := decodeCall(value)
	if err != nil {
		return nil, b.note(errors.Join(boltfile.ErrDamaged, err))
	}
	c.Due = e.Due // RetryNow changes only the index
	return &c, nil
}

// Peek implements [Store].
func (b *Bolt) Peek(ctx context.Context, inbox, orderingKey string) (*Call, error) {
	for {
		b.mu.Lock()
		first := b.index(inbox).First(orderingKey)
		b.mu.Unlock()
		c, err := b.get(first)
		if c != nil || first == nil || err != nil {
			return c, err
		}
		if err := b.confirm(ctx, inbox, first); err != nil {
			return nil, err
		}
	}
}

// confirm makes sure that the file has a call that is in the index. If it does not, the file
// is damaged.
func (b *Bolt) confirm(ctx context.Context, inbox string, e *callindex.Entry) error {
	return b.write(ctx, &boltWrite{
		key: string(ackKey(inbox, e.Key)), freesSpace: true,
		apply: func(tx *boltfile.Tx) error {
			if now := b.entry(inbox, e.Key); now != nil && now.Sequence == e.Sequence {
				return mustHave(tx, now)
			}
			return nil
		},
		updateIndex: func() {},
	})
}
