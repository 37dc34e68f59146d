package snap

import (
	"bytes"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strconv"
)

// key is a key of an open object. Equal keys have equal hashes, and nearly
// always only they.
type key struct {
	hash uint64
	at   int // offset of its first byte, after the quote
}

// seeds make it impossible to choose keys that have the same hash.
var seeds = [2]uint64{rand.Uint64(), rand.Uint64()} //nolint:gosec // seeded by the system, and only against keys made to collide

// mix adds eight more bytes of a key to its hash, which begins as seeds[0]. The result
// combines both halves of a product, so it depends on all bits of hash and w.
func mix(hash, w uint64) uint64 {
	high, low := bits.Mul64(hash, w^seeds[1])
	return high ^ low
}

// keyHash returns the hash of a key: of its whole words, of its last bytes
// (none, if it ends with a whole word), and of its length.
func keyHash(text []byte) uint64 {
	h, tail, i := seeds[0], tailOf(text), 0
	for ; i+8 <= len(text); i += 8 {
		h = mix(h, word(text, tail, i))
	}
	return mix(h, word(text, tail, i)) + uint64(len(text))
}

// oddKey reads the rest of a key that is not simple, as [scanner.text] does,
// and returns its hash as well.
func (s *scanner) oddKey(i, start int) (int, uint64, error) {
	end, asIs, err := s.text(i, start)
	if err != nil || s.bare {
		return end, 0, err
	}
	text := s.src[start:end]
	if !asIs {
		s.texts = appendMeaning(s.texts[:0], text)
		text = s.texts
	}
	return end, keyHash(text), nil
}

// addKey adds a key to the innermost open object, or reports it if it is a
// duplicate, and returns the new filter. It is for keys whose bit in the filter is
// set already. Few keys are compared one by one, many are kept in a hash table.
func (s *scanner) addKey(f *frame, filter, h uint64, start int) uint64 {
	mine := s.keys[f.keys:]
	if len(s.slots) == f.slots {
		for _, k := range mine {
			if k.hash == h && s.sameKey(k.at, start) {
				s.hazard(DuplicateKey, start-1, start-1)
				return filter
			}
		}
		s.keys = append(s.keys, key{h, start})
		if len(mine) < fewKeys {
			return filter
		}
		s.growTable(f)
		return ^uint64(0) // from now on every key comes here
	}
	table := s.slots[f.slots:]
	mask := uint64(len(table) - 1)
	slot := h & mask
	for ; table[slot] != 0; slot = (slot + 1) & mask {
		if k := mine[table[slot]-1]; k.hash == h && s.sameKey(k.at, start) {
			s.hazard(DuplicateKey, start-1, start-1)
			return filter
		}
	}
	s.keys = append(s.keys, key{h, start})
	table[slot] = len(mine) + 1
	if 2*len(mine) >= len(table) {
		s.growTable(f)
	}
	return filter
}

// growTable makes a hash table for the keys of f, at most a quarter full: of
// slots that hold the number of a key, counted from 1. f is the innermost open
// object, so its table is the last one in s.slots and can be replaced there.
func (s *scanner) growTable(f *frame) {
	mine := s.keys[f.keys:]
	size := 4 << bits.Len(uint(len(mine)))
	s.slots = slices.Grow(s.slots[:f.slots], size)[:f.slots+size]
	table := s.slots[f.slots:]
	clear(table)
	mask := uint64(size - 1)
	for i, k := range mine {
		slot := k.hash & mask
		for table[slot] != 0 {
			slot = (slot + 1) & mask
		}
		table[slot] = i + 1
	}
}

// sameKey reports whether the keys that begin at a and b mean the same.
func (s *scanner) sameKey(a, b int) bool {
	s.texts = meaning(s.texts[:0], s.src, a)
	n := len(s.texts)
	s.texts = meaning(s.texts, s.src, b)
	return bytes.Equal(s.texts[:n], s.texts[n:])
}

// noKey stands for the lone index key of an object without a key so far.
const noKey = -1

// noteIndex notes the key that begins at start, if it looks like an array index and its object
// has other keys: their order may change then. lone is where the object's only key so far
// begins, if that one looks so; [noKey] if there is none; or else 0. It returns the next lone.
func (s *scanner) noteIndex(lone, start int) int {
	if lone > 0 && len(s.hazards) < maxHazards { // behind those in its value, which are found already
		s.hazards = append(s.hazards, hazard{IntegerKey, lone - 1})
	}
	if c := s.src[start]; !isDigit(c) && c != '\\' || !s.isIndex(start) {
		return 0
	}
	if lone == noKey {
		return start
	}
	s.hazard(IntegerKey, start-1, start-1)
	return 0
}

// isIndex reports whether JavaScript takes the key that begins at start for an array index:
// 0 to 2^32-2 without leading zeros.
func (s *scanner) isIndex(start int) bool {
	s.texts = meaning(s.texts[:0], s.src, start)
	text := s.texts
	if len(text) == 0 || len(text) > 10 || !isDigit(text[0]) || text[0] == '0' && len(text) > 1 {
		return false
	}
	n, err := strconv.ParseUint(string(text), 10, 64)
	return err == nil && n < 1<<32-1
}
