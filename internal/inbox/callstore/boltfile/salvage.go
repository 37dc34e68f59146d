package boltfile

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"io"
	"maps"
	"os"
	"slices"
)

// Place says where a record was found.
type Place int

// The places, from the best to the worst.
const (
	InTree Place = iota // where it belongs
	Astray              // in a page that is in use, but to which no tree leads any more
	InFree              // in a page that is free: removed earlier, or written just before the damage
)

// Record is a record that was found in a damaged file.
type Record struct {
	Place    Place
	Bucket   string
	Key      []byte
	ID       string // of what the record is about: the file may have several states of it
	Version  int64  // of two records with the same ID in places of the same kind, the higher one counts
	Proven   bool   // it has a checksum, which is right
	Whole    bool   // its page has no visible damage
	Sequence uint64 // of its bucket, as the file says; 0 if that cannot be read
}

// Salvage says which records of a damaged file are still of use.
type Salvage struct {
	// Identify reads a record. It sets all but the place of it, or reports false if the
	// record is not as it was written.
	Identify func(key, value []byte) (Record, bool)

	// Wanted reports whether a record that is not in its tree is still valid.
	Wanted func(Record) bool

	// Seal returns the value to write for a record.
	Seal func(key, value []byte) []byte
}

// find is a record that will be saved.
type find struct {
	Record
	from *image
	at   int64 // of its value
	size int
}

const (
	mostPages     = 1 << 28
	longestKey    = 1 << 10
	largestValue  = 16 << 20
	carvingFactor = 8 // how often the size of a file may be read while its pages are searched
)

// salvager collects what is readable in damaged files.
type salvager struct {
	Salvage
	names []string

	finds   map[string]map[string]find // by bucket and ID
	spoiled int                        // records in their place that are not as they were written
	buf     []byte
}

// file collects the records of a file.
func (s *salvager) file(r io.ReaderAt, size int64) {
	im := &image{r: r}
	m, known := im.guessMeta()
	if im.pageSize == 0 {
		im.pageSize = int64(os.Getpagesize())
	}
	pages := uint64(size / im.pageSize) //nolint:gosec // the size of a file is not negative
	c := &carving{
		salvager: s, image: im, size: size, end: min(m.end, pages), seen: make(map[uint64]bool), sequence: make(map[string]uint64),
		budget: carvingFactor*size + 1<<26,
	}
	free := make(map[uint64]bool)
	if known {
		c.whole = m.end <= pages
		c.root(m.root)
		if ids, overflow, err := im.freelist(m); err == nil {
			for _, id := range ids {
				free[id] = true
			}
			for id := range overflow + 1 {
				c.seen[m.freelist+id] = true
			}
		} else if c.whole { // all trees are whole, so what is in none of them is free
			for id := range m.end {
				free[id] = true
			}
		}
	}
	for id := uint64(2); id < pages; id++ {
		if c.seen[id] {
			continue
		}
		place := Astray
		if free[id] || known && id >= m.end {
			place = InFree
		}
		c.carve(id, place)
	}
}

// guessMeta returns the newest meta page, even if one byte of it is wrong. It sets the size of
// the pages, unless that cannot be known.
func (im *image) guessMeta() (newest meta, known bool) {
	for _, pageSize := range pageSizes() {
		for slot := range int64(2) {
			b := make([]byte, metaSize)
			if _, err := im.r.ReadAt(b, slot*pageSize+pageHeader); err != nil {
				continue
			}
			m, found := parseMeta(b)
			if found == 0 {
				m, found = mendMeta(b)
			}
			if found == pageSize && m.end < mostPages && (!known || m.tx > newest.tx) {
				newest, known, im.pageSize = m, true, pageSize
			}
		}
		if known {
			break
		}
	}
	return newest, known
}

// pageSizes returns the sizes that pages may have, the likeliest first.
func pageSizes() []int64 {
	sizes := []int64{int64(os.Getpagesize())}
	for size := int64(smallestPage); size <= largestPage; size *= 2 {
		if size != sizes[0] {
			sizes = append(sizes, size)
		}
	}
	return sizes
}

