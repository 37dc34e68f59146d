package callstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"

	bolt "go.etcd.io/bbolt"
)

// makeFolder creates a folder and its parents, and syncs each of them, so that they
// survive a crash.
func makeFolder(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(path, folderMode) // an error if it is a file
	}
	parent := filepath.Dir(path)
	if err := makeFolder(parent); err != nil {
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

// update runs a transaction that writes. A damaged page, on which bbolt panics, and a
// file that has become shorter, which causes a memory fault, are errors.
func (b *Bolt) update(f func(*bolt.Tx) error) (err error) {
	defer recoverCorruption(&err, debug.SetPanicOnFault(true))
	return b.db.Update(f)
}

// view runs a transaction that reads, with the same errors as update.
func (b *Bolt) view(f func(*bolt.Tx) error) (err error) {
	defer recoverCorruption(&err, debug.SetPanicOnFault(true))
	return b.db.View(f)
}

// recoverCorruption turns a panic that the content of the file causes into an error.
// before is the setting of [debug.SetPanicOnFault] to restore.
func recoverCorruption(err *error, before bool) { //nolint:gocritic // it is deferred, and sets a result
	debug.SetPanicOnFault(before)
	if found := recover(); found != nil {
		*err = fmt.Errorf("%w: %v", errCorrupt, found)
	}
}

// The format of a bbolt meta page. A file begins with two of them; the newer one that
// is whole says how many pages the file has.
const (
	metaMagic  = 0xED0CDAED
	metaHeader = 16 // of each page
	metaSize   = 64
	metaSum    = 56 // offset of its checksum
)

// truncated reports whether a file is shorter than its meta page says. It runs before
// bbolt maps the file into memory, where a missing page causes a fault.
func truncated(path string) bool {
	file, err := os.Open(path)
	if err != nil {
		return false // bolt.Open returns a better error
	}
	defer func() { _ = file.Close() }() // it was only read
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
	return uint64(info.Size()) < end //nolint:gosec // the size of a file is not negative
}
