package boltfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"sync"
)

// The format of a bbolt file: pages of the same size, some with further pages behind them
// that belong to them ("overflow"). The first two are meta pages, of which the one with the
// higher transaction counts. It names the page of the free pages, and the root of a tree
// whose records are the roots of the buckets.
const (
	pageHeader    = 16
	elementHeader = 16
	bucketHeader  = 16

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10

	elementIsBucket = 0x01

	metaMagic   = 0xED0CDAED
	metaVersion = 2
	metaSize    = 64
	metaSum     = 56 // offset of its checksum

	noFreelist = ^uint64(0)
	countInIDs = 0xFFFF // the number of free pages is in the first of them

	smallestPage = 1 << 10
	largestPage  = 1 << 16
	deepest      = 32 // levels of a tree; a real one has fewer than eight
)

// ErrDamaged means that the content of a file is not as it was written.
var ErrDamaged = errors.New("the file is damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrDamaged, fmt.Errorf(format, args...))
}

// image is a bbolt file that is read without trust: whatever its bytes are, no read goes
// beyond the file, and no walk goes on for ever.
type image struct {
	r        io.ReaderAt
	pageSize int64
}

// meta is the content of a meta page.
type meta struct {
	root     uint64
	sequence uint64
	freelist uint64
	end      uint64 // the number of pages in use
	tx       uint64
}

// parseMeta reads a meta page behind its header. pageSize is 0 if it is not as it was written.
func parseMeta(b []byte) (m meta, pageSize int64) {
	order := binary.NativeEndian
	if order.Uint32(b) != metaMagic || order.Uint32(b[4:]) != metaVersion || order.Uint64(b[metaSum:]) != sumOf(b) {
		return m, 0
	}
	size := int64(order.Uint32(b[8:]))
	if size < smallestPage || size > largestPage || size&(size-1) != 0 {
		return m, 0
	}
	return meta{
		root: order.Uint64(b[16:]), sequence: order.Uint64(b[24:]), freelist: order.Uint64(b[32:]), end: order.Uint64(b[40:]),
		tx: order.Uint64(b[48:]),
	}, size
}

func sumOf(b []byte) uint64 {
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSum])
	return sum.Sum64()
}

// newest returns the meta page that counts, and whether both are as they were written.
func (im *image) newest() (m meta, both bool, err error) {
	buf, _ := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	*buf = grown(*buf, im.pageSize+pageHeader+metaSize)
	if _, err := im.r.ReadAt(*buf, 0); err != nil {
		return m, false, damaged("its first two pages cannot be read: %w", err)
	}
	first, one := im.metaOf(*buf, 0)
	second, two := im.metaOf((*buf)[im.pageSize:], 1)
	switch {
	case !one && !two:
		return m, false, damaged("neither of its first two pages is as it was written")
	case one && (!two || first.tx > second.tx):
		return first, two, nil
	}
	return second, one, nil
}

// metaOf reads a meta page. intact is false if it is not as it was written.
func (im *image) metaOf(b []byte, slot uint64) (m meta, intact bool) {
	m, size := parseMeta(b[pageHeader:])
	return m, size == im.pageSize && binary.NativeEndian.Uint64(b) == slot && m.tx%2 == slot
}

// page is a page with those that belong to it.
type page struct {
	id       uint64
	flags    uint16
	count    int
	overflow uint64
	data     []byte
}

var buffers = sync.Pool{New: func() any { return new([]byte) }}

// header reads the first page of a page into *buf, which it makes longer if need be.
func (im *image) header(id uint64, buf *[]byte) (p page, err error) {
	*buf = grown(*buf, im.pageSize)
	if _, err := im.r.ReadAt(*buf, int64(id)*im.pageSize); err != nil { //nolint:gosec // id is below the number of pages
		return p, damaged("page %d cannot be read: %w", id, err)
	}
	b, order := *buf, binary.NativeEndian
	p = page{
		id: order.Uint64(b), flags: order.Uint16(b[8:]), count: int(order.Uint16(b[10:])), overflow: uint64(order.Uint32(b[12:])), data: b,
	}
	if p.id != id {
		return p, damaged("page %d says that it is page %d", id, p.id)
	}
	return p, nil
}

func grown(b []byte, size int64) []byte {
	if int64(cap(b)) < size {
		return make([]byte, size)
	}
	return b[:size]
}

// page reads a page of a tree, and checks all that can be seen without the rest of the tree.
// end is the number of pages in use. The page shares memory with *buf.
func (im *image) page(id, end uint64, buf *[]byte) (p page, err error) {
	if id < 2 || id >= end {
		return p, damaged("page %d is not one of its %d pages", id, end)
	}
	if p, err = im.header(id, buf); err != nil {
		return p, err
	}
	switch {
	case p.flags != flagLeaf && p.flags != flagBranch:
		return p, damaged("page %d is of the unknown kind %#x", id, p.flags)
	case p.count == 0: // an empty bucket has no page
		return p, damaged("page %d is empty", id)
	}
	size, err := p.size()
	if err != nil {
		return p, err
	}
	if want := uint64((size+im.pageSize-1)/im.pageSize) - 1; p.overflow != want || id+want >= end { //nolint:gosec // size is positive
		return p, damaged("page %d has %d pages behind it, expected %d", id, p.overflow, want)
	}
	if p.overflow > 0 {
		*buf = grown(*buf, int64(p.overflow+1)*im.pageSize)                 //nolint:gosec // below the number of pages
		if _, err := im.r.ReadAt(*buf, int64(id)*im.pageSize); err != nil { //nolint:gosec // as above
			return p, damaged("page %d cannot be read: %w", id, err)
		}
		p.data = *buf
	}
	p.data = p.data[:size]
	return p, p.check()
}

