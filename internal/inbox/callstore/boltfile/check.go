package boltfile

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// walk is the way through all pages of a file.
type walk struct {
	*image
	meta   meta
	seen   []uint64    // a bit for each page
	enough func() bool // ends the walk if it reports true
	left   int         // pages until enough is called again
	bufs   [deepest + 1][]byte
}

const pagesBetweenLooks = 256

// errEnough ends a walk that takes too long.
var errEnough = errors.New("the walk takes too long")

func newWalk(im *image, m meta) *walk {
	return &walk{image: im, meta: m, seen: make([]uint64, m.end/64+1), enough: func() bool { return false }}
}

// mark notes that a page is in use, with those that belong to it.
func (w *walk) mark(id, overflow uint64) error {
	for page := id; page <= id+overflow; page++ {
		if page < 2 || page >= w.meta.end {
			return damaged("page %d is not one of its %d pages", page, w.meta.end)
		}
		if w.marked(page) {
			return damaged("page %d is used twice", page)
		}
		w.seen[page/64] |= 1 << (page % 64)
	}
	return nil
}

func (w *walk) marked(id uint64) bool { return w.seen[id/64]&(1<<(id%64)) != 0 }

// tree walks through a tree, whose keys are from lower on and, if upper is not nil, before
// upper. It calls visit with each record.
func (w *walk) tree(id uint64, depth int, lower, upper []byte, visit func(isBucket bool, key, value []byte) error) error {
	if w.left--; w.left <= 0 {
		if w.enough() {
			return errEnough
		}
		w.left = pagesBetweenLooks
	}
	if depth > deepest {
		return damaged("a tree goes round in circles")
	}
	p, err := w.page(id, w.meta.end, &w.bufs[depth])
	if err != nil {
		return err
	}
	if err := w.mark(id, p.overflow); err != nil {
		return err
	}
	for i := range p.count {
		key, value := p.element(i)
		if i == 0 && bytes.Compare(key, lower) < 0 || i == p.count-1 && upper != nil && bytes.Compare(key, upper) >= 0 {
			return damaged("page %d has a key that belongs elsewhere", id)
		}
		if p.flags == flagLeaf {
			if err := visit(p.isBucket(i), key, value); err != nil {
				return err
			}
			continue
		}
		next := upper
		if i+1 < p.count {
			next, _ = p.element(i + 1)
		}
		if err := w.tree(p.child(i), depth+1, key, next, visit); err != nil {
			return err
		}
	}
	return nil
}

// buckets returns the buckets with the names, and an error if the file has others.
func (w *walk) buckets(names []string) (found map[string]bucket, err error) {
	found = make(map[string]bucket)
	err = w.tree(w.meta.root, 0, nil, nil, func(isBucket bool, key, value []byte) error {
		if !isBucket {
			return damaged("a record is in no bucket")
		}
		b, err := parseBucket(bytes.Clone(value))
		found[string(key)] = b
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, ok := found[name]; !ok {
			return nil, damaged("it has no bucket %q", name)
		}
	}
	if len(found) != len(names) {
		return nil, damaged("it has %d buckets, expected %d", len(found), len(names))
	}
	return found, nil
}

// bucket walks through the records of a bucket.
func (w *walk) bucket(b bucket, visit func(key, value []byte) error) error {
	each := func(isBucket bool, key, value []byte) error {
		if isBucket {
			return damaged("a bucket is in a bucket")
		}
		return visit(key, value)
	}
	if b.inline == nil {
		return w.tree(b.root, 0, nil, nil, each)
	}
	for i := range b.inline.count {
		key, value := b.inline.element(i)
		if err := each(b.inline.isBucket(i), key, value); err != nil {
			return err
		}
	}
	return nil
}

// freePages marks the free pages and the page that lists them. After it, each page must be
// marked.
func (w *walk) freePages() error {
	if w.meta.freelist == noFreelist {
		return nil
	}
	ids, overflow, err := w.freelist(w.meta)
	if err != nil {
		return err
	}
	if err := w.mark(w.meta.freelist, overflow); err != nil {
		return err
	}
	for _, id := range ids {
		if err := w.mark(id, 0); err != nil {
			return err
		}
	}
	for id := uint64(2); id < w.meta.end; id++ {
		if !w.marked(id) {
			return damaged("page %d is neither in use nor free", id)
		}
	}
	return nil
}

// freelist returns the free pages.
func (im *image) freelist(m meta) (ids []uint64, overflow uint64, err error) {
	count, skip, overflow, err := im.freelistHeader(m)
	if err != nil || count == 0 {
		return nil, overflow, err
	}
	b := make([]byte, 8*count)
	if _, err := im.r.ReadAt(b, int64(m.freelist)*im.pageSize+pageHeader+skip); err != nil { //nolint:gosec // below the number of pages
		return nil, 0, damaged("the list of free pages cannot be read: %w", err)
	}
	ids = make([]uint64, count)
	for i := range ids {
		if ids[i] = binary.NativeEndian.Uint64(b[8*i:]); ids[i] < 2 || ids[i] >= m.end || i > 0 && ids[i] <= ids[i-1] {
			return nil, 0, damaged("the list of free pages is not as it was written")
		}
	}
	return ids, overflow, nil
}

// freelistHeader returns the number of free pages, where they begin behind the header, and
// how many pages their list has behind it.
func (im *image) freelistHeader(m meta) (count uint64, skip int64, overflow uint64, err error) {
	if m.freelist < 2 || m.freelist >= m.end {
		return 0, 0, 0, damaged("the list of free pages is on page %d of %d", m.freelist, m.end)
	}
	buf, _ := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	p, err := im.header(m.freelist, buf)
	if err != nil {
		return 0, 0, 0, err
	}
	count = uint64(p.count) //nolint:gosec // it was read from 16 bits
	if p.count == countInIDs {
		count, skip = binary.NativeEndian.Uint64(p.data[pageHeader:]), 8
	}
	// bbolt makes room for the pages that are free before it takes some for the list itself.
	size := uint64(im.pageSize)                           //nolint:gosec // a small number
	least := (pageHeader + uint64(skip) + 8*count) / size //nolint:gosec // 0 or 8
	most := (pageHeader + 8 + 8*(count+p.overflow+1)) / size
	if p.flags != flagFreelist || count >= m.end || p.overflow < least || p.overflow > most || m.freelist+p.overflow >= m.end {
		return 0, 0, 0, damaged("page %d is no list of free pages, or not as it was written", m.freelist)
	}
	return count, skip, p.overflow, nil
}
