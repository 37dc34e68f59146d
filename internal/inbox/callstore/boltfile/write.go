package boltfile

import (
	"bytes"
	"errors"
	"fmt"
	"runtime/debug"
	"syscall"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Tx is a transaction that writes. Each method first checks the pages that bbolt will touch.
type Tx struct {
	tx      *bolt.Tx
	file    *File
	meta    meta
	buckets map[string]bucket
	pages   map[uint64]page // that were checked
}

// Get returns the value of a key, or nil.
func (t *Tx) Get(bucket string, key []byte) ([]byte, error) {
	if err := t.check(bucket, key, false); err != nil {
		return nil, err
	}
	return t.tx.Bucket([]byte(bucket)).Get(key), nil
}

// Put writes a record.
func (t *Tx) Put(bucket string, key, value []byte) error {
	if err := t.check(bucket, key, false); err != nil {
		return err
	}
	t.file.largest = max(t.file.largest, len(value))
	return t.tx.Bucket([]byte(bucket)).Put(key, value)
}

// Delete removes a record, if there is one.
func (t *Tx) Delete(bucket string, key []byte) error {
	if err := t.check(bucket, key, true); err != nil {
		return err
	}
	return t.tx.Bucket([]byte(bucket)).Delete(key)
}

// NextSequence returns another number for the records of a bucket.
func (t *Tx) NextSequence(bucket string) (uint64, error) {
	if err := t.check(bucket, nil, false); err != nil {
		return 0, err
	}
	return t.tx.Bucket([]byte(bucket)).NextSequence()
}

// check checks the pages on the way to a key, and if beside is true, those beside each of them,
// with which bbolt may merge it.
func (t *Tx) check(name string, key []byte, beside bool) (err error) {
	b, known := t.buckets[name]
	if !known {
		if b, err = findBucket(t.meta, name, t.page); err != nil {
			return err
		}
		t.buckets[name] = b
	}
	if b.inline != nil {
		return nil
	}
	_, err = descend(b.root, key, false, func(p *page, i int) error {
		if !beside {
			return nil
		}
		for n := max(i-1, 0); n <= i+1 && n < p.count; n++ {
			if _, err := t.page(p.child(n)); err != nil {
				return err
			}
		}
		return nil
	}, t.page)
	return err
}

// page returns a page, which it reads and checks once.
func (t *Tx) page(id uint64) (p page, err error) {
	p, known := t.pages[id]
	if !known {
		var buf []byte
		if p, err = t.file.image.page(id, t.meta.end, &buf); err == nil {
			t.pages[id] = p
		}
	}
	return p, err
}

// Update makes a change, which is on disk, in a file that is in its place, when Update returns
// nil. freesSpace says that the change frees space in the end, and may use the reserve of a
// file with a limit. After an error that wraps [ErrDamaged], the file can only be replaced or
// closed.
func (f *File) Update(freesSpace bool, change func(*Tx) error) error {
	if f.db == nil {
		return damaged("it is not open")
	}
	m, err := f.ready()
	if err != nil {
		return err
	}
	f.limit(freesSpace)
	err, panicked := f.update(m, change)
	switch {
	case panicked:
		f.abandon()
		return err
	case err == nil:
		f.committed.Store(f.begun.Load())
		return f.Check()
	case errors.Is(err, syscall.EIO): // after it, what the system shows may not be what is on disk
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	case f.newestTx() > f.committed.Load():
		f.committed.Store(f.newestTx())
		return fmt.Errorf("%w: %w", ErrUnclear, err)
	}
	return err
}

// ready returns the state of the file, or an error if bbolt would do harm.
func (f *File) ready() (meta, error) {
	m, err := f.check()
	if err != nil || m.freelist == noFreelist {
		return m, err
	}
	_, _, _, err = f.image.freelistHeader(m)
	return m, err
}

func (f *File) update(m meta, change func(*Tx) error) (err error, panicked bool) { //nolint:revive // the error is the main result
	guarded := guard(func() error {
		err = f.db.Update(func(tx *bolt.Tx) error {
			number := uint64(tx.ID()) //nolint:gosec // it counts from 1
			if number != m.tx+1 {
				return damaged("it is at change %d, expected %d", number-1, m.tx)
			}
			f.begun.Store(number)
			return change(&Tx{tx: tx, file: f, meta: m, buckets: make(map[string]bucket), pages: make(map[uint64]page)})
		})
		return nil
	})
	if guarded != nil {
		return guarded, true
	}
	return err, false
}

// limit sets how far the file may grow. Without a limit it grows in large steps, which need
// fewer syncs.
func (f *File) limit(freesSpace bool) {
	f.db.MaxSize, f.db.AllocSize = f.cfg.MaxSize, growStep
	if f.cfg.MaxSize <= 0 {
		return
	}
	f.db.AllocSize = min(growStepAtLimit, f.cfg.MaxSize/reserveShare/2)
	info, err := f.f.Stat()
	switch {
	case !freesSpace:
		f.db.MaxSize = max(1, f.cfg.MaxSize-max(f.cfg.MaxSize/reserveShare, min(reserveRecords*f.largest, f.cfg.MaxSize/2)))
	case err == nil && info.Size() > int64(f.cfg.MaxSize): // it was larger before it had a limit
		f.db.MaxSize = 0
	}
}

// guard turns a panic of bbolt, and a fault where the file has become shorter, into an error.
func guard(do func() error) (err error) {
	before := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(before)
		if found := recover(); found != nil {
			err = damaged("%v", found)
		}
	}()
	return do()
}

// Full reports whether an error means that a file has reached its limit.
func Full(err error) bool { return errors.Is(err, bolterrors.ErrMaxSizeReached) }

// Range checks the page with a key and those on the way to it, and calls visit with its records
// from that key on. It returns the key with which the next page begins, or nil after the last.
func (f *File) Range(name string, from []byte, visit func(key, value []byte) error) (next []byte, err error) {
	var buf []byte
	var leaf *page
	err = f.read(func(m meta) error {
		next, leaf = nil, nil
		b, err := findBucket(m, name, f.image.loader(m, &buf))
		if err != nil {
			return err
		}
		if leaf = b.inline; leaf != nil {
			return nil
		}
		leaf, next, err = f.image.leafAt(b.root, m.end, from, &buf)
		return err
	})
	if err != nil {
		return nil, err
	}
	for i := range leaf.count {
		if key, value := leaf.element(i); bytes.Compare(key, from) >= 0 {
			if err := visit(key, value); err != nil {
				return nil, err
			}
		}
	}
	return next, nil
}

// leafAt returns the leaf with a key, and the key with which the next leaf begins.
func (im *image) leafAt(root, end uint64, key []byte, buf *[]byte) (leaf *page, next []byte, err error) {
	var lower []byte
	id := root
	for range deepest {
		p, err := im.page(id, end, buf)
		if err != nil {
			return nil, nil, err
		}
		if p.count > 0 {
			first, _ := p.element(0)
			last, _ := p.element(p.count - 1)
			if bytes.Compare(first, lower) < 0 || next != nil && bytes.Compare(last, next) >= 0 {
				return nil, nil, damaged("page %d has a key that belongs elsewhere", id)
			}
		}
		if p.flags == flagLeaf {
			return &p, next, nil
		}
		i, _ := p.search(key)
		i = max(i, 0)
		found, _ := p.element(i)
		lower = bytes.Clone(found)
		if i+1 < p.count {
			found, _ = p.element(i + 1)
			next = bytes.Clone(found)
		}
		id = p.child(i)
	}
	return nil, nil, damaged("a tree goes round in circles")
}
