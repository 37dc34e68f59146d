package inbox

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/caddy-doku/caddy-doku/store"
)

// BoltFile is the name of the file in a [Bolt]'s folder.
const BoltFile = "inbox.db"

const (
	boltLock    = 2 * time.Second // to wait for another process to let go of the file
	boltBatch   = 1024            // calls in one transaction
	boltSweep   = 10 * time.Minute
	folderMode  = 0o700
	contentMode = 0o600
)

var (
	callsBucket = []byte("calls") // sequence number → call
	takenBucket = []byte("taken") // box, 0, key → instant of its end, and answer
)

// Bolt is a [Store] in a file, for a single process. What is to be kept at the same
// time is written in one transaction, so that many callers wait for one fsync
// together. Its index is in memory, its calls are in the file.
type Bolt struct {
	db  *bolt.DB
	now func() time.Time
	log *slog.Logger

	writes chan *boltWrite
	stop   chan struct{}
	done   sync.WaitGroup

	mu    sync.Mutex
	boxes map[string]*boltBox
}

// boltBox is the index of a box.
type boltBox struct {
	calls  map[string]*boltCall   // by key
	lanes  map[string][]*boltCall // in order, without the dead
	adding map[string]*boltWrite  // by key
}

// boltCall is a kept call, as the index knows it.
type boltCall struct {
	sequence uint64
	key      string
	lane     string
	received time.Time
	due      time.Time
	dead     bool
}

// boltWrite is a change that waits for its transaction. apply makes it in the
// file, then in the index.
type boltWrite struct {
	apply func(*bolt.Tx) error
	then  func()
	done  chan struct{} // closed when err is set
	err   error
}

// BoltConfig says where a [Bolt] is.
type BoltConfig struct {
	Folder  string           // of its own; made if it is not there
	MaxSize int              // of the file in bytes; 0: as large as the disk takes
	Now     func() time.Time // the clock
	Logger  *slog.Logger
}

// OpenBolt opens the store in a folder. A file that cannot be read is put aside
// under another name, which is logged, and a new one is begun. End it with
// [Bolt.Close].
func OpenBolt(cfg BoltConfig) (*Bolt, error) {
	if err := os.MkdirAll(cfg.Folder, folderMode); err != nil {
		return nil, fmt.Errorf("%w: making its folder: %w", ErrStore, err)
	}
	path := filepath.Join(cfg.Folder, BoltFile)
	b := &Bolt{now: cfg.Now, log: cfg.Logger, writes: make(chan *boltWrite), stop: make(chan struct{})}
	err := b.open(path, cfg.MaxSize)
	if errors.Is(err, errCorrupt) {
		aside := b.corruptName(path)
		if err := os.Rename(path, aside); err != nil {
			return nil, fmt.Errorf("%w: putting a corrupt file aside: %w", ErrStore, err)
		}
		cfg.Logger.Error("the inbox's file is corrupt: it was put aside, and a new one begun; calls in the old one will not be delivered from here",
			"file", aside, "error", err)
		err = b.open(path, cfg.MaxSize)
	}
	if err != nil {
		return nil, err
	}
	if err := syncFolder(cfg.Folder); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: making its folder last: %w", ErrStore, err), b.db.Close())
	}
	b.done.Go(b.commit)
	return b, nil
}

// syncFolder has the name of a new file last, too.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// errCorrupt is the error of a file that cannot be read.
var errCorrupt = errors.New("the file is corrupt")

