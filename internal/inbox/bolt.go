package inbox

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/caddy-doku/caddy-doku/internal/store"
)

// BoltFile is the name of the file in a [Bolt]'s folder.
const BoltFile = "inbox.db"

const (
	boltLock    = 2 * time.Second  // to wait for another process to let go of the file
	boltBatch   = 1024             // calls in one transaction
	boltWithin  = 10 * time.Second // that a change may take, from when it is asked for
	boltSweep   = 10 * time.Minute
	sweepMost   = 256    // old records that are removed in one transaction
	sweepLook   = 10_000 // records that are looked at in one go
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
	db      *bolt.DB
	maxSize int
	now     func() time.Time
	log     *slog.Logger

	writes chan *boltWrite
	next   *boltWrite // that could not be in the last transaction; of commit
	stop   chan struct{}
	done   sync.WaitGroup

	mu    sync.Mutex
	boxes map[string]*boltBox
}

// boltWrite is a change that waits for its transaction. apply makes it in the
// file, and may be run again if the transaction fails; then makes it in the index.
type boltWrite struct {
	key   string // of what is changed: there is one change of it in a transaction
	frees bool   // it makes room, or takes none in the end: it is made though the file is full
	apply func(*bolt.Tx) error
	then  func()
	done  chan struct{} // closed when err is set
	err   error
}

// BoltConfig says where a [Bolt] is.
type BoltConfig struct {
	Folder  string           // of its own; made if it is not there
	MaxSize int              // of the file in bytes, but for what makes room in it; 0: as large as the disk takes
	Now     func() time.Time // the clock
	Logger  *slog.Logger
}

// OpenBolt opens the store in a folder. A file that cannot be read is put aside
// under another name, which is logged, and a new one is begun. End it with
// [Bolt.Close].
func OpenBolt(cfg BoltConfig) (*Bolt, error) {
	if err := makeFolder(cfg.Folder); err != nil {
		return nil, fmt.Errorf("%w: making its folder: %w", ErrStore, err)
	}
	path := filepath.Join(cfg.Folder, BoltFile)
	b := &Bolt{maxSize: cfg.MaxSize, now: cfg.Now, log: cfg.Logger, writes: make(chan *boltWrite), stop: make(chan struct{})}
	err := b.open(path)
	if errors.Is(err, errCorrupt) {
		aside := b.corruptName(path)
		if err := os.Rename(path, aside); err != nil {
			return nil, fmt.Errorf("%w: putting a corrupt file aside: %w", ErrStore, err)
		}
		cfg.Logger.Error("the inbox's file is corrupt: it was put aside, and a new one begun; calls in the old one will not be delivered from here",
			"file", aside, "error", err)
		err = b.open(path)
	}
	if err != nil {
		return nil, err
	}
	if err := syncFolder(cfg.Folder); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: making its folder last: %w", ErrStore, err), b.db.Close())
	}
	b.done.Go(b.commit)
	b.done.Go(b.sweepNowAndThen)
	return b, nil
}

