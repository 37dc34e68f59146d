package callstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore/boltfile"
	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore/callindex"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

const (
	lookInterval  = time.Second // between two looks whether the file is in its place, and whether it was changed
	scrubShare    = 50          // a scrub takes at most this part of the time
	scrubInterval = time.Hour   // between two scrubs of a file that nobody has changed
	mendPatience  = time.Second // to wait until a file is replaced
	mendPoll      = 5 * time.Millisecond
	mendShortest  = time.Second // between two times that a file is replaced; it doubles
	mendLongest   = 5 * time.Minute
	lostNamed     = 20 // calls named in the log
)

// mending is what a [Bolt] needs to go on after its file was damaged or taken away.
type mending struct {
	fault atomic.Pointer[fault] // nil while the file is as it should be
	stuck atomic.Bool           // the file cannot be replaced at once
	wake  chan struct{}         // tells writeLoop of a fault

	// Used by writeLoop only.
	wait   time.Duration // until the file may be replaced again
	mended time.Time     // when it was last tried
	failed string        // the last error in the log
}

type fault struct{ err error }

// note returns an error of the file as one of the store. If it says that the file is damaged,
// the file is replaced soon, and nothing is read or written before.
func (b *Bolt) note(err error) error {
	if errors.Is(err, boltfile.ErrDamaged) && b.fault.CompareAndSwap(nil, &fault{err}) {
		select {
		case b.wake <- struct{}{}:
		default: // it is awake
		}
	}
	if errors.Is(err, ErrStore) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrStore, err)
}

// faulty returns an error if the file is damaged.
func (b *Bolt) faulty() error {
	if fault := b.fault.Load(); fault != nil {
		return b.note(fault.err)
	}
	return nil
}

// awaitMend waits for a moment while the file is being replaced. It returns an error if it is
// not as it should be.
func (b *Bolt) awaitMend() error {
	for range mendPatience / mendPoll {
		if b.fault.Load() == nil || b.stuck.Load() {
			break
		}
		time.Sleep(mendPoll)
	}
	return b.faulty()
}

// look checks that the file is in its place, and replaces it if it is not.
func (b *Bolt) look() {
	if b.fault.Load() == nil {
		if err := b.file.Load().Check(); err != nil {
			_ = b.note(err)
		}
	}
	b.mend(true)
}

// mend replaces a file that is damaged or gone, unless that was done just before. inUse says
// that the index knows the calls that the file must have.
func (b *Bolt) mend(inUse bool) {
	found := b.fault.Load()
	if found == nil {
		return
	}
	since := b.cfg.Now().Sub(b.mended)
	if since < b.wait {
		b.stuck.Store(true)
		return
	}
	if since > mendLongest {
		b.wait = 0
	}
	b.wait = min(max(2*b.wait, mendShortest), mendLongest)
	err := b.replace(found.err, inUse)
	b.mended = b.cfg.Now()
	b.stuck.Store(err != nil)
	switch {
	case err == nil:
		b.failed = ""
	case err.Error() != b.failed:
		b.failed = err.Error()
		b.cfg.Logger.Error("the inbox is damaged or gone, and a new file could not be made: nothing is kept until that works; it is tried again",
			"error", found.err, "because", err)
	}
}

// replace saves what can be read into a new file.
func (b *Bolt) replace(cause error, inUse bool) error {
	old := b.file.Load()
	fresh, report, err := old.Replace(boltfile.Salvage{
		Identify: b.identify, Seal: seal,
		Wanted: func(r boltfile.Record) bool { return b.wanted(r, inUse) },
	})
	if err != nil {
		return err
	}
	indexes, err := b.load(fresh)
	if err != nil {
		return errors.Join(err, fresh.Close())
	}
	b.mu.Lock()
	lost := lostFrom(b.indexes, indexes)
	b.indexes = indexes
	b.mu.Unlock()
	b.file.Store(fresh)
	b.fault.Store(nil)
	_ = old.Close() // it is of no use any more
	log := b.cfg.Logger.With("file", report.Aside)
	log.Warn("the inbox was damaged or gone: what can be read is saved in a new file, and the old one is put aside if it was there",
		"error", cause, "saved", report.Saved[callsBucket], "taken", report.Saved[ackedBucket], "unreadable", report.Spoiled, "lost", len(lost))
	if len(lost) > 0 {
		log.Error("notifications were lost with the inbox's file, and will not be delivered; book them by hand",
			slog.Int("calls", len(lost)), slog.Any("keys", lost[:min(len(lost), lostNamed)]))
	}
	return nil
}