// open opens the file and reads the index from it.
func (b *Bolt) open(path string, maxSize int) (err error) {
	var db *bolt.DB
	defer func() {
		if errors.Is(err, errCorrupt) && !errors.Is(err, ErrStore) {
			err = fmt.Errorf("%w: %w", ErrStore, err)
		}
		if err != nil && db != nil {
			_ = db.Close() // the error at hand says more
		}
	}()
	defer asError(&err)
	if db, err = bolt.Open(path, contentMode, &bolt.Options{Timeout: boltLock, MaxSize: maxSize, FreelistType: bolt.FreelistMapType, NoStatistics: true}); err != nil {
		switch {
		case errors.Is(err, bolterrors.ErrTimeout):
			return fmt.Errorf("%w: %s is in use by another process; give each sidecar a folder of its own, or let them share Redis", ErrStore, path)
		case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
			return fmt.Errorf("%w: %w: %w", ErrStore, errCorrupt, err)
		case fileTooSmall(path):
			return fmt.Errorf("%w: %w: it is cut short", ErrStore, errCorrupt)
		}
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	b.db, b.boxes = db, make(map[string]*boltBox)
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{callsBucket, takenBucket} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return sweep(tx, b.now())
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	var damaged [][]byte
	err = db.Update(func(tx *bolt.Tx) error {
		taken, calls := tx.Bucket(takenBucket), tx.Bucket(callsBucket)
		cursor := calls.Cursor()
		for sequence, value := cursor.First(); sequence != nil; sequence, value = cursor.Next() {
			c, err := decodeCall(value)
			switch {
			case err != nil || len(sequence) != 8:
				damaged = append(damaged, slices.Clone(sequence))
			case taken.Get(takenKey(c.Box, c.Key)) == nil:
				b.index(c, binary.BigEndian.Uint64(sequence))
			}
		}
		if len(damaged) == 0 {
			return nil
		}
		return b.setAside(tx, path, damaged)
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	return nil
}

// setAside copies the file under another name, and removes calls that cannot be
// read from it.
func (b *Bolt) setAside(tx *bolt.Tx, path string, damaged [][]byte) error {
	aside := b.corruptName(path)
	if err := tx.CopyFile(aside, contentMode); err != nil {
		return err
	}
	b.log.Error("calls in the inbox's file are damaged: a copy of the file was put aside, and they were removed; they will not be delivered from here",
		"file", aside, "calls", len(damaged))
	for _, sequence := range damaged {
		if err := tx.Bucket(callsBucket).Delete(sequence); err != nil {
			return err
		}
	}
	return nil
}

// corruptName returns the name under which a corrupt file is put aside.
func (b *Bolt) corruptName(path string) string {
	return fmt.Sprintf("%s.corrupt-%s", path, b.now().UTC().Format("20060102T150405.000Z"))
}

// update and view make a transaction. A damaged page, which shows as a panic of the
// library's, is an error.
func (b *Bolt) update(f func(*bolt.Tx) error) (err error) {
	defer asError(&err)
	return b.db.Update(f)
}

func (b *Bolt) view(f func(*bolt.Tx) error) (err error) {
	defer asError(&err)
	return b.db.View(f)
}

// asError turns a panic over what is in the file into an error.
func asError(err *error) { //nolint:gocritic // it is deferred, and sets a result
	if found := recover(); found != nil {
		*err = fmt.Errorf("%w: %v", errCorrupt, found)
	}
}

// fileTooSmall reports whether a file is there, but shorter than any that was
// written to its end.
func fileTooSmall(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() > 0 && info.Size() < int64(4*os.Getpagesize())
}

// sweep removes what was taken long ago.
func sweep(tx *bolt.Tx, now time.Time) error {
	taken := tx.Bucket(takenBucket)
	var old [][]byte
	err := taken.ForEach(func(key, value []byte) error {
		if len(value) < 8 || !now.Before(endOf(value)) {
			old = append(old, slices.Clone(key))
		}
		return nil
	})
	for _, key := range old {
		err = errors.Join(err, taken.Delete(key))
	}
	return err
}

func endOf(value []byte) time.Time {
	return time.Unix(0, int64(binary.BigEndian.Uint64(value))) //nolint:gosec // it was made from an int64
}

func takenKey(box, key string) []byte { return []byte(box + "\x00" + key) }

// encodeCall returns c as it is kept: the length of the head, the head in JSON, the
// body, and a checksum: a disk's mistake must not become another amount.
func encodeCall(c Call) ([]byte, error) {
	head, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStore, err)
	}
	value := binary.AppendUvarint(make([]byte, 0, binary.MaxVarintLen32+len(head)+len(c.Body)+checksumSize), uint64(len(head)))
	value = append(append(value, head...), c.Body...)
	return binary.BigEndian.AppendUint32(value, crc32.Checksum(value, castagnoli)), nil
}

const checksumSize = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// decodeCall returns the call that was kept as value, and copies of its parts.
func decodeCall(value []byte) (c Call, err error) {
	end := len(value) - checksumSize
	if end < 0 || binary.BigEndian.Uint32(value[end:]) != crc32.Checksum(value[:end], castagnoli) {
		return c, fmt.Errorf("%w: a kept call is not as it was written", ErrStore)
	}
	length, n := binary.Uvarint(value[:end])
	if n <= 0 || length > uint64(end-n) { //nolint:gosec // n is at most end
		return c, fmt.Errorf("%w: a kept call is cut short", ErrStore)
	}
	begin := n + int(length) //nolint:gosec // at most end
	if err := json.Unmarshal(value[n:begin], &c); err != nil {
		return c, fmt.Errorf("%w: a kept call: %w", ErrStore, err)
	}
	c.Body = slices.Clone(value[begin:end])
	return c, nil
}

// box returns the index of a box. b.mu is held.
func (b *Bolt) box(name string) *boltBox {
	box := b.boxes[name]
	if box == nil {
		box = &boltBox{calls: make(map[string]*boltCall), lanes: make(map[string][]*boltCall), adding: make(map[string]*boltWrite)}
		b.boxes[name] = box
	}
	return box
}

// index takes a kept call into the index. b.mu is held, or nobody else is there.
func (b *Bolt) index(c Call, sequence uint64) {
	box := b.box(c.Box)
	kept := &boltCall{sequence: sequence, key: c.Key, lane: c.Lane, received: c.Received, due: c.Due, dead: c.Dead}
	box.calls[c.Key] = kept
	if !c.Dead {
		box.lanes[c.Lane] = append(box.lanes[c.Lane], kept)
	}
}

// leaveLane takes a call out of its lane.
func (box *boltBox) leaveLane(c *boltCall) {
	lane := slices.DeleteFunc(box.lanes[c.lane], func(other *boltCall) bool { return other == c })
	if len(lane) == 0 {
		delete(box.lanes, c.lane)
	} else {
		box.lanes[c.lane] = lane
	}
}

// remove takes a call out of the index. b.mu is held.
func (b *Bolt) remove(name, key string) {
	box := b.box(name)
	if c := box.calls[key]; c != nil {
		box.leaveLane(c)
		delete(box.calls, key)
	}
}

// commit makes the changes that are waiting, as many as there are in one
// transaction, one after the other, until the store is closed.
func (b *Bolt) commit() {
	tick := time.NewTicker(boltSweep)
	defer tick.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-tick.C:
			if err := b.update(func(tx *bolt.Tx) error { return sweep(tx, b.now()) }); err != nil {
				b.log.Warn("old records of the inbox could not be removed", "error", err)
			}
		case first := <-b.writes:
			b.transact(b.gather(first))
		}
	}
}

