package callstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore/boltfile"
	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore/callindex"
)

// BoltFile is the name of the file in the folder of a [Bolt].
const BoltFile = "inbox.db"

const (
	closeTimeout = 5 * time.Second  // to wait for a disk that hangs
	checkTimeout = 30 * time.Second // of the records of taken calls, when the file is opened
	largeFile    = 64 << 20         // opening a larger one is logged, since it may take a while
)

// The buckets of the file.
const (
	callsBucket = "calls" // sequence number → call
	ackedBucket = "taken" // inbox, 0, key → time at which the record expires, and answer
)

// Bolt is a [Store] in a file, for a single process. It writes the changes of many
// callers in one transaction, so that they share one fsync. The calls are in the
// file, an index of them is in memory. It is safe for concurrent use.
//
// The file may be damaged or taken away at any time. A Bolt that notices it fails until
// it has saved what can be read into a new file.
type Bolt struct {
	cfg  BoltConfig
	file atomic.Pointer[boltfile.File]

	writes   chan *boltWrite
	deferred *boltWrite                // it could not be in the last transaction; used by writeLoop only
	busy     atomic.Pointer[time.Time] // since when the disk is being written, or nil
	stop     chan struct{}
	done     sync.WaitGroup
	mending

	newest  atomic.Uint64 // the highest sequence number of a call in an index
	mu      sync.Mutex
	indexes map[string]*callindex.Index // by name of the inbox
}

// BoltConfig configures a [Bolt]. Folder, Now and Logger are required.
type BoltConfig struct {
	Folder  string           // used by this inbox only; created if it does not exist
	MaxSize int              // of the file in bytes; 0: no limit
	Now     func() time.Time // the clock
	Logger  *slog.Logger
}

// OpenBolt opens the store in a folder. If the file is damaged, OpenBolt puts it aside,
// saves what can be read into a new file, and logs both. A folder that another process
// uses is an error. The caller must end the store with [Bolt.Close].
func OpenBolt(cfg BoltConfig) (*Bolt, error) {
	if err := boltfile.MakeFolder(cfg.Folder); err != nil {
		return nil, fmt.Errorf("%w: making its folder: %w", ErrStore, err)
	}
	b := &Bolt{cfg: cfg, writes: make(chan *boltWrite), stop: make(chan struct{}), indexes: make(map[string]*callindex.Index)}
	b.wake = make(chan struct{}, 1)
	path := filepath.Join(cfg.Folder, BoltFile)
	file, err := boltfile.Open(boltfile.Config{
		Path: path, Buckets: []string{callsBucket, ackedBucket}, MaxSize: cfg.MaxSize, Now: cfg.Now,
	})
	if err == nil {
		b.indexes, err = b.load(file)
	}
	switch {
	case errors.Is(err, boltfile.ErrInUse):
		return nil, fmt.Errorf(
			"%w: %s is in use by another process; give each sidecar a folder of its own, or let them share Redis", ErrStore, path,
		)
	case err != nil && !errors.Is(err, boltfile.ErrDamaged):
		if file != nil {
			err = errors.Join(err, file.Close())
		}
		return nil, fmt.Errorf("%w: %w", ErrStore, err)
	}
	b.file.Store(file)
	if err != nil {
		_ = b.note(err)
		b.mend(false)
	}
	b.done.Go(b.writeLoop)
	b.done.Go(b.sweepLoop)
	b.done.Go(b.scrubLoop)
	return b, nil
}

// CheckFolder returns an error if [OpenBolt] cannot work in a folder. It makes, locks and
// writes nothing, so it may look at a folder that is in use. The folder need not exist.
func CheckFolder(folder string) error { return boltfile.CheckPlace(filepath.Join(folder, BoltFile)) }

// load checks a file and returns the index of its calls.
func (b *Bolt) load(file *boltfile.File) (map[string]*callindex.Index, error) {
	began := b.cfg.Now()
	size := file.Size()
	if size > largeFile {
		b.cfg.Logger.Info("checking the inbox's file, which is large", "bytes", size)
	}
	enough := func() bool { return b.cfg.Now().Sub(began) > checkTimeout }
	indexes := make(map[string]*callindex.Index)
	finished, err := file.Walk(enough, func(bucket string, key, value []byte) error {
		if bucket == ackedBucket {
			return b.loadAck(indexes, key, value)
		}
		c, err := decodeCall(value)
		if err != nil || len(key) != 8 {
			return errors.Join(boltfile.ErrDamaged, err)
		}
		sequence := binary.BigEndian.Uint64(key)
		b.newest.Store(max(b.newest.Load(), sequence))
		indexOf(indexes, c.Inbox).Add(newEntry(c, sequence))
		return nil
	})
	switch {
	case err == nil && !finished:
		b.cfg.Logger.Warn("the inbox's file is so large that only the notifications that wait were checked", "bytes", size)
	case err == nil && size > largeFile:
		b.cfg.Logger.Info("the inbox's file is checked", "took", b.cfg.Now().Sub(began).Round(time.Millisecond).String())
	}
	return indexes, err
}

// loadAck checks the record of a taken call, and removes the call from the index if it is
// there, too.
func (b *Bolt) loadAck(indexes map[string]*callindex.Index, key, value []byte) error {
	expires, _, _, err := decodeAck(key, value)
	if err != nil {
		return errors.Join(boltfile.ErrDamaged, err)
	}
	if inbox, key, found := strings.Cut(string(key), "\x00"); found && b.cfg.Now().Before(expires) {
		indexOf(indexes, inbox).Remove(key)
	}
	return nil
}

// Close finishes the changes that are in progress and closes the file. Later changes
// fail. If the disk hangs, Close leaves the file to the end of the process.
func (b *Bolt) Close() error {
	close(b.stop)
	ended := make(chan struct{})
	go func() {
		b.done.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return b.file.Load().Close()
	case <-time.After(closeTimeout):
		return errHangs
	}
}

// index returns the index of an inbox. The caller holds b.mu, or is the only user of b.
func (b *Bolt) index(inbox string) *callindex.Index { return indexOf(b.indexes, inbox) }

func indexOf(indexes map[string]*callindex.Index, inbox string) *callindex.Index {
	x := indexes[inbox]
	if x == nil {
		x = callindex.New()
		indexes[inbox] = x
	}
	return x
}

// newEntry returns the entry of a call for the index.
func newEntry(c Call, sequence uint64) *callindex.Entry {
	return &callindex.Entry{
		Sequence: sequence, Key: c.Key, Account: c.Account, OrderingKey: c.OrderingKey,
		Received: c.Received, Due: c.Due, Refused: c.Refused, MaybeTaken: c.MaybeTaken > 0, Dead: c.Dead,
	}
}

var _ Store = (*Bolt)(nil)
