package callstore

import (
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	boltBatch        = 1024             // changes in one transaction
	boltWriteTimeout = 10 * time.Second // of a change, from when it is requested
)

// boltWrite is a change that waits for its transaction.
type boltWrite struct {
	key         string               // of the call that changes: a transaction has one change of each call
	freesSpace  bool                 // may exceed MaxSize, because in the end it needs no more space than before
	apply       func(*bolt.Tx) error // changes the file; runs again if the transaction fails
	updateIndex func()               // changes the index, after apply has succeeded
	done        chan struct{}        // closed when err is set
	err         error
}

var (
	errClosed = fmt.Errorf("%w: it is closed", ErrStore)
	errHangs  = fmt.Errorf("%w: the disk does not answer", ErrStore)
)

// write makes a change and waits until it is on disk. It ignores the caller's context:
// after a cancelled wait nobody knows whether the change was made. If the disk hangs,
// write gives up, and the change may still be made later.
func (b *Bolt) write(w *boltWrite) error {
	w.done = make(chan struct{})
	timeout := time.NewTimer(boltWriteTimeout)
	defer timeout.Stop()
	select {
	case b.writes <- w:
	case <-b.stop:
		return errClosed
	case <-timeout.C:
		return errHangs
	}
	select {
	case <-w.done:
		return w.err
	case <-timeout.C:
		return errHangs
	}
}

// writeLoop makes the changes that wait, as many in one transaction as there are, until
// the store is closed.
func (b *Bolt) writeLoop() {
	for {
		first := b.deferred
		b.deferred = nil
		if first == nil {
			select {
			case <-b.stop:
				return
			case first = <-b.writes:
			}
		}
		b.transact(b.gather(first))
	}
}

// gather returns the changes that wait now, at most one of each call: a change relies
// on the index, which shows an earlier change only after its transaction.
func (b *Bolt) gather(first *boltWrite) []*boltWrite {
	batch, keys := []*boltWrite{first}, map[string]bool{first.key: true}
	for len(batch) < boltBatch {
		select {
		case next := <-b.writes:
			if next.key != "" && keys[next.key] {
				b.deferred = next
				return batch
			}
			keys[next.key] = true
			batch = append(batch, next)
		default:
			return batch
		}
	}
	return batch
}

// transact makes changes in one transaction. If that fails, it first makes the changes
// that free space, and then each of the others alone, so that one change that cannot be
// made does not prevent others.
func (b *Bolt) transact(batch []*boltWrite) {
	allFreeSpace := !slices.ContainsFunc(batch, func(w *boltWrite) bool { return !w.freesSpace })
	b.db.MaxSize = b.maxSize
	if allFreeSpace {
		b.db.MaxSize = 0 // a change that frees space may need some for a moment
	}
	err := b.update(func(tx *bolt.Tx) error {
		for _, w := range batch {
			if err := w.apply(tx); err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case err == nil:
		b.mu.Lock()
		for _, w := range batch {
			w.updateIndex()
		}
		b.mu.Unlock()
		for _, w := range batch {
			w.end(nil)
		}
	case len(batch) == 1:
		batch[0].end(fmt.Errorf("%w: %w", ErrStore, err))
	default:
		alone := batch
		if !allFreeSpace {
			var freeing []*boltWrite
			freeing, alone = split(batch)
			if len(freeing) > 0 {
				b.transact(freeing)
			}
		}
		for _, w := range alone {
			b.transact([]*boltWrite{w})
		}
	}
}

// split returns the changes that free space, and the others.
func split(batch []*boltWrite) (freeing, others []*boltWrite) {
	for _, w := range batch {
		if w.freesSpace {
			freeing = append(freeing, w)
		} else {
			others = append(others, w)
		}
	}
	return freeing, others
}

func (w *boltWrite) end(err error) {
	w.err = err
	close(w.done)
}