// gather returns all changes that are waiting now.
func (b *Bolt) gather(first *boltWrite) []*boltWrite {
	batch := []*boltWrite{first}
	for len(batch) < boltBatch {
		select {
		case next := <-b.writes:
			batch = append(batch, next)
		default:
			return batch
		}
	}
	return batch
}

// transact makes changes in one transaction. One that cannot be made is left out,
// and the others are made without it.
func (b *Bolt) transact(batch []*boltWrite) {
	for {
		var failed *boltWrite
		err := b.update(func(tx *bolt.Tx) error {
			for _, w := range batch {
				if err := w.apply(tx); err != nil {
					failed = w
					return err
				}
			}
			return nil
		})
		if err == nil {
			break
		}
		err = fmt.Errorf("%w: %w", ErrStore, err)
		if failed == nil || len(batch) == 1 { // the transaction itself
			for _, w := range batch {
				w.end(err)
			}
			return
		}
		batch = slices.DeleteFunc(batch, func(w *boltWrite) bool { return w == failed })
		failed.end(err)
	}
	b.mu.Lock()
	for _, w := range batch {
		w.then()
	}
	b.mu.Unlock()
	for _, w := range batch {
		w.end(nil)
	}
}

func (w *boltWrite) end(err error) {
	w.err = err
	close(w.done)
}

