package callstore

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	sweepInterval = 10 * time.Minute
	sweepBatch    = 256    // expired records removed in one transaction
	sweepScan     = 10_000 // records read in one transaction
)

// sweepLoop removes expired records, at the start and then once per interval.
func (b *Bolt) sweepLoop() {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		if err := b.sweep(); err != nil && !errors.Is(err, errClosed) {
			b.log.Warn("expired records of the inbox could not be removed", "error", err)
		}
		select {
		case <-b.stop:
			return
		case <-tick.C:
		}
	}
}

// sweep removes expired records in small transactions, because other changes wait
// meanwhile. If one fails it tries smaller ones, because a full disk may have room for
// a small change.
func (b *Bolt) sweep() error {
	batch := sweepBatch
	for from := []byte{}; from != nil; {
		expired, next, err := b.expired(from, batch)
		if err != nil {
			return err
		}
		if len(expired) > 0 {
			err = b.write(&boltWrite{
				freesSpace:  true,
				apply:       func(tx *bolt.Tx) error { return b.deleteExpired(tx, expired) },
				updateIndex: func() {},
			})
		}
		switch {
		case err == nil:
			from = next
		case batch == 1 || errors.Is(err, errClosed):
			return err
		default:
			batch = max(batch/8, 1)
		}
	}
	return nil
}

// expired returns at most limit keys of expired records, starting at the key from.
// next is the key to continue from, or nil at the end.
func (b *Bolt) expired(from []byte, limit int) (expired [][]byte, next []byte, err error) {
	err = b.view(func(tx *bolt.Tx) error {
		cursor := tx.Bucket(ackedBucket).Cursor()
		scanned := 0
		for key, value := cursor.Seek(from); key != nil; key, value = cursor.Next() {
			if scanned++; scanned > sweepScan || len(expired) == limit {
				next = slices.Clone(key)
				return nil
			}
			if b.isExpired(value) {
				expired = append(expired, slices.Clone(key))
			}
		}
		return nil
	})
	return expired, next, err
}

// deleteExpired removes records, except the ones that were written again meanwhile.
func (b *Bolt) deleteExpired(tx *bolt.Tx, keys [][]byte) error {
	acked := tx.Bucket(ackedBucket)
	for _, key := range keys {
		if !b.isExpired(acked.Get(key)) {
			continue
		}
		if err := acked.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// isExpired reports whether a record has expired, or does not exist.
func (b *Bolt) isExpired(value []byte) bool {
	return len(value) < 8 || !b.now().Before(expiryOf(value))
}

func expiryOf(value []byte) time.Time {
	return time.Unix(0, int64(binary.BigEndian.Uint64(value))) //nolint:gosec // it was made from an int64
}