// size returns how many bytes of a page are used, as its elements say.
func (p *page) size() (int64, error) {
	elements := pageHeader + p.count*elementHeader
	if elements > len(p.data) {
		return 0, damaged("page %d has %d elements, more than a page may have", p.id, p.count)
	}
	if p.count == 0 {
		return pageHeader, nil
	}
	last := pageHeader + (p.count-1)*elementHeader
	begin, key, value := p.bounds(p.count - 1)
	if begin < elements-last {
		return 0, damaged("page %d has an element that begins within others", p.id)
	}
	return int64(last + begin + key + value), nil
}

// bounds returns where an element has its key, from where the element is, and how long its
// key and value are.
func (p *page) bounds(i int) (begin, key, value int) {
	b, order := p.data[pageHeader+i*elementHeader:], binary.NativeEndian
	if p.flags == flagBranch {
		return int(order.Uint32(b)), int(order.Uint32(b[4:])), 0
	}
	return int(order.Uint32(b[4:])), int(order.Uint32(b[8:])), int(order.Uint32(b[12:]))
}

// check checks the elements of a page: bbolt writes them one after the other, without gaps,
// in the order of their keys.
func (p *page) check() error {
	at := pageHeader + p.count*elementHeader
	var before []byte
	for i := range p.count {
		begin, key, value := p.bounds(i)
		if here := pageHeader + i*elementHeader; here+begin != at || key == 0 || at+key+value > len(p.data) {
			return damaged("page %d: its element %d is not as it was written", p.id, i)
		}
		now := p.data[at : at+key]
		if i > 0 && bytes.Compare(before, now) >= 0 {
			return damaged("page %d: its element %d is out of order", p.id, i)
		}
		before = now
		at += key + value
	}
	return nil
}

// element returns an element of a page that was checked. Key and value share its memory.
func (p *page) element(i int) (key, value []byte) {
	begin, k, v := p.bounds(i)
	at := pageHeader + i*elementHeader + begin
	return p.data[at : at+k : at+k], p.data[at+k : at+k+v : at+k+v]
}

func (p *page) isBucket(i int) bool {
	return binary.NativeEndian.Uint32(p.data[pageHeader+i*elementHeader:])&elementIsBucket != 0
}

// child returns the page to which an element of a branch leads.
func (p *page) child(i int) uint64 {
	return binary.NativeEndian.Uint64(p.data[pageHeader+i*elementHeader+8:])
}

// search returns the element with a key, or the one before it, which is -1 for a key before
// all others.
func (p *page) search(key []byte) (i int, exact bool) {
	low, high := 0, p.count
	for low < high {
		middle := (low + high) / 2
		now, _ := p.element(middle)
		switch c := bytes.Compare(now, key); {
		case c == 0:
			return middle, true
		case c < 0:
			low = middle + 1
		default:
			high = middle
		}
	}
	return low - 1, false
}

// bucket is a tree of records. A small one is in the record that names it.
type bucket struct {
	root     uint64
	sequence uint64
	inline   *page
}

// parseBucket reads the record that names a bucket.
func parseBucket(value []byte) (b bucket, err error) {
	if len(value) < bucketHeader {
		return b, damaged("the record of a bucket is too short")
	}
	order := binary.NativeEndian
	if b = (bucket{root: order.Uint64(value), sequence: order.Uint64(value[8:])}); b.root != 0 {
		return b, nil
	}
	data := value[bucketHeader:]
	if len(data) < pageHeader {
		return b, damaged("the record of a small bucket is too short")
	}
	p := &page{flags: order.Uint16(data[8:]), count: int(order.Uint16(data[10:])), data: data}
	if size, err := p.size(); err != nil || size != int64(len(data)) || p.flags != flagLeaf {
		return b, damaged("the record of a small bucket is not as it was written")
	}
	b.inline = p
	return b, p.check()
}

// findBucket returns a bucket. It shares no memory with the pages.
func findBucket(m meta, name string, load func(id uint64) (page, error)) (bucket, error) {
	value, err := descend(m.root, []byte(name), true, nil, load)
	if err != nil {
		return bucket{}, err
	}
	if value == nil {
		return bucket{}, damaged("it has no bucket %q", name)
	}
	return parseBucket(bytes.Clone(value))
}

// loader returns a function that reads pages into *buf.
func (im *image) loader(m meta, buf *[]byte) func(id uint64) (page, error) {
	return func(id uint64) (page, error) { return im.page(id, m.end, buf) }
}

// value returns the value of a key in a leaf, or nil.
func (p *page) value(key []byte, isBucket bool) ([]byte, error) {
	i, exact := p.search(key)
	if !exact {
		return nil, nil
	}
	if p.isBucket(i) != isBucket {
		return nil, damaged("page %d: its element %d is of the wrong kind", p.id, i)
	}
	_, value := p.element(i)
	return value, nil
}

// descend follows a tree to the value of a key. visit, if it is not nil, is called with each
// branch on the way and the element that leads on.
func descend(
	root uint64, key []byte, isBucket bool, visit func(p *page, i int) error, load func(id uint64) (page, error),
) ([]byte, error) {
	id := root
	for range deepest {
		p, err := load(id)
		if err != nil {
			return nil, err
		}
		if p.flags == flagLeaf {
			return p.value(key, isBucket)
		}
		i, _ := p.search(key)
		i = max(i, 0)
		id = p.child(i)
		if visit != nil {
			if err := visit(&p, i); err != nil {
				return nil, err
			}
		}
	}
	return nil, damaged("a tree goes round in circles")
}