// mendMeta finds the one byte of a meta page that makes its checksum right.
func mendMeta(b []byte) (m meta, pageSize int64) {
	for i := range metaSize {
		before := b[i]
		for value := range 256 {
			b[i] = byte(value)
			if m, pageSize = parseMeta(b); pageSize != 0 {
				return m, pageSize
			}
		}
		b[i] = before
	}
	return m, 0
}

// carving is the search through one file.
type carving struct {
	*salvager
	*image
	size     int64
	end      uint64
	seen     map[uint64]bool // pages of trees without damage
	whole    bool            // no damage has been seen
	budget   int64           // bytes that may still be read
	sequence map[string]uint64
}

// root collects the records of all buckets that the root of the file leads to.
func (c *carving) root(id uint64) {
	var buf []byte
	p, err := c.page(id, c.end, &buf)
	if err == nil && p.flags == flagLeaf {
		c.seen[id] = true
	} else {
		c.whole = false
		if id < 2 || id >= c.end {
			return
		}
		buf = grown(buf, c.pageSize)
		if _, err := c.r.ReadAt(buf, c.at(id)); err != nil {
			return
		}
	}
	for _, name := range c.names {
		intact := false
		for from := 0; ; {
			i := bytes.Index(buf[from:], []byte(name))
			if i < 0 {
				break
			}
			from += i + len(name)
			intact = c.bucketAt(buf[from:], c.at(id)+int64(from), name, err == nil) || intact
		}
		c.whole = c.whole && intact
	}
}

// at returns where a page is.
func (c *carving) at(id uint64) int64 { return int64(id) * c.pageSize } //nolint:gosec // id is a page of the file

// bucketAt collects the records of a bucket whose record begins with b, which is at a place
// of the file. trusted is whether b has no damage. It reports whether there is a bucket
// without damage to its tree.
func (c *carving) bucketAt(b []byte, at int64, name string, trusted bool) bool {
	if len(b) < bucketHeader {
		return false
	}
	root := binary.NativeEndian.Uint64(b)
	var intact bool
	if root != 0 {
		intact = c.tree(root, 0)
	} else {
		intact = c.elements(at+bucketHeader, InTree, true) > 0 || len(b) >= bucketHeader+pageHeader && b[bucketHeader+10] == 0
	}
	if sequence := binary.NativeEndian.Uint64(b[8:]); intact || trusted {
		c.sequence[name] = max(c.sequence[name], sequence)
	}
	return intact
}

// tree collects the records of a tree, as far as its pages have no damage. It reports whether
// none has.
func (c *carving) tree(id uint64, depth int) (intact bool) {
	var buf []byte
	p, err := c.page(id, c.end, &buf)
	if err != nil || depth > deepest || c.seen[id] {
		return false
	}
	for n := range p.overflow + 1 {
		c.seen[id+n] = true
	}
	intact = true
	for i := range p.count {
		if p.flags == flagBranch {
			intact = c.tree(p.child(i), depth+1) && intact
			continue
		}
		key, value := p.element(i)
		begin, size, _ := p.bounds(i)
		if !c.take(key, value, c.at(id)+int64(pageHeader+i*elementHeader+begin+size), InTree, true) {
			c.spoiled++
		}
	}
	return intact
}

// carve collects the records of a page in which no header is trusted.
func (c *carving) carve(id uint64, place Place) {
	var buf []byte
	p, err := c.page(id, c.end, &buf)
	whole := err == nil && p.flags == flagLeaf
	c.elements(c.at(id), place, whole)
}

