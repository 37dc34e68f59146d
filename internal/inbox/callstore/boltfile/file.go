// Package boltfile keeps records in a bbolt file that may be damaged, or taken away, at any
// time.
//
// bbolt trusts its file: a wrong byte makes it panic with its locks held, read beyond the
// file, or write into pages that are in use. So a [File] lets bbolt only write, by one
// goroutine, and only after it has checked the pages that a change touches. It reads by
// itself, and trusts nothing. What it finds is an error; [File.Replace] then saves what is
// readable into a new file.
package boltfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
)

// ErrInUse means that another process uses the file.
var ErrInUse = errors.New("another process uses the file")

// ErrGone means that the file is no longer where it was: it was removed, renamed, or replaced.
var ErrGone = fmt.Errorf("%w: it is not in its place any more", ErrDamaged)

// ErrUnclear means that a change was reported as failed, but may be in the file.
var ErrUnclear = errors.New("the disk has reported an error, but may have written the change")

const (
	fileMode    = 0o600
	lockTimeout = 2 * time.Second // to wait for another process to unlock a file
	lockWait    = 50 * time.Millisecond

	// The steps in which a file grows. With a limit they are small, to come near to it.
	growStep        = 16 << 20
	growStepAtLimit = 64 << 10

	// A file with a limit keeps an eighth of it for changes that free space, or as much as its
	// largest record needs to be written again.
	reserveShare   = 8
	reserveRecords = 3
)

// Config configures a [File]. All fields except MaxSize are required.
type Config struct {
	Path    string
	Buckets []string // the file has these and no others
	MaxSize int      // in bytes; 0: no limit
	Now     func() time.Time
}

// File is an open file. One goroutine may use Update, Replace and Close; the other methods
// are safe for concurrent use.
type File struct {
	cfg   Config
	f     *os.File // nil for a file that bbolt does not use
	place os.FileInfo
	image image
	db    *bolt.DB // nil if the file is damaged

	committed atomic.Uint64 // the newest transaction that has ended
	begun     atomic.Uint64 // the newest one that has begun
	known     atomic.Pointer[roots]

	// Used by the goroutine that writes.
	size    int64 // when it was last looked at
	largest int   // record
}

// roots are the buckets in one state of the file.
type roots struct {
	tx      uint64
	buckets map[string]bucket
}

// Open opens a file, or makes it. An error that wraps [ErrDamaged] comes with a File, which can
// only be replaced or closed. The caller must check the content with [File.Walk].
func Open(cfg Config) (*File, error) {
	finished := cfg.Path + salvagedSuffix
	if _, err := os.Lstat(cfg.Path); errors.Is(err, os.ErrNotExist) {
		if _, err := os.Lstat(finished); err != nil {
			return create(cfg)
		}
		if err := os.Rename(finished, cfg.Path); err != nil { // a kill came just before
			return nil, err
		}
	}
	f, err := os.OpenFile(cfg.Path, os.O_RDWR|openFlags, fileMode)
	if err != nil {
		return nil, err
	}
	file := &File{cfg: cfg, f: f}
	if err := file.open(lockTimeout); err != nil {
		if !errors.Is(err, ErrDamaged) {
			return nil, errors.Join(err, f.Close())
		}
		return file, err
	}
	return file, nil
}

// open locks the file, and checks what bbolt trusts when it opens a file.
func (f *File) open(patience time.Duration) (err error) {
	if f.place, err = f.f.Stat(); err != nil {
		return err
	}
	if !f.place.Mode().IsRegular() {
		return fmt.Errorf("expected a file, found %s: %s", f.place.Mode().Type(), f.cfg.Path)
	}
	if err := awaitLock(f.f, patience); err != nil {
		return err
	}
	f.image = image{r: f.f, pageSize: int64(os.Getpagesize())}
	m, known := f.image.guessMeta()
	switch newest, both, err := f.image.newest(); {
	case f.place.Size() == 0:
		return damaged("it is empty")
	case err != nil:
		return err
	case !both || !known || m != newest:
		return damaged("one of its first two pages is not as it was written")
	case m.end < 4 || int64(m.end)*f.image.pageSize > f.place.Size(): //nolint:gosec // below mostPages
		return damaged("it is cut short: it has %d bytes, expected %d pages", f.place.Size(), m.end)
	}
	f.committed.Store(m.tx)
	f.begun.Store(m.tx)
	if m.freelist != noFreelist {
		if _, _, err := f.image.freelist(m); err != nil {
			return err
		}
	}
	return nil
}

func awaitLock(f *os.File, patience time.Duration) error {
	for ; ; time.Sleep(lockWait) {
		switch got, err := lock(f); {
		case err != nil:
			return err
		case got:
			return nil
		case patience <= 0:
			return ErrInUse
		}
		patience -= lockWait
	}
}

// start lets bbolt open the file. It is safe once the content was checked.
func (f *File) start() error {
	return guard(func() (err error) {
		f.db, err = bolt.Open(f.cfg.Path, fileMode, &bolt.Options{
			Timeout: lockTimeout, FreelistType: bolt.FreelistMapType, NoStatistics: true,
			OpenFile: func(string, int, os.FileMode) (*os.File, error) { return f.f, nil },
		})
		if f.db != nil {
			f.committed.Store(f.newestTx())
			f.begun.Store(f.committed.Load())
		}
		return err
	})
}

func (f *File) newestTx() uint64 {
	m, _, err := f.image.newest()
	if err != nil {
		return 0
	}
	return m.tx
}