// reload reads the index again from a file that may have a change that failed.
func (b *Bolt) reload() {
	indexes, err := b.load(b.file.Load())
	if err != nil {
		_ = b.note(err)
		return
	}
	b.mu.Lock()
	b.indexes = indexes
	b.mu.Unlock()
}

// lostFrom returns the keys of the calls that are no longer in the index.
func lostFrom(before, after map[string]*callindex.Index) (keys []string) {
	for inbox, x := range before {
		for key := range x.Entries {
			if after[inbox] == nil || after[inbox].Entries[key] == nil {
				keys = append(keys, key)
			}
		}
	}
	slices.Sort(keys)
	return keys
}

// identify reads a record that was found in a damaged file.
func (b *Bolt) identify(key, value []byte) (r boltfile.Record, ok bool) {
	if len(key) == 8 {
		if c, err := decodeCall(value); err == nil {
			sequence := binary.BigEndian.Uint64(key)
			return boltfile.Record{
				Bucket: callsBucket, ID: string(ackKey(c.Inbox, c.Key)), Proven: true,
				Version: int64(sequence)<<16 | int64(min(c.Attempts, 1<<16-1)), //nolint:gosec // there are fewer calls
			}, true
		}
	}
	expires, answer, proven, err := decodeAck(key, value)
	if err != nil {
		return r, false
	}
	if !proven {
		if _, err := store.DecodeAnswer(answer); err != nil || !strings.Contains(string(key), "\x00") {
			return r, false
		}
	}
	if !b.cfg.Now().Before(expires) {
		return r, true // it belongs to no bucket any more
	}
	return boltfile.Record{Bucket: ackedBucket, ID: string(key), Version: expires.UnixNano(), Proven: proven}, true
}

// seal returns the value to write for a record that was saved.
func seal(key, value []byte) []byte {
	if _, err := decodeCall(value); len(key) == 8 && err == nil {
		return value
	}
	return sealAck(key, value)
}

// wanted reports whether a record is still valid that is not in its place. That the app has
// taken a call stays true. A call may have been removed since; the index knows, and otherwise
// those are wanted that are in a part of the file that is in use, or newer than it.
func (b *Bolt) wanted(r boltfile.Record, inUse bool) bool {
	if r.Bucket != callsBucket {
		return r.Proven || r.Place == boltfile.Astray && r.Whole
	}
	sequence := binary.BigEndian.Uint64(r.Key)
	if inUse {
		inbox, key, _ := strings.Cut(r.ID, "\x00")
		kept := b.entry(inbox, key)
		return kept != nil && kept.Sequence == sequence
	}
	return r.Place == boltfile.Astray || r.Sequence > 0 && sequence > r.Sequence
}

// scrubLoop checks the whole file again and again while it is in use: soon after it has
// changed, since somebody else may have done that, and otherwise at times.
func (b *Bolt) scrubLoop() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-b.stop
		cancel()
	}()
	var last time.Time // when the last scrub began
	var changed time.Time
	var change uint64
	for wait := lookInterval; ; {
		select {
		case <-b.stop:
			return
		case <-time.After(wait):
		}
		wait = lookInterval
		file := b.file.Load()
		at, n := file.Changed()
		if b.fault.Load() != nil || at.Equal(changed) && n == change && b.cfg.Now().Sub(last) < scrubInterval {
			continue
		}
		last, changed, change = b.cfg.Now(), at, n
		if err := b.scrub(ctx, file); err != nil && ctx.Err() == nil && file == b.file.Load() {
			_ = b.note(err)
		}
		wait = max(wait, scrubShare*b.cfg.Now().Sub(last))
	}
}

// scrub checks the file, and that it has each call of the index.
func (b *Bolt) scrub(ctx context.Context, file *boltfile.File) error {
	newest := b.newest.Load() // those that come later may be missed
	seen := make(map[uint64]bool)
	err := file.Scrub(ctx, func(bucket string, key, value []byte) error {
		if bucket == callsBucket && len(key) == 8 {
			seen[binary.BigEndian.Uint64(key)] = true
			return intact(value)
		}
		_, _, _, err := decodeAck(key, value)
		return err
	})
	if err != nil {
		return errors.Join(boltfile.ErrDamaged, err)
	}
	missing := make(map[string]*callindex.Entry) // by inbox and key
	b.mu.Lock()
	for inbox, x := range b.indexes {
		for _, e := range x.Entries {
			if e.Sequence <= newest && !seen[e.Sequence] {
				copied := *e
				missing[inbox+"\x00"+e.Key] = &copied
			}
		}
	}
	b.mu.Unlock()
	for id, e := range missing {
		inbox, _, _ := strings.Cut(id, "\x00")
		if err := b.confirm(ctx, inbox, e); err != nil {
			return err
		}
	}
	return nil
}