var errClosed = fmt.Errorf("%w: it is closed", ErrStore)

// write makes a change and waits until it is kept. The wait does not end with the
// caller's context: nobody would know then whether it is.
func (b *Bolt) write(w *boltWrite) error {
	w.done = make(chan struct{})
	return b.wait(w)
}

func (b *Bolt) wait(w *boltWrite) error {
	select {
	case b.writes <- w:
	case <-b.stop:
		return errClosed
	}
	<-w.done
	return w.err
}

// Close ends the store. Changes that are being made are made to their end.
func (b *Bolt) Close() error {
	close(b.stop)
	b.done.Wait()
	return b.db.Close()
}

// Add implements [Store].
func (b *Bolt) Add(ctx context.Context, c Call) (*store.Answer, error) {
	value, err := encodeCall(c)
	if err != nil {
		return nil, err
	}
	var sequence uint64
	w := &boltWrite{done: make(chan struct{})}
	w.apply = func(tx *bolt.Tx) error {
		calls := tx.Bucket(callsBucket)
		var err error
		if sequence, err = calls.NextSequence(); err != nil {
			return err
		}
		if err := b.deleteCall(tx, c.Box, c.Key); err != nil { // if it is dead
			return err
		}
		return calls.Put(binary.BigEndian.AppendUint64(nil, sequence), value)
	}
	w.then = func() {
		b.remove(c.Box, c.Key)
		b.index(c, sequence)
	}

	b.mu.Lock()
	box := b.box(c.Box)
	if kept := box.calls[c.Key]; kept != nil && !kept.dead {
		b.mu.Unlock()
		return nil, nil
	}
	if other := box.adding[c.Key]; other != nil {
		b.mu.Unlock()
		<-other.done
		return nil, other.err
	}
	box.adding[c.Key] = w
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(box.adding, c.Key)
	}()
	if answer, err := b.Taken(ctx, c.Box, c.Key); answer != nil || err != nil {
		w.end(err)
		return answer, err
	}
	return nil, b.wait(w)
}

// Taken implements [Store].
func (b *Bolt) Taken(_ context.Context, box, key string) (answer *store.Answer, err error) {
	err = b.view(func(tx *bolt.Tx) error {
		value := tx.Bucket(takenBucket).Get(takenKey(box, key))
		if len(value) < 8 || !b.now().Before(endOf(value)) {
			return nil
		}
		answer, err = store.DecodeAnswer(slices.Clone(value[8:]))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStore, err)
	}
	return answer, nil
}

// Take implements [Store].
func (b *Bolt) Take(_ context.Context, c Call, answer store.Answer, ttl time.Duration) error {
	text, err := answer.Encode()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	end := binary.BigEndian.AppendUint64(nil, uint64(b.now().Add(ttl).UnixNano()))
	return b.write(&boltWrite{
		apply: func(tx *bolt.Tx) error {
			if err := b.deleteCall(tx, c.Box, c.Key); err != nil {
				return err
			}
			return tx.Bucket(takenBucket).Put(takenKey(c.Box, c.Key), append(end, text...))
		},
		then: func() { b.remove(c.Box, c.Key) },
	})
}

// kept returns what the index knows of a call, or nil.
func (b *Bolt) kept(box, key string) *boltCall {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.box(box).calls[key]
}

// deleteCall removes a call from the file, if it is kept.
func (b *Bolt) deleteCall(tx *bolt.Tx, box, key string) error {
	if c := b.kept(box, key); c != nil {
		return tx.Bucket(callsBucket).Delete(binary.BigEndian.AppendUint64(nil, c.sequence))
	}
	return nil
}

// load returns a kept call from the file, or nil.
func (b *Bolt) load(kept *boltCall) (c *Call, err error) {
	if kept == nil {
		return nil, nil
	}
	err = b.view(func(tx *bolt.Tx) error {
		value := tx.Bucket(callsBucket).Get(binary.BigEndian.AppendUint64(nil, kept.sequence))
		if value == nil {
			return nil // removed meanwhile
		}
		found, err := decodeCall(value)
		c = &found
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStore, err)
	}
	if c != nil {
		b.mu.Lock()
		c.Due = kept.due // which Hurry may have changed
		b.mu.Unlock()
	}
	return c, nil
}