// elements collects the records of a page at some place in the file, whatever its header
// says. Where the header of an element is wrong, the elements beside it show where it is.
func (c *carving) elements(base int64, place Place, whole bool) (taken int) {
	headers := make([]byte, min(c.pageSize, c.size-base))
	if len(headers) < pageHeader+elementHeader {
		return 0
	}
	if _, err := c.r.ReadAt(headers, base); err != nil {
		return 0
	}
	before := int64(0) // where the last record ends
	for at := int64(pageHeader); at+elementHeader <= int64(len(headers)); at += elementHeader {
		begin, key, value := c.bounds(headers[at:], base+at)
		next := int64(0)
		if at+2*elementHeader <= int64(len(headers)) {
			next, _, _ = c.bounds(headers[at+elementHeader:], base+at+elementHeader)
		}
		switch {
		case c.takeAt(begin, key, value, place, whole):
		case before > 0 && c.takeAt(before, key, next-before-key, place, false):
			begin, value = before, next-before-key
		case c.takeAt(begin, key, next-begin-key, place, false):
			value = next - begin - key
		case before > 0 && c.takeAt(before, key, value, place, false):
			begin = before
		case before > 0 && c.takeAt(before, sequenceSize, next-before-sequenceSize, place, false):
			begin, key, value = before, sequenceSize, next-before-sequenceSize
		default:
			if before = begin + key + value; key > longestKey || value > largestValue {
				before = 0
			}
			continue
		}
		taken++
		before = begin + key + value
	}
	return taken
}

// sequenceSize is the size of a key that is a sequence number.
const sequenceSize = 8

// bounds returns where an element says that its key is, and how long key and value are.
func (c *carving) bounds(header []byte, at int64) (begin, key, value int64) {
	order := binary.NativeEndian
	return at + int64(order.Uint32(header[4:])), int64(order.Uint32(header[8:])), int64(order.Uint32(header[12:]))
}

// takeAt is take for a record at a place of the file, if there may be one.
func (c *carving) takeAt(begin, key, value int64, place Place, whole bool) bool {
	if key < 1 || key > longestKey || value < 1 || value > largestValue || begin+key+value > c.size || c.budget < key+value {
		return false
	}
	c.budget -= key + value
	b := grown(c.buf, key+value)
	c.buf = b
	if _, err := c.r.ReadAt(b, begin); err != nil {
		return false
	}
	return c.take(b[:key], b[key:], begin+key, place, whole)
}

// take notes a record, if it is one. at is the place of its value.
func (c *carving) take(key, value []byte, at int64, place Place, whole bool) bool {
	r, ok := c.Identify(key, value)
	if !ok {
		return false
	}
	r.Place, r.Whole, r.Sequence, r.Key = place, whole, c.sequence[r.Bucket], bytes.Clone(key)
	if place != InTree && !c.Wanted(r) {
		return true
	}
	known, found := c.finds[r.Bucket][r.ID]
	if found && cmp.Or(cmp.Compare(known.Place, place), cmp.Compare(r.Version, known.Version)) <= 0 {
		return true
	}
	if c.finds[r.Bucket] == nil {
		c.finds[r.Bucket] = make(map[string]find)
	}
	c.finds[r.Bucket][r.ID] = find{Record: r, from: c.image, at: at, size: len(value)}
	return true
}

// sorted returns the records of a bucket to save, in the order of their keys. Those are over
// about which a later bucket has a record.
func (s *salvager) sorted(name string) []find {
	for _, later := range s.names[slices.Index(s.names, name)+1:] {
		maps.DeleteFunc(s.finds[name], func(id string, _ find) bool { _, over := s.finds[later][id]; return over })
	}
	return slices.SortedFunc(maps.Values(s.finds[name]), func(a, b find) int { return bytes.Compare(a.Key, b.Key) })
}

// read returns the value of a record that was found. It checks it again: the file may change
// while it is read.
func (s *salvager) read(f find) ([]byte, bool) {
	value := make([]byte, f.size)
	if _, err := f.from.r.ReadAt(value, f.at); err != nil {
		return nil, false
	}
	if again, ok := s.Identify(f.Key, value); !ok || again.ID != f.ID {
		return nil, false
	}
	return s.Seal(f.Key, value), true
}