// makeFolder makes a folder with all that it is in, so that they last.
func makeFolder(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(path, folderMode) // which tells if it is a file
	}
	parent := filepath.Dir(path)
	if err := makeFolder(parent); err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(path, folderMode), syncFolder(parent))
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
func (b *Bolt) open(path string) (err error) {
	var db *bolt.DB
	defer func() {
		if errors.Is(err, errCorrupt) && !errors.Is(err, ErrStore) {
			err = fmt.Errorf("%w: %w", ErrStore, err)
		}
		if err != nil && db != nil {
			_ = db.Close() // the error at hand says more
		}
	}()
	defer asError(&err, debug.SetPanicOnFault(true))
	if cutShort(path) {
		return fmt.Errorf("%w: it is cut short", errCorrupt)
	}
	if db, err = bolt.Open(path, contentMode, &bolt.Options{Timeout: boltLock, FreelistType: bolt.FreelistMapType, NoStatistics: true}); err != nil {
		switch {
		case errors.Is(err, bolterrors.ErrTimeout):
			return fmt.Errorf("%w: %s is in use by another process; give each sidecar a folder of its own, or let them share Redis", ErrStore, path)
		case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
			return fmt.Errorf("%w: %w: %w", ErrStore, errCorrupt, err)
		}
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	b.db, b.boxes = db, make(map[string]*boltBox)
	damaged, err := b.read()
	if errors.Is(err, errNew) {
		err = db.Update(func(tx *bolt.Tx) error {
			_, err := tx.CreateBucketIfNotExists(callsBucket)
			if err == nil {
				_, err = tx.CreateBucketIfNotExists(takenBucket)
			}
			return err
		})
	}
	if err == nil && len(damaged) > 0 {
		err = b.setAside(path, damaged)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	return nil
}

// errNew is the error of a file that has nothing in it yet.
var errNew = errors.New("the file is new")

// read reads the index, and returns the calls that cannot be read. It writes
// nothing: a file that is full must open, too.
func (b *Bolt) read() (damaged [][]byte, err error) {
	err = b.db.View(func(tx *bolt.Tx) error {
		taken, calls := tx.Bucket(takenBucket), tx.Bucket(callsBucket)
		if taken == nil || calls == nil {
			return errNew
		}
		cursor := calls.Cursor()
		for sequence, value := cursor.First(); sequence != nil; sequence, value = cursor.Next() {
			c, err := decodeCall(value)
			switch {
			case err != nil || len(sequence) != 8:
				damaged = append(damaged, slices.Clone(sequence))
			case b.isOld(taken.Get(takenKey(c.Box, c.Key))):
				b.box(c.Box).add(indexed(c, binary.BigEndian.Uint64(sequence)))
			}
		}
		return nil
	})
	return damaged, err
}

// setAside copies the file under another name, and removes calls that cannot be
// read from it.
func (b *Bolt) setAside(path string, damaged [][]byte) error {
	aside := b.corruptName(path)
	if err := b.db.View(func(tx *bolt.Tx) error { return tx.CopyFile(aside, contentMode) }); err != nil {
		return err
	}
	b.log.Error("calls in the inbox's file are damaged: a copy of the file was put aside, and they were removed; they will not be delivered from here",
		"file", aside, "calls", len(damaged))
	return b.db.Update(func(tx *bolt.Tx) error {
		for _, sequence := range damaged {
			if err := tx.Bucket(callsBucket).Delete(sequence); err != nil {
				return err
			}
		}
		return nil
	})
}

// corruptName returns the name under which a corrupt file is put aside.
func (b *Bolt) corruptName(path string) string {
	return fmt.Sprintf("%s.corrupt-%s", path, b.now().UTC().Format("20060102T150405.000Z"))
}

// update and view make a transaction. A damaged page, which shows as a panic of the
// library's, and a file that has become shorter, which shows as a fault, are errors.
func (b *Bolt) update(f func(*bolt.Tx) error) (err error) {
	defer asError(&err, debug.SetPanicOnFault(true))
	return b.db.Update(f)
}

func (b *Bolt) view(f func(*bolt.Tx) error) (err error) {
	defer asError(&err, debug.SetPanicOnFault(true))
	return b.db.View(f)
}

// asError turns a panic over what is in the file into an error. before is what
// became of a fault before.
func asError(err *error, before bool) { //nolint:gocritic // it is deferred, and sets a result
	debug.SetPanicOnFault(before)
	if found := recover(); found != nil {
		*err = fmt.Errorf("%w: %v", errCorrupt, found)
	}
}

// What is read of a file before it is opened: two pages of which the newer one that
// is whole says how much has been written behind them.
const (
	metaMagic  = 0xED0CDAED
	metaHeader = 16 // of each page
	metaSize   = 64
	metaSum    = 56 // where its checksum is
)

// cutShort reports whether a file is shorter than it was when it was written. It
// must be known before its pages are used, which are mapped into memory.
func cutShort(path string) bool {
	file, err := os.Open(path)
	if err != nil {
		return false // opening it says more
	}
	defer func() { _ = file.Close() }() // it was read only
	info, err := file.Stat()
	if err != nil || info.Size() == 0 {
		return false
	}
	var newest, end uint64
	for at, pageSize, n := int64(0), int64(os.Getpagesize()), 0; n < 2; n++ {
		meta := make([]byte, metaSize)
		if _, err := file.ReadAt(meta, at+metaHeader); err != nil {
			return true
		}
		order := binary.NativeEndian
		sum := fnv.New64a()
		_, _ = sum.Write(meta[:metaSum])
		if order.Uint32(meta) == metaMagic && order.Uint64(meta[metaSum:]) == sum.Sum64() {
			pageSize = int64(order.Uint32(meta[8:]))
			if transaction := order.Uint64(meta[48:]); transaction >= newest {
				newest, end = transaction, order.Uint64(meta[40:])*uint64(pageSize) //nolint:gosec // it was read from 32 bits
			}
		}
		at = pageSize
	}
	return uint64(info.Size()) < end //nolint:gosec // no file's size is negative
}

// sweepNowAndThen removes what was taken long ago, from the start on.
func (b *Bolt) sweepNowAndThen() {
	tick := time.NewTicker(boltSweep)
	defer tick.Stop()
	for {
		if err := b.sweep(); err != nil && !errors.Is(err, errClosed) {
			b.log.Warn("old records of the inbox could not be removed", "error", err)
		}
		select {
		case <-b.stop:
			return
		case <-tick.C:
		}
	}
}

// sweep removes what was taken long ago, little by little: others write meanwhile,
// and where there is hardly any room left, there may be enough for a small change.
func (b *Bolt) sweep() error {
	most := sweepMost
	for from := []byte{}; from != nil; {
		old, next, err := b.old(from, most)
		if err != nil {
			return err
		}
		if len(old) > 0 {
			err = b.write(&boltWrite{frees: true, apply: func(tx *bolt.Tx) error { return b.deleteOld(tx, old) }, then: func() {}})
		}
		switch {
		case err == nil:
			from = next
		case most == 1 || errors.Is(err, errClosed):
			return err
		default:
			most = max(most/8, 1)
		}
	}
	return nil
}

// old returns at most so many keys of old records from a key on, and where to go on
// after them, or nil.
func (b *Bolt) old(from []byte, most int) (old [][]byte, next []byte, err error) {
	err = b.view(func(tx *bolt.Tx) error {
		cursor := tx.Bucket(takenBucket).Cursor()
		looked := 0
		for key, value := cursor.Seek(from); key != nil; key, value = cursor.Next() {
			if looked++; looked > sweepLook || len(old) == most {
				next = slices.Clone(key)
				return nil
			}
			if b.isOld(value) {
				old = append(old, slices.Clone(key))
			}
		}
		return nil
	})
	return old, next, err
}

// deleteOld removes old records, but for those that were taken once more meanwhile.
func (b *Bolt) deleteOld(tx *bolt.Tx, keys [][]byte) error {
	taken := tx.Bucket(takenBucket)
	for _, key := range keys {
		if !b.isOld(taken.Get(key)) {
			continue
		}
		if err := taken.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// isOld reports whether a record's time is over, or there is none.
func (b *Bolt) isOld(value []byte) bool { return len(value) < 8 || !b.now().Before(endOf(value)) }

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

// decodeCall returns the call that was kept as value. Its body is part of value.
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
	c.Body = value[begin:end]
	return c, nil
}

// box returns the index of a box. b.mu is held, or nobody else is there.
func (b *Bolt) box(name string) *boltBox {
	box := b.boxes[name]
	if box == nil {
		box = newBoltBox()
		b.boxes[name] = box
	}
	return box
}

// indexed returns what the index knows of a call.
func indexed(c Call, sequence uint64) *boltCall {
	return &boltCall{
		sequence: sequence, key: c.Key, account: c.Account, lane: c.Lane,
		received: c.Received, due: c.Due, refused: c.Refused, dead: c.Dead,
	}
}

// commit makes the changes that are waiting, as many as there are in one
// transaction, one after the other, until the store is closed.
func (b *Bolt) commit() {
	for {
		first := b.next
		b.next = nil
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

// gather returns all changes that are waiting now, but one of each call: the index,
// by which they are made, knows of a change only when it is kept.
func (b *Bolt) gather(first *boltWrite) []*boltWrite {
	batch, keys := []*boltWrite{first}, map[string]bool{first.key: true}
	for len(batch) < boltBatch {
		select {
		case next := <-b.writes:
			if next.key != "" && keys[next.key] {
				b.next = next
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

// transact makes changes in one transaction. If that fails, those that make room
// are made first, and each of the others alone: one that cannot be made does not
// take others with it.
func (b *Bolt) transact(batch []*boltWrite) {
	makesRoom := !slices.ContainsFunc(batch, func(w *boltWrite) bool { return !w.frees })
	b.db.MaxSize = b.maxSize
	if makesRoom {
		b.db.MaxSize = 0 // what makes room may need some for a moment
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
			w.then()
		}
		b.mu.Unlock()
		for _, w := range batch {
			w.end(nil)
		}
	case len(batch) == 1:
		batch[0].end(fmt.Errorf("%w: %w", ErrStore, err))
	default:
		alone := batch
		if !makesRoom {
			var rooms []*boltWrite
			rooms, alone = split(batch)
			if len(rooms) > 0 {
				b.transact(rooms)
			}
		}
		for _, w := range alone {
			b.transact([]*boltWrite{w})
		}
	}
}

// split returns those of changes that make room, and the others.
func split(batch []*boltWrite) (rooms, others []*boltWrite) {
	for _, w := range batch {
		if w.frees {
			rooms = append(rooms, w)
		} else {
			others = append(others, w)
		}
	}
	return rooms, others
}

func (w *boltWrite) end(err error) {
	w.err = err
	close(w.done)
}

var (
	errClosed = fmt.Errorf("%w: it is closed", ErrStore)
	errHangs  = fmt.Errorf("%w: the disk does not answer", ErrStore)
)

// write makes a change and waits until it is kept. The wait does not end with the
// caller's context: nobody would know then whether it is. A disk that hangs ends
// it; the change may be made later all the same.
func (b *Bolt) write(w *boltWrite) error {
	w.done = make(chan struct{})
	patience := time.NewTimer(boltWithin)
	defer patience.Stop()
	select {
	case b.writes <- w:
	case <-b.stop:
		return errClosed
	case <-patience.C:
		return errHangs
	}
	select {
	case <-w.done:
		return w.err
	case <-patience.C:
		return errHangs
	}
}

// Close ends the store. Changes that are being made are made to their end.
func (b *Bolt) Close() error {
	close(b.stop)
	b.done.Wait()
	return b.db.Close()
}

// Add implements [Store].
func (b *Bolt) Add(ctx context.Context, c Call) (added bool, taken *store.Answer, err error) {
	if kept := b.kept(c.Box, c.Key); kept != nil && !kept.dead {
		return false, nil, nil
	}
	if taken, err = b.Taken(ctx, c.Box, c.Key); taken != nil || err != nil {
		return false, taken, err
	}
	value, err := encodeCall(c)
	if err != nil {
		return false, nil, err
	}
	var sequence uint64 // 0: it is not added
	var earlier *store.Answer
	err = b.write(&boltWrite{
		key: string(takenKey(c.Box, c.Key)),
		apply: func(tx *bolt.Tx) (err error) {
			sequence, earlier = 0, nil
			kept := b.kept(c.Box, c.Key)
			if kept != nil && !kept.dead {
				return nil
			}
			if earlier, err = b.taken(tx, c.Box, c.Key); earlier != nil || err != nil {
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
		then: func() {
			if sequence == 0 {
				return
			}
			box := b.box(c.Box)
			box.remove(c.Key)
			box.add(indexed(c, sequence))
		},
	})
	if err != nil {
		return false, nil, err
	}
	return sequence != 0, earlier, nil
}

func sequenceKey(sequence uint64) []byte { return binary.BigEndian.AppendUint64(nil, sequence) }

// Taken implements [Store].
func (b *Bolt) Taken(_ context.Context, box, key string) (answer *store.Answer, err error) {
	err = b.view(func(tx *bolt.Tx) error {
		answer, err = b.taken(tx, box, key)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStore, err)
	}
	return answer, nil
}

func (b *Bolt) taken(tx *bolt.Tx, box, key string) (*store.Answer, error) {
	value := tx.Bucket(takenBucket).Get(takenKey(box, key))
	if b.isOld(value) {
		return nil, nil
	}
	return store.DecodeAnswer(slices.Clone(value[8:]))
}

// Take implements [Store].
func (b *Bolt) Take(_ context.Context, c Call, answer store.Answer, ttl time.Duration) error {
	record := append(binary.BigEndian.AppendUint64(nil, uint64(b.now().Add(ttl).UnixNano())), answer.Encode()...)
	return b.write(&boltWrite{
		key:   string(takenKey(c.Box, c.Key)),
		frees: b.kept(c.Box, c.Key) != nil,
		apply: func(tx *bolt.Tx) error {
			if err := b.deleteCall(tx, c.Box, c.Key); err != nil {
				return err
			}
			return tx.Bucket(takenBucket).Put(takenKey(c.Box, c.Key), record)
		},
		then: func() { b.box(c.Box).remove(c.Key) },
	})
}

// kept returns a copy of what the index knows of a call, or nil.
func (b *Bolt) kept(box, key string) *boltCall {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.box(box).calls[key]
	if c == nil {
		return nil
	}
	found := *c
	return &found
}

// deleteCall removes a call from the file, if it is kept.
func (b *Bolt) deleteCall(tx *bolt.Tx, box, key string) error {
	if c := b.kept(box, key); c != nil {
		return tx.Bucket(callsBucket).Delete(sequenceKey(c.sequence))
	}
	return nil
}

// load returns a call from the file, or nil if it was removed meanwhile. kept is a
// copy of what the index knows of it.
func load(tx *bolt.Tx, kept *boltCall) (*Call, error) {
	value := tx.Bucket(callsBucket).Get(sequenceKey(kept.sequence))
	if value == nil {
		return nil, nil
	}
	c, err := decodeCall(value)
	if err != nil {
		return nil, err
	}
	c.Due = kept.due // which Hurry may have changed
	return &c, nil
}

// Get implements [Store].
func (b *Bolt) Get(_ context.Context, box, key string) (*Call, error) { return b.get(b.kept(box, key)) }

func (b *Bolt) get(kept *boltCall) (c *Call, err error) {
	if kept == nil {
		return nil, nil
	}
	err = b.view(func(tx *bolt.Tx) error {
		if c, err = load(tx, kept); c != nil {
			c.Body = slices.Clone(c.Body)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStore, err)
	}
	return c, nil
}

// Head implements [Store].
func (b *Bolt) Head(_ context.Context, box, lane string) (*Call, error) {
	for {
		b.mu.Lock()
		var first *boltCall
		if found := b.box(box).lanes[lane]; found != nil {
			kept := *found.calls[0]
			first = &kept
		}
		b.mu.Unlock()
		c, err := b.get(first)
		if c != nil || first == nil || err != nil {
			return c, err
		}
		if err := b.forget(box, first); err != nil {
			return nil, err
		}
	}
}

// forget takes a call out of the index that is not in the file: it has just been
// removed, or a failing disk has said of its removal that it had failed.
func (b *Bolt) forget(box string, kept *boltCall) error {
	gone := false
	return b.write(&boltWrite{
		key: string(takenKey(box, kept.key)), frees: true,
		apply: func(tx *bolt.Tx) error {
			gone = tx.Bucket(callsBucket).Get(sequenceKey(kept.sequence)) == nil
			return nil
		},
		then: func() {
			if c := b.box(box).calls[kept.key]; gone && c != nil && c.sequence == kept.sequence {
				b.box(box).remove(kept.key)
			}
		},
	})
}

// Due implements [Store].
func (b *Bolt) Due(_ context.Context, box string, now time.Time, limit int) (lanes []string, next time.Time, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	lanes, next = b.box(box).dueAt(now, limit)
	return lanes, next, nil
}

// Update implements [Store].
func (b *Bolt) Update(_ context.Context, c Call) error {
	value, err := encodeCall(c)
	if err != nil {
		return err
	}
	var sequence uint64 // 0: it is not kept any more
	return b.write(&boltWrite{
		key: string(takenKey(c.Box, c.Key)), frees: true,
		apply: func(tx *bolt.Tx) (err error) {
			sequence = 0
			kept := b.kept(c.Box, c.Key)
			if kept == nil {
				return nil
			}
			calls := tx.Bucket(callsBucket)
			place := kept.sequence
			if kept.dead && !c.Dead { // it goes to the end of its lane
				if err := calls.Delete(sequenceKey(place)); err != nil {
					return err
				}
				if place, err = calls.NextSequence(); err != nil {
					return err
				}
			}
			sequence = place
			return calls.Put(sequenceKey(place), value)
		},
		then: func() {
			box := b.box(c.Box)
			kept := box.calls[c.Key]
			if sequence == 0 || kept == nil {
				return
			}
			if kept.dead || c.Dead {
				box.remove(c.Key)
				box.add(indexed(c, sequence))
				return
			}
			kept.due, kept.refused = c.Due, c.Refused
			box.moved(kept.lane)
		},
	})
}

// Hurry implements [Store]. It need not be kept: after a restart, too, calls that
// wait are soon due.
func (b *Bolt) Hurry(_ context.Context, box string, now time.Time, refused bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.box(box).hurry(now, func(c *boltCall) bool { return refused || !c.refused })
	return nil
}

// List implements [Store].
func (b *Bolt) List(_ context.Context, box, after string, limit int) (all []Call, next string, err error) {
	from, err := parseCursor(after)
	if err != nil {
		return nil, "", err
	}
	var found []boltCall
	b.mu.Lock()
	for _, c := range b.box(box).calls {
		if from.before(c.received, c.key) {
			found = append(found, *c)
		}
	}
	b.mu.Unlock()
	slices.SortFunc(found, func(a, b boltCall) int {
		return cmp.Or(cmp.Compare(a.received.UnixMilli(), b.received.UnixMilli()), cmp.Compare(a.key, b.key))
	})
	if len(found) > limit {
		found = found[:limit]
		next = cursor{found[limit-1].received.UnixMilli(), found[limit-1].key}.String()
	}
	err = b.view(func(tx *bolt.Tx) error {
		for _, kept := range found {
			c, err := load(tx, &kept)
			if err != nil {
				c = &Call{
					Key: kept.key, Box: box, Account: kept.account, Lane: kept.lane,
					Received: kept.received, Due: kept.due, Dead: kept.dead, Error: unreadable(err),
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

// Drop implements [Store].
func (b *Bolt) Drop(_ context.Context, box, key string) (bool, error) {
	if b.kept(box, key) == nil {
		return false, nil
	}
	return true, b.write(&boltWrite{
		key: string(takenKey(box, key)), frees: true,
		apply: func(tx *bolt.Tx) error { return b.deleteCall(tx, box, key) },
		then:  func() { b.box(box).remove(key) },
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
