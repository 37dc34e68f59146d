package callstore

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore/boltfile"
)

const (
	sweepInterval = 10 * time.Minute
	sweepBatch    = 256 // expired records removed in one transaction
)

// sweepLoop removes expired records, at the start and then once per interval.
func (b *Bolt) sweepLoop() {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		if err := b.sweep(); err != nil && !errors.Is(err, errClosed) {
			b.cfg.Logger.Warn("expired records of the inbox could not be removed", "error", err)
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
			err = b.write(context.Background(), &boltWrite{
				freesSpace:  true,
				apply:       func(tx *boltfile.Tx) error { return b.deleteExpired(tx, expired) },
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

// expired returns some more than limit keys of expired records at most, starting at the key
// from. next is the key to continue from, or nil at the end.
func (b *Bolt) expired(from []byte, limit int) (expired [][]byte, next []byte, err error) {
	for next = from; next != nil && len(expired) < limit; {
		if err := b.faulty(); err != nil {
			return nil, nil, err
		}
		next, err = b.file.Load().Range(ackedBucket, next, func(key, value []byte) error {
			expires, _, _, err := decodeAck(key, value)
			if err == nil && !b.cfg.Now().Before(expires) {
				expired = append(expired, slices.Clone(key))
			}
			return err
		})
		if err != nil {
			return nil, nil, b.note(err)
		}
	}
	return expired, next, nil
}

// deleteExpired removes records, except the ones that were written again meanwhile.
func (b *Bolt) deleteExpired(tx *boltfile.Tx, keys [][]byte) error {
	for _, key := range keys {
		record, err := tx.Get(ackedBucket, key)
		if err != nil {
			return err
		}
		if record == nil {
			continue
		}
		if expires, _, _, err := decodeAck(key, record); err != nil || b.cfg.Now().Before(expires) {
			continue
		}
		if err := tx.Delete(ackedBucket, key); err != nil {
			return err
		}
	}
	return nil
}