// Head implements [Store].
func (b *Bolt) Head(_ context.Context, box, lane string) (*Call, error) {
	b.mu.Lock()
	calls := b.box(box).lanes[lane]
	var head *boltCall
	if len(calls) > 0 {
		head = calls[0]
	}
	b.mu.Unlock()
	return b.load(head)
}

// Due implements [Store].
func (b *Bolt) Due(_ context.Context, box string, now time.Time, limit int) (lanes []string, next time.Time, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var due []*boltCall
	for _, calls := range b.box(box).lanes {
		switch head := calls[0]; {
		case !now.Before(head.due):
			due = append(due, head)
		case next.IsZero() || head.due.Before(next):
			next = head.due
		}
	}
	slices.SortFunc(due, func(a, b *boltCall) int { return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.sequence, b.sequence)) })
	for _, c := range due[:min(limit, len(due))] {
		lanes = append(lanes, c.lane)
	}
	return lanes, next, nil
}

// Update implements [Store].
func (b *Bolt) Update(_ context.Context, c Call) error {
	kept := b.kept(c.Box, c.Key)
	if kept == nil {
		return nil
	}
	value, err := encodeCall(c)
	if err != nil {
		return err
	}
	return b.write(&boltWrite{
		apply: func(tx *bolt.Tx) error {
			if b.kept(c.Box, c.Key) != kept {
				return nil // removed meanwhile
			}
			return tx.Bucket(callsBucket).Put(binary.BigEndian.AppendUint64(nil, kept.sequence), value)
		},
		then: func() {
			box := b.box(c.Box)
			if box.calls[c.Key] != kept {
				return
			}
			kept.due = c.Due
			if c.Dead != kept.dead {
				kept.dead = c.Dead
				box.leaveLane(kept)
				if !c.Dead {
					box.lanes[c.Lane] = append(box.lanes[c.Lane], kept)
				}
			}
		},
	})
}

// Hurry implements [Store]. It need not be kept: after a restart, too, calls that
// wait are soon due.
func (b *Bolt) Hurry(_ context.Context, box string, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, calls := range b.box(box).lanes {
		for _, c := range calls {
			if c.due.After(now) {
				c.due = now
			}
		}
	}
	return nil
}

// List implements [Store].
func (b *Bolt) List(_ context.Context, box string, limit int) ([]Call, error) {
	b.mu.Lock()
	var kept []*boltCall
	for _, c := range b.box(box).calls {
		kept = append(kept, c)
	}
	b.mu.Unlock()
	slices.SortFunc(kept, func(a, b *boltCall) int { return cmp.Compare(a.sequence, b.sequence) })
	var all []Call
	for _, k := range kept[:min(limit, len(kept))] {
		c, err := b.load(k)
		if err != nil {
			return nil, err
		}
		if c != nil {
			c.Body = nil
			all = append(all, *c)
		}
	}
	return all, nil
}

// Get implements [Store].
func (b *Bolt) Get(_ context.Context, box, key string) (*Call, error) {
	return b.load(b.kept(box, key))
}

// Drop implements [Store].
func (b *Bolt) Drop(_ context.Context, box, key string) (bool, error) {
	if b.kept(box, key) == nil {
		return false, nil
	}
	return true, b.write(&boltWrite{
		apply: func(tx *bolt.Tx) error { return b.deleteCall(tx, box, key) },
		then:  func() { b.remove(box, key) },
	})
}

// Stats implements [Store].
func (b *Bolt) Stats(_ context.Context, box string) (s Stats, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.box(box).calls {
		if c.dead {
			s.Dead++
			continue
		}
		s.Waiting++
		if s.Oldest.IsZero() || c.received.Before(s.Oldest) {
			s.Oldest = c.received
		}
	}
	return s, nil
}

// Boxes implements [Store].
func (b *Bolt) Boxes(context.Context) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	for name, box := range b.boxes {
		if len(box.calls) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

var _ Store = (*Bolt)(nil)
