package callstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// BoltFile is the name of the file in the folder of a [Bolt].
const BoltFile = "inbox.db"

const (
	boltLockTimeout = 2 * time.Second // to wait for another process to unlock the file
	folderMode      = 0o700
	contentMode     = 0o600
)

var (
	callsBucket = []byte("calls") // sequence number → call
	ackedBucket = []byte("taken") // inbox, 0, key → time at which the record expires, and answer
)

// Bolt is a [Store] in a file, for a single process. It writes the changes of many
// callers in one transaction, so that they share one fsync. The calls are in the
// file, an index of them is in memory. It is safe for concurrent use.
type Bolt struct {
	db      *bolt.DB
	maxSize int
	now     func() time.Time
	log     *slog.Logger

	writes   chan *boltWrite
	deferred *boltWrite // it could not be in the last transaction; used by writeLoop only
	stop     chan struct{}
	done     sync.WaitGroup

	mu      sync.Mutex
	indexes map[string]*index // by name of the inbox
}

// BoltConfig configures a [Bolt]. Folder, Now and Logger are required.
type BoltConfig struct {
	Folder  string           // used by this inbox only; created if it does not exist
	MaxSize int              // of the file in bytes, for changes that do not free space; 0: no limit
	Now     func() time.Time // the clock
	Logger  *slog.Logger
}

// OpenBolt opens the store in a folder. If the file cannot be read, OpenBolt renames
// it, logs the new name, and starts a new file. A folder that another process uses is
// an error. The caller must end the store with [Bolt.Close].
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
		cfg.Logger.Error(
			"the inbox's file is corrupt: it was put aside, and a new file was started; the calls in the old file will not be delivered",
			"file", aside, "error", err)
		err = b.open(path)
	}
	if err != nil {
		return nil, err
	}
	if err := syncFolder(cfg.Folder); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: making its folder last: %w", ErrStore, err), b.db.Close())
	}
	b.done.Go(b.writeLoop)
	b.done.Go(b.sweepLoop)
	return b, nil
}

// errCorrupt means that the file cannot be read.
var errCorrupt = errors.New("the file is corrupt")

// open opens the file and reads the index from it.
func (b *Bolt) open(path string) (err error) {
	var db *bolt.DB
	defer func() {
		if errors.Is(err, errCorrupt) && !errors.Is(err, ErrStore) {
			err = fmt.Errorf("%w: %w", ErrStore, err)
		}
		if err != nil && db != nil {
			_ = db.Close() // the first error says more
		}
	}()
	defer recoverCorruption(&err, debug.SetPanicOnFault(true))
	if truncated(path) {
		return fmt.Errorf("%w: it is cut short", errCorrupt)
	}
	options := &bolt.Options{Timeout: boltLockTimeout, FreelistType: bolt.FreelistMapType, NoStatistics: true}
	if db, err = bolt.Open(path, contentMode, options); err != nil {
		switch {
		case errors.Is(err, bolterrors.ErrTimeout):
			return fmt.Errorf("%w: %s is in use by another process; give each sidecar a folder of its own, or let them share Redis", ErrStore, path)
		case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
			return fmt.Errorf("%w: %w: %w", ErrStore, errCorrupt, err)
		}
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	b.db, b.indexes = db, make(map[string]*index)
	damaged, err := b.readIndex()
	if errors.Is(err, errNew) {
		err = db.Update(func(tx *bolt.Tx) error {
			_, err := tx.CreateBucketIfNotExists(callsBucket)
			if err == nil {
				_, err = tx.CreateBucketIfNotExists(ackedBucket)
			}
			return err
		})
	}
	if err == nil && len(damaged) > 0 {
		err = b.quarantine(path, damaged)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStore, err)
	}
	return nil
}

// errNew means that the file has no content yet.
var errNew = errors.New("the file is new")

// readIndex reads the index, and returns the sequence numbers of calls that cannot be
// read. It writes nothing, because a full file must open, too.
func (b *Bolt) readIndex() (damaged [][]byte, err error) {
	err = b.db.View(func(tx *bolt.Tx) error {
		acked, calls := tx.Bucket(ackedBucket), tx.Bucket(callsBucket)
		if acked == nil || calls == nil {
			return errNew
		}
		cursor := calls.Cursor()
		for sequence, value := cursor.First(); sequence != nil; sequence, value = cursor.Next() {
			c, err := decodeCall(value)
			switch {
			case err != nil || len(sequence) != 8:
				damaged = append(damaged, slices.Clone(sequence))
			case b.isExpired(acked.Get(ackKey(c.Inbox, c.Key))):
				b.index(c.Inbox).add(newEntry(c, binary.BigEndian.Uint64(sequence)))
			}
		}
		return nil
	})
	return damaged, err
}

// quarantine copies the file under another name, and removes the calls that cannot be
// read from it.
func (b *Bolt) quarantine(path string, damaged [][]byte) error {
	aside := b.corruptName(path)
	if err := b.db.View(func(tx *bolt.Tx) error { return tx.CopyFile(aside, contentMode) }); err != nil {
		return err
	}
	b.log.Error(
		"calls in the inbox's file are damaged: a copy of the file was put aside, and the calls were removed; they will not be delivered",
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

// Close finishes the changes that are in progress and closes the file. Later changes
// fail.
func (b *Bolt) Close() error {
	close(b.stop)
	b.done.Wait()
	return b.db.Close()
}

// index returns the index of an inbox. The caller holds b.mu, or is the only user of b.
func (b *Bolt) index(inbox string) *index {
	x := b.indexes[inbox]
	if x == nil {
		x = newIndex()
		b.indexes[inbox] = x
	}
	return x
}

// newEntry returns the entry of a call for the index.
func newEntry(c Call, sequence uint64) *entry {
	return &entry{
		sequence: sequence, key: c.Key, account: c.Account, orderingKey: c.OrderingKey,
		received: c.Received, due: c.Due, refused: c.Refused, maybeTaken: c.MaybeTaken > 0, dead: c.Dead,
	}
}

var _ Store = (*Bolt)(nil)