// Walk checks the whole file, and calls visit with each record of the buckets, one bucket
// after the other. If enough reports true, Walk checks no more than the first bucket, and
// reports that it has not finished. Before Walk has returned, the file cannot be written.
func (f *File) Walk(enough func() bool, visit func(bucket string, key, value []byte) error) (finished bool, err error) {
	m, _, err := f.image.newest()
	if err != nil {
		return false, err
	}
	w := newWalk(&f.image, m)
	found, err := w.buckets(f.cfg.Buckets)
	if err != nil {
		return false, err
	}
	for i, name := range f.cfg.Buckets {
		if i > 0 {
			w.enough = enough
		}
		err := w.bucket(found[name], func(key, value []byte) error {
			f.largest = max(f.largest, len(value))
			return visit(name, key, value)
		})
		if err != nil && !errors.Is(err, errEnough) {
			return false, err
		}
		finished = err == nil
	}
	if finished {
		if err := w.freePages(); err != nil {
			return false, err
		}
	}
	if f.db == nil {
		if err := f.start(); err != nil {
			return false, damaged("it cannot be opened: %w", err)
		}
	}
	return finished, nil
}

// Get returns the value of a key, or nil.
func (f *File) Get(name string, key []byte) (value []byte, err error) {
	buf, _ := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	err = f.read(func(m meta) error {
		b, err := f.bucket(m, name, buf)
		if err != nil {
			return err
		}
		if b.inline != nil {
			value, err = b.inline.value(key, false)
		} else {
			value, err = descend(b.root, key, false, nil, f.image.loader(m, buf))
		}
		value = bytes.Clone(value)
		return err
	})
	return value, err
}

// bucket returns a bucket. It remembers where those of the newest state are.
func (f *File) bucket(m meta, name string, buf *[]byte) (bucket, error) {
	known := f.known.Load()
	if known != nil && known.tx == m.tx {
		if b, found := known.buckets[name]; found {
			return b, nil
		}
	}
	b, err := findBucket(m, name, f.image.loader(m, buf))
	if err != nil {
		return b, err
	}
	next := &roots{tx: m.tx, buckets: map[string]bucket{name: b}}
	if known != nil && known.tx == m.tx {
		maps.Copy(next.buckets, known.buckets)
	}
	f.known.Store(next)
	return b, nil
}

// read calls f with the newest state of the file. bbolt uses the pages of a state again from
// the second transaction after it on, so what was read during that one is read again.
func (f *File) read(do func(m meta) error) error {
	for {
		newest := f.committed.Load()
		m, _, err := f.image.newest()
		switch {
		case err == nil && m.tx < newest:
			err = damaged("its newest change is lost")
		case err == nil:
			err = do(m)
		}
		if f.begun.Load() <= m.tx+1 || m.tx == 0 {
			return err
		}
	}
}

// InPlace returns an error that wraps [ErrGone] if the file is not in its place any more.
func (f *File) InPlace() error {
	_, err := f.inPlace()
	return err
}

func (f *File) inPlace() (os.FileInfo, error) {
	now, err := os.Stat(f.cfg.Path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%w: %s was removed, or renamed", ErrGone, f.cfg.Path)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	case !os.SameFile(f.place, now):
		return nil, fmt.Errorf("%w: another one is at %s", ErrGone, f.cfg.Path)
	}
	return now, nil
}

// Check returns an error if the file is not in its place any more, or if its newest change is
// not in it. Only the goroutine that uses Update may call it.
func (f *File) Check() error {
	_, err := f.check()
	return err
}

func (f *File) check() (m meta, err error) {
	now, err := f.inPlace()
	if err != nil {
		return m, err
	}
	m, both, err := f.image.newest()
	switch {
	case err != nil:
		return m, err
	case !both:
		return m, damaged("one of its first two pages is not as it was written")
	case m.tx != f.committed.Load():
		return m, damaged("it is at change %d, expected %d", m.tx, f.committed.Load())
	case now.Size() < f.size:
		return m, damaged("it has become shorter")
	}
	f.size = now.Size()
	return m, nil
}

// Size returns the size of the file, or 0 if that cannot be known.
func (f *File) Size() int64 {
	info, err := f.f.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// Changed returns when and how the file was last changed by anybody, to compare.
func (f *File) Changed() (time.Time, uint64) {
	info, err := f.f.Stat()
	if err != nil {
		return time.Time{}, 0
	}
	return info.ModTime(), f.committed.Load()
}

// Scrub checks the whole file while it is in use, and calls visit with each record.
func (f *File) Scrub(ctx context.Context, visit func(bucket string, key, value []byte) error) error {
	for _, name := range f.cfg.Buckets {
		for from := []byte{}; from != nil; {
			if err := ctx.Err(); err != nil {
				return err
			}
			var err error
			if from, err = f.Range(name, from, func(key, value []byte) error { return visit(name, key, value) }); err != nil {
				return err
			}
		}
	}
	return f.read(func(m meta) error {
		if m.freelist == noFreelist {
			return nil
		}
		_, _, err := f.image.freelist(m)
		return err
	})
}

// Close closes the file. It must not be used by others then.
func (f *File) Close() error {
	if f.db == nil {
		return f.f.Close()
	}
	var err error
	panicked := guard(func() error { err = f.db.Close(); return nil })
	return errors.Join(err, panicked)
}

// abandon gives the file up, if bbolt may hold locks of it for ever.
func (f *File) abandon() { f.db = nil }

// MakeFolder creates a folder and its parents, and syncs each of them, so that they survive a
// crash.
func MakeFolder(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return os.MkdirAll(path, folderMode) // an error if it is a file
	}
	parent := filepath.Dir(path)
	if err := MakeFolder(parent); err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(path, folderMode), syncFolder(parent))
}

// syncFolder makes the names of new files in a folder survive a crash.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
