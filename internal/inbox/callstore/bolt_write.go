package callstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore/boltfile"
)

const (
	boltBatch        = 1024                   // changes in one transaction
	boltWriteTimeout = 10 * time.Second       // of a change, from when it is requested
	boltHangTimeout  = 100 * time.Millisecond // the same, while an earlier change takes longer than that
)

// boltWrite is a change that waits for its transaction.
type boltWrite struct {
	key         string                   // of the call that changes: a transaction has one change of each call
	freesSpace  bool                     // may exceed MaxSize, because in the end it needs no more space than before
	apply       func(*boltfile.Tx) error // changes the file; runs again if the transaction fails
	updateIndex func()                   // changes the index, after apply has succeeded
	done        chan struct{}            // closed when err is set
	err         error
}

var (
	errClosed  = fmt.Errorf("%w: it is closed", ErrStore)
	errHangs   = fmt.Errorf("%w: the disk does not answer", ErrStore)
	errMissing = fmt.Errorf("%w: a kept call is missing", boltfile.ErrDamaged)
)

// write makes a change and waits until it is on disk. It ignores that ctx is cancelled:
// after a cancelled wait nobody knows whether the change was made. If the disk hangs,
// write gives up, at the deadline of ctx or after a while, and soon if it has hung for so long
// already. The change may still be made later.
func (b *Bolt) write(ctx context.Context, w *boltWrite) error {
	w.done = make(chan struct{})
	patience := boltWriteTimeout
	if since := b.busy.Load(); since != nil && b.cfg.Now().Sub(*since) >= boltWriteTimeout {
		patience = boltHangTimeout
	}
	if deadline, found := ctx.Deadline(); found {
		patience = min(patience, deadline.Sub(b.cfg.Now()))
	}
	timeout := time.NewTimer(patience)
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
// the store is closed. In between it looks after the file.
func (b *Bolt) writeLoop() {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for {
		first := b.deferred
		b.deferred = nil
		if first == nil {
			select {
			case <-b.stop:
				return
			case <-tick.C:
				b.occupied(b.look)
				continue
			case <-b.wake:
				b.occupied(func() { b.mend(true) })
				continue
			case first = <-b.writes:
			}
		}
		b.occupied(func() { b.transact(b.gather(first)) })
	}
}

// occupied runs what may take as long as the disk does.
func (b *Bolt) occupied(run func()) {
	since := b.cfg.Now()
	b.busy.Store(&since)
	defer b.busy.Store(nil)
	run()
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
	err := b.update(allFreeSpace, batch)
	if errors.Is(err, boltfile.ErrDamaged) {
		_ = b.note(err)
		if b.mend(true); b.fault.Load() == nil {
			err = b.update(allFreeSpace, batch)
		}
	}
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
	case len(batch) == 1, errors.Is(err, boltfile.ErrDamaged):
		for _, w := range batch {
			w.end(fmt.Errorf("%w: %w", ErrStore, err))
		}
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

// update makes changes in one transaction of the file.
func (b *Bolt) update(freesSpace bool, batch []*boltWrite) error {
	if fault := b.fault.Load(); fault != nil {
		return fault.err
	}
	err := b.file.Load().Update(freesSpace, func(tx *boltfile.Tx) error {
		for _, w := range batch {
			if err := w.apply(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, boltfile.ErrUnclear) {
		b.reload()
	}
	return err
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
