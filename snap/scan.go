package snap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
)

// scanner is the state of one pass over a text. How it is made fast:
//
//   - It reads eight bytes at a time: arithmetic on 64-bit words finds the end of
//     strings and numbers; see [stringEnds] and [nonDigits].
//   - It copies src in runs, each as long as possible. A text that is canonical
//     already is one run.
//   - It does not test for the end of input. Past the end, [at] and [word] return
//     zero bytes. JSON allows them nowhere, so they take the path of a wrong byte.
//   - It hashes keys by the word. For most keys, a filter of 64 bits per object
//     shows at once that they are new. Nothing waits for the hash: the processor
//     goes on with the value meanwhile.
//   - The loop calls functions only for what is rare in compact JSON.
//   - Its buffers are pooled.
type scanner struct {
	src  []byte
	out  []byte // len(src) bytes, of which used are put out
	used int
	tail uint64 // of src, for [word]
	from int    // src[from:] has not been put out yet
	bare bool   // only minify

	frames  []frame // of which those up to the depth are in use
	keys    []key   // of the open objects
	slots   []int   // hash tables of the open objects with more than fewKeys keys
	texts   []byte  // scratch for what keys with escapes mean
	hazards []hazard
}

// frame is an object or array that is open.
type frame struct {
	keys   int    // where its keys begin in scanner.keys
	slots  int    // where its hash table begins in scanner.slots
	filter uint64 // of the container around it, as are lone and closer
	lone   int
	closer byte
}

var scanners = sync.Pool{New: func() any { return &scanner{frames: make([]frame, 32), keys: make([]key, 0, 64)} }}

// run appends the canonical form of src, or with bare the minified one, to dst.
func (s *scanner) run(dst, src []byte, bare bool) ([]byte, error) {
	dst = slices.Grow(dst, len(src))
	n := len(dst)
	s.src, s.out, s.used, s.from, s.bare, s.tail = src, dst[n:n+len(src)], 0, 0, bare, tailOf(src)
	s.keys, s.slots, s.hazards = s.keys[:0], s.slots[:0], s.hazards[:0]
	err := s.scan(src)
	return dst[:n+s.used], err
}

// release returns s to the pool without references to the caller's memory, unless an
// unusual text has made its buffers large.
func (s *scanner) release() {
	s.src, s.out = nil, nil
	if max(cap(s.frames), cap(s.keys), cap(s.slots), cap(s.texts)) > maxKept {
		return
	}
	scanners.Put(s)
}

// scan reads src as one JSON value, with what is around it. It is a loop over
// values, each with the key before it and the brackets after it, and keeps open
// objects and arrays in s.frames: deep nesting costs no stack.
//
// It tries the forms that compact JSON mostly consists of first. All others come to
// the complete tests behind them.
func (s *scanner) scan(src []byte) (err error) {
	const object, array = '}', ']'
	var (
		i      int
		c      byte
		closer byte   // of the innermost open container: object, array, or 0 outside of all
		filter uint64 // of its keys: a bit of 64 for each, or all if they are in a hash table
		lone   int    // where its only key so far begins, if it looks like an array index; noKey without a key; else 0
		tail   = s.tail
		frames = s.frames
		depth  int
	)
value:
	for {
		if closer == object {
			// Here i is after the quote that opens the key.
			start := i
			w := word(src, tail, i)
			found := stringEnds(w)
			for found == 0 {
				i += 8
				w = word(src, tail, i)
				found = stringEnds(w)
			}
			i += first(found)
			end, odd, h := i, false, seeds[0]
			if peek(src, i)&0xffff == '"'|':'<<8 {
				i += 2
			} else {
				if odd = at(src, i) != '"'; odd {
					if i, h, err = s.oddKey(i, start); err != nil {
						return err
					}
				}
				if i = s.space(i + 1); at(src, i) != ':' {
					return s.unexpected(i, "':'")
				}
				i++
			}
			if !s.bare {
				if !odd {
					for k := start; k+8 <= end; k += 8 {
						h = mix(h, word(src, tail, k))
					}
					h = mix(h, before(w, found)) + uint64(end-start)
				}
				if bit := uint64(1) << (h >> 58); filter&bit == 0 {
					filter |= bit
					s.keys = append(s.keys, key{h, start})
				} else {
					filter = s.addKey(&frames[depth-1], filter, h, start)
				}
				if lone != 0 || odd || isDigit(src[start]) {
					lone = s.noteIndex(lone, start)
				}
			}
		}

		if c = at(src, i); c <= ' ' {
			i = s.space(i)
			c = at(src, i)
		}
		switch {
		case c == '"':
			i++
			start := i
			i = simpleEnd(src, tail, i)
			if at(src, i) != '"' {
				if i, _, err = s.text(i, start); err != nil {
					return err
				}
			}
			i++
		case '1' <= c && c <= '9':
			// An integer of at most seven digits is read here, any other number there.
			found := nonDigits(word(src, tail, i))
			end := i + first(found)
			if next := at(src, end); found == 0 || next == '.' || next|0x20 == 'e' {
				if end, err = s.number(i); err != nil {
					return err
				}
			}
			i = end
		case c == '{' || c == '[':
			if depth == len(frames) {
				if depth == maxDepth {
					return s.fail(i, "expected at most %d levels of nesting, found more", maxDepth)
				}
				frames = s.deepen()
			}
			i++
			next := at(src, i)
			if next <= ' ' {
				i = s.space(i)
				next = at(src, i)
			}
			if next != c+2 { // the closing bracket, in ASCII
				frames[depth] = frame{filter: filter, lone: lone, keys: len(s.keys), slots: len(s.slots), closer: closer}
				depth++
				if closer, filter, lone = c+2, 0, noKey; closer == object {
					if next != '"' {
						return s.unexpected(i, "a key in double quotes or '}'")
					}
					i++
				}
				continue
			}
			i++
		case c == '-' || c == '0':
			if i, err = s.number(i); err != nil {
				return err
			}
		default:
			switch w := word(src, tail, i); {
			case w&0xffff_ffff == wordTrue:
				i += len("true")
			case w&0xffff_ffff == wordNull:
				i += len("null")
			case w&0xff_ffff_ffff == wordFalse:
				i += len("false")
			default:
				return s.unexpected(i, "a value")
			}
		}

		// After a value.
		for {
			if c = at(src, i); c <= ' ' {
				i = s.space(i)
				c = at(src, i)
			}
			if c == ',' && closer != 0 {
				i++
				if closer == array {
					continue value
				}
				if at(src, i) != '"' {
					if i = s.space(i); at(src, i) != '"' {
						return s.unexpected(i, "a key in double quotes")
					}
				}
				i++
				continue value
			}
			if c != closer || closer == 0 {
				break
			}
			i++
			depth--
			f := &frames[depth]
			if closer == object {
				s.keys = s.keys[:f.keys]
				s.slots = s.slots[:f.slots]
			}
			closer, filter, lone = f.closer, f.filter, f.lone
		}
		switch {
		case closer == object:
			return s.unexpected(i, "',' or '}'")
		case closer == array:
			return s.unexpected(i, "',' or ']'")
		case i < len(src):
			return s.unexpected(i, "the end")
		}
		s.flush(i)
		return nil
	}
}

// deepen makes room for more open containers and returns s.frames.
func (s *scanner) deepen() []frame {
	more := make([]frame, min(2*len(s.frames), maxDepth))
	copy(more, s.frames)
	s.frames = more
	return more
}

func (s *scanner) fail(offset int, format string, args ...any) error {
	return &syntaxError{offset: offset, msg: fmt.Sprintf(format, args...)}
}

func (s *scanner) unexpected(i int, expected string) error {
	if i >= len(s.src) {
		return s.fail(len(s.src), "expected %s, found the end", expected)
	}
	if i == 0 && bytes.HasPrefix(s.src, []byte("\ufeff")) {
		return s.fail(0, "expected JSON, found a byte order mark; send it without")
	}
	return s.fail(i, "expected %s, found %q", expected, s.src[i])
}

// flush puts out src up to i.
func (s *scanner) flush(i int) {
	run, rest := s.src[s.from:i], s.out[s.used:]
	// Short runs are frequent in indented texts. Two words are copied faster
	// than memmove is called; what is too much is overwritten by the next run.
	if len(run) <= 16 && len(rest) >= 16 && s.from <= len(s.src)-16 {
		two := s.src[s.from : s.from+16]
		binary.LittleEndian.PutUint64(rest, binary.LittleEndian.Uint64(two))
		binary.LittleEndian.PutUint64(rest[8:], binary.LittleEndian.Uint64(two[8:]))
	} else {
		copy(rest, run)
	}
	s.used += len(run)
	s.from = i
}

// put puts out the size lowest bytes of text, the lowest first, instead of src
// from i to end, which is at least four bytes.
func (s *scanner) put(i, end int, text uint32, size int) {
	s.flush(i)
	binary.LittleEndian.PutUint32(s.out[s.used:], text)
	s.used += size
	s.from = end
}

// space leaves out the white space at i, if there is any, and returns where it
// ends.
func (s *scanner) space(i int) int {
	src, tail, start := s.src, s.tail, i
	for {
		switch at(src, i) {
		case ' ':
			// Indentation is many blanks in a row.
			blanks := word(src, tail, i) ^ ' '*ones
			if blanks == 0 {
				i += 8
				continue
			}
			i += first(blanks)
			if at(src, i) > ' ' {
				break
			}
			continue
		case '\n', '\r', '\t':
			i++
			continue
		}
		break
	}
	if i > start {
		s.flush(start)
		s.from = i
	}
	return i
}

// number reads the number that begins at start and returns where it ends.
func (s *scanner) number(start int) (int, error) {
	src, i := s.src, start
	if src[i] == '-' {
		i++
	}
	digits := i
	i = digitsEnd(src, s.tail, i)
	switch {
	case i == digits:
		return i, s.unexpected(i, "a digit")
	case src[digits] == '0' && i-digits > 1:
		return i, s.unexpected(digits+1, "no digit after a leading zero")
	}
	integer := src[digits:i]
	float := false
	if at(src, i) == '.' {
		float = true
		i++
		fraction := i
		if i = digitsEnd(src, s.tail, i); i == fraction {
			return i, s.unexpected(i, "a digit after the decimal point")
		}
	}
	if at(src, i)|0x20 == 'e' {
		float = true
		i++
		if c := at(src, i); c == '+' || c == '-' {
			i++
		}
		exponent := i
		if i = digitsEnd(src, s.tail, i); i == exponent {
			return i, s.unexpected(i, "a digit in the exponent")
		}
	}
	const largest = "9007199254740991" // 2^53-1
	switch {
	case float || digits > start && integer[0] == '0':
		s.hazard(FloatLiteral, start, start)
	case len(integer) > len(largest) || len(integer) == len(largest) && string(integer) > largest:
		s.hazard(BigInteger, start, start)
	}
	return i, nil
}
