package snap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"unicode/utf16"
	"unicode/utf8"
)

// HazardKind is a kind of [Hazard].
type HazardKind uint8

// What different JSON encoders write differently, so that a receiver that
// re-encodes a body before hashing it finds another hash.
const (
	DuplicateKey     HazardKind = iota + 1 // readers keep the last one, or the first, or both
	FloatLiteral                           // any with '.', 'e' or 'E', and -0: 10000.00 is rewritten as 10000.0 or 10000
	BigInteger                             // beyond 2^53-1 either way: loses digits as a double
	LineSeparator                          // U+2028 or U+2029: escaped by some
	LoneSurrogate                          // \ud800 without its other half: not a character
	ControlCharacter                       // one without a short escape: written \u001f or \u001F
	InvalidUTF8                            // replaced by most readers
	IntegerKey                             // "0", "12": reordered by JavaScript, made a list by PHP
)

var hazardNames = [...]string{
	DuplicateKey:     "duplicate key",
	FloatLiteral:     "number that is not a plain integer",
	BigInteger:       "integer beyond 2^53-1",
	LineSeparator:    "U+2028 or U+2029",
	LoneSurrogate:    "lone surrogate",
	ControlCharacter: "control character",
	InvalidUTF8:      "invalid UTF-8",
	IntegerKey:       "key that looks like an array index",
}

// String returns what k is, in words.
func (k HazardKind) String() string {
	if int(k) < len(hazardNames) && hazardNames[k] != "" {
		return hazardNames[k]
	}
	return "unknown hazard"
}

// Hazard is a part of a body that cannot be made safe without changing what
// it says.
type Hazard struct {
	Kind   HazardKind
	Path   string // JSON path, such as $.additionalInfo.items[3].price or $["odd key"]; long ones are cut and end with "…"
	Offset int    // in the input, in bytes; of a key's opening quote for duplicate and integer keys
}

// SyntaxError says where and why a text is not JSON.
type SyntaxError struct {
	Offset int // in bytes, from 0 to the length of the input
	msg    string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("%s at offset %d", e.msg, e.Offset) }

const (
	deepest     = 10000 // nesting; encoding/json has the same limit
	hazardsMost = 16    // reported per body
	pathLongest = 256   // bytes of a hazard's path
	fewKeys     = 16    // keys of one object that need no hash table
	keptMost    = 1024  // open containers, keys and so on to keep memory for; larger texts get their own
)

// AppendCanonical appends the canonical form of the JSON text src to dst and
// returns the extended slice: the bytes that every plausible minifier leaves as
// they are. Insignificant white space is gone; "\/" and needless \uXXXX escapes
// have become the raw character; the order of keys, the literals of numbers and
// the meaning of everything are kept. The result is never longer than src.
//
// What cannot be made safe is kept as it stands and reported in the order of
// the text: the first 16 of them, and of one kind in one string only the first.
// Keys are duplicates if they mean the same, escapes resolved.
//
// src must be what [json.Valid] accepts; otherwise the error is a
// [*SyntaxError] and dst is returned as it was. dst and src must not overlap,
// and up to len(src) bytes of dst's spare capacity may be overwritten. It takes
// one pass over src, without building a tree, in time proportional to its
// length whatever it holds, and allocates only what dst lacks and the hazards.
func AppendCanonical(dst, src []byte) ([]byte, []Hazard, error) {
	s := scanners.Get().(*scanner)
	defer s.release()
	out, err := s.run(dst, src, false)
	if err != nil {
		return dst, nil, err
	}
	return out, locate(src, s.hazards), nil
}

// AppendMinified appends src without its insignificant white space to dst, and
// changes nothing else: what [json.Compact] does. Errors are those of
// [AppendCanonical].
func AppendMinified(dst, src []byte) ([]byte, error) {
	s := scanners.Get().(*scanner)
	defer s.release()
	out, err := s.run(dst, src, true)
	if err != nil {
		return dst, err
	}
	return out, nil
}

// scanner is the state of one pass over a text. How it is made fast:
//
//   - Eight bytes at a time. Strings and numbers are searched for their end by
//     arithmetic on 64-bit words; see [stringEnds] and [nonDigits].
//   - Nothing is copied until something is left out. What is put out is src in
//     runs as long as can be; of a text that is canonical already, one.
//   - No end of input. Past the end, [at] and [word] see zero bytes, which are
//     not allowed anywhere in JSON: they take the path of any other wrong byte,
//     and only there is the difference made.
//   - Keys are hashed by the word, and a filter of 64 bits per object tells
//     mostly at once that a key is new. The hash is off the way: while it is
//     being computed, a processor goes on with the value.
//   - The calls in the loop are for what is rare in compact JSON.
//   - Memory is kept for the next text.
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
	filter uint64 // of the container around it, as is closer
	closer byte
}

// key is a key of an open object. Equal keys have equal hashes, and nearly
// always only they.
type key struct {
	hash uint64
	at   int // offset of its first byte, after the quote
}

// hazard is a [Hazard] without its path.
type hazard struct {
	kind   HazardKind
	offset int
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

// release returns s to the pool, without the caller's memory, unless an unusual
// text has made it large.
func (s *scanner) release() {
	s.src, s.out = nil, nil
	if max(cap(s.frames), cap(s.keys), cap(s.slots), cap(s.texts)) > keptMost {
		return
	}
	scanners.Put(s)
}

// at returns the byte at src[i], and 0 past the end.
func at(src []byte, i int) byte {
	if uint(i) < uint(len(src)) {
		return src[i]
	}
	return 0
}

// word returns the eight bytes from src[i] on, the first one lowest, with zero
// bytes past the end. tail is what [tailOf] gives for src.
func word(src []byte, tail uint64, i int) uint64 {
	if i >= 0 && i <= len(src)-8 {
		return binary.LittleEndian.Uint64(src[i : i+8])
	}
	return tail >> (8 * uint(8-len(src)+i))
}

// peek returns the four bytes from src[i] on, the first one lowest, or 0 if
// there are fewer.
func peek(src []byte, i int) uint32 {
	if i >= 0 && i <= len(src)-4 {
		return binary.LittleEndian.Uint32(src[i : i+4])
	}
	return 0
}

// tailOf returns the last eight bytes of src, the last one highest.
func tailOf(src []byte) (tail uint64) {
	if len(src) >= 8 {
		return binary.LittleEndian.Uint64(src[len(src)-8:])
	}
	for _, c := range src {
		tail = tail>>8 | uint64(c)<<56
	}
	return tail
}

// Words as eight bytes. To find bytes of a kind, an expression sets the high
// bit of each byte that is one. A borrow or carry out of such a byte can spoil
// the bytes above it, never those below: the lowest bit found is always right,
// and it is the only one that is used.
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080

	wordTrue  = 't' | 'r'<<8 | 'u'<<16 | 'e'<<24
	wordNull  = 'n' | 'u'<<8 | 'l'<<16 | 'l'<<24
	wordFalse = 'f' | 'a'<<8 | 'l'<<16 | 's'<<24 | 'e'<<32
)

// stringEnds finds the bytes of w that stop a simple string: the quote, the
// backslash, control characters, and what is not ASCII. It is what the search
// for the end of a string waits for, so every operation counts:
//
//   - c^2 - 0x21 is negative for control characters, which stay such under ^2,
//     and for the quote, which becomes a blank; two tests for the price of one.
//   - c^'\\' - 1 is negative for the backslash, and has the high bit for what is
//     not ASCII but for 0xdc, for which the first expression has it.
func stringEnds(w uint64) uint64 {
	return (((w ^ 2*ones) - 0x21*ones) | ((w ^ '\\'*ones) - ones)) & highs
}

// nonDigits finds the bytes of w that are not digits. '0' to '9' become 0 to 9
// under ^'0', and only they stay below 0x80 when 0x76 is added.
func nonDigits(w uint64) uint64 {
	d := w ^ '0'*ones
	return (d | (d + 0x76*ones)) & highs
}

// first returns which byte of a word the lowest bit that was found stands for.
func first(found uint64) int { return bits.TrailingZeros64(found) >> 3 }

// before returns the bytes of w below the lowest bit that was found.
func before(w, found uint64) uint64 { return w & ((found ^ (found - 1)) >> 8) }

// seeds make it impossible to choose keys that have the same hash.
var seeds = [2]uint64{rand.Uint64(), rand.Uint64()} //nolint:gosec // seeded by the system, and only against keys made to collide

// mix takes eight more bytes of a key into its hash, which begins as seeds[0]:
// the halves of a product, both of which depend on all bits of hash and w.
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

// scan reads src as one JSON value, with what is around it. It is a loop over
// values, each with the key before it and the brackets after it, and keeps open
// objects and arrays in s.frames: deep nesting costs no stack.
//
// What compact JSON is mostly made of is tried first; what is not that comes to
// the complete tests after it.
func (s *scanner) scan(src []byte) (err error) {
	const object, array = '}', ']'
	var (
		i      int
		c      byte
		closer byte   // of the innermost open container: object, array, or 0 outside of all
		filter uint64 // of its keys: a bit of 64 for each, or all if they are in a hash table
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
				if isDigit(src[start]) {
					s.checkIndex(start)
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
				if depth == deepest {
					return s.fail(i, "expected at most %d levels of nesting, found more", deepest)
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
				frames[depth] = frame{filter: filter, keys: len(s.keys), slots: len(s.slots), closer: closer}
				depth++
				if closer, filter = c+2, 0; closer == object {
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
			closer, filter = f.closer, f.filter
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
		if len(text) > 0 && isDigit(text[0]) && s.src[start] == '\\' {
			s.checkIndex(start)
		}
	}
	return end, keyHash(text), nil
}

// deepen makes room for more open containers and returns s.frames.
func (s *scanner) deepen() []frame {
	more := make([]frame, min(2*len(s.frames), deepest))
	copy(more, s.frames)
	s.frames = more
	return more
}

func (s *scanner) fail(offset int, format string, args ...any) error {
	return &SyntaxError{Offset: offset, msg: fmt.Sprintf(format, args...)}
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

// simpleEnd returns the offset of the first byte from i on that stops a simple
// string.
func simpleEnd(src []byte, tail uint64, i int) int {
	for {
		if found := stringEnds(word(src, tail, i)); found != 0 {
			return i + first(found)
		}
		i += 8
	}
}

// digitsEnd returns the offset of the first byte from i on that is no digit.
func digitsEnd(src []byte, tail uint64, i int) int {
	for {
		if found := nonDigits(word(src, tail, i)); found != 0 {
			return i + first(found)
		}
		i += 8
	}
}

// text reads the rest of a string, from i on, that is not simple: it has an
// escape, a character that is not ASCII, or no end. start is where it begins,
// after the quote. It returns the offset of the closing quote, and whether the
// bytes are the meaning: whether there are no escapes and no invalid UTF-8.
func (s *scanner) text(i, start int) (end int, asIs bool, err error) {
	src, tail := s.src, s.tail
	asIs = true
	for {
		i = simpleEnd(src, tail, i)
		switch c := at(src, i); {
		case c == '"':
			return i, asIs, nil
		case c == '\\':
			asIs = false
			if i, err = s.escape(i, start); err != nil {
				return i, asIs, err
			}
		case c < ' ':
			if i >= len(src) {
				return i, asIs, s.unexpected(i, "the end of a string")
			}
			return i, asIs, s.unexpected(i, "no raw control character in a string")
		case s.bare:
			i++
		default:
			for c >= utf8.RuneSelf {
				r, size := decodeRune(src[i:])
				switch {
				case size == 1:
					asIs = false
					s.hazard(InvalidUTF8, start, i)
				case r|1 == '\u2029':
					s.hazard(LineSeparator, start, i)
				}
				i += size
				c = at(src, i)
			}
		}
	}
}

// decodeRune is [utf8.DecodeRune] for a character that is not ASCII, and
// quicker for those of two and three bytes.
func decodeRune(text []byte) (rune, int) {
	if len(text) >= 4 {
		switch w := binary.LittleEndian.Uint32(text); {
		case w&0xc0e0 == 0x80c0: // 110xxxxx 10xxxxxx
			if r := rune(w&0x1f<<6 | w>>8&0x3f); r >= 0x80 {
				return r, 2
			}
		case w&0xc0c0f0 == 0x8080e0: // 1110xxxx 10xxxxxx 10xxxxxx
			if r := rune(w&0xf<<12 | w>>8&0x3f<<6 | w>>16&0x3f); r >= 0x800 && !utf16.IsSurrogate(r) {
				return r, 3
			}
		}
	}
	return utf8.DecodeRune(text)
}

// meant is what a short escape means, by the byte after the backslash.
var meant = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// short is the short escape of a control character, if it has one.
var short = [' ']byte{'\b': 'b', '\f': 'f', '\n': 'n', '\r': 'r', '\t': 't'}

// escape reads the escape at i, puts out its canonical form and returns where
// it ends. start is where the string begins.
func (s *scanner) escape(i, start int) (int, error) {
	src := s.src
	switch c := at(src, i+1); {
	case c == '/' && !s.bare:
		s.flush(i)
		s.from++ // without the backslash
		return i + 2, nil
	case meant[c] != 0:
		return i + 2, nil
	case c != 'u':
		return i, s.unexpected(i+1, `one of "\/bfnrtu after a backslash`)
	}
	r := unhex(src, i+2)
	if r < 0 {
		i += 2
		for digit[at(src, i)] >= 0 {
			i++
		}
		return i, s.unexpected(i, "four hexadecimal digits")
	}
	end := i + 6
	switch {
	case s.bare:
	case r < ' ' && short[r] != 0:
		s.put(i, end, '\\'|uint32(short[r])<<8, 2)
	case r < ' ':
		s.hazard(ControlCharacter, start, i)
		const hex = "0123456789abcdef"
		s.put(i+2, end, '0'|'0'<<8|uint32(hex[r>>4])<<16|uint32(hex[r&15])<<24, 4)
	case r == '"' || r == '\\':
		s.put(i, end, '\\'|uint32(r)<<8, 2)
	case r < 0x80:
		s.put(i, end, uint32(r), 1)
	case r < 0x800:
		s.put(i, end, 0x80c0|uint32(r>>6|r&0x3f<<8), 2)
	case r|1 == '\u2029':
		s.hazard(LineSeparator, start, i)
	case utf16.IsSurrogate(r):
		both, next := pair(src, r, end)
		if next == end {
			s.hazard(LoneSurrogate, start, i)
			return end, nil
		}
		var raw [utf8.UTFMax]byte
		utf8.EncodeRune(raw[:], both)
		s.put(i, next, binary.LittleEndian.Uint32(raw[:]), len(raw))
		return next, nil
	default:
		s.put(i, end, 0x8080e0|uint32(r>>12|r>>6&0x3f<<8|r&0x3f<<16), 3)
	}
	return end, nil
}

// digit has the value of each hexadecimal digit, and -1 for other bytes.
var digit = func() (values [256]int8) {
	for c := range values {
		switch {
		case '0' <= c && c <= '9':
			values[c] = int8(c - '0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			values[c] = int8(c | 0x20 - 'a' + 10)
		default:
			values[c] = -1
		}
	}
	return values
}()

// unhex reads four hexadecimal digits at i. If there are fewer, the result is
// negative.
func unhex(src []byte, i int) rune {
	if i < 0 || i > len(src)-4 {
		return -1
	}
	d := src[i : i+4]
	return rune(digit[d[0]])<<12 | rune(digit[d[1]])<<8 | rune(digit[d[2]])<<4 | rune(digit[d[3]])
}

// pair returns the character of the surrogate r and the one whose escape is at
// i, and where that ends. If they are not a pair, it is [utf8.RuneError] and i.
func pair(src []byte, r rune, i int) (rune, int) {
	if at(src, i) == '\\' && at(src, i+1) == 'u' {
		if both := utf16.DecodeRune(r, unhex(src, i+2)); both != utf8.RuneError {
			return both, i + 6
		}
	}
	return utf8.RuneError, i
}

// appendMeaning appends what the inside of a valid string means to dst, as
// encoding/json has it: what is not a character becomes U+FFFD.
func appendMeaning(dst, text []byte) []byte {
	tail := tailOf(text) // of all the rests of text, too
	for {
		run := simpleEnd(text, tail, 0)
		dst = append(dst, text[:run]...)
		if text = text[run:]; len(text) == 0 {
			return dst
		}
		size := 2
		switch c := text[0]; {
		case c != '\\':
			var r rune
			r, size = decodeRune(text)
			dst = utf8.AppendRune(dst, r)
		case text[1] == 'u':
			r := unhex(text, 2)
			size = 6
			if utf16.IsSurrogate(r) {
				r, size = pair(text, r, size)
			}
			dst = utf8.AppendRune(dst, r)
		default:
			dst = append(dst, meant[text[1]])
		}
		text = text[size:]
	}
}

// meaning returns what the key that begins at src[start] means. The result is
// valid until the next call with the same scratch.
func meaning(scratch, src []byte, start int) []byte {
	end := start
	for src[end] != '"' {
		if src[end] == '\\' {
			end++
		}
		end++
	}
	return appendMeaning(scratch, src[start:end])
}

// addKey adds a key whose bit in the filter is taken to the innermost open
// object, or reports it if it is a duplicate. It returns the new filter. Keys
// are compared one by one while they are few, and put into a hash table when
// they are many.
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

// checkIndex reports the key that begins at start if JavaScript takes it for an
// array index: 0 to 2^32-2 without leading zeros.
func (s *scanner) checkIndex(start int) {
	s.texts = meaning(s.texts[:0], s.src, start)
	text := s.texts
	if len(text) == 0 || len(text) > 10 || !isDigit(text[0]) || text[0] == '0' && len(text) > 1 {
		return
	}
	if n, err := strconv.ParseUint(string(text), 10, 64); err == nil && n < 1<<32-1 {
		s.hazard(IntegerKey, start-1, start-1)
	}
}

// hazard takes note of a hazard at offset, unless it is one too many or there
// has been one of its kind since start, where its string or number begins.
func (s *scanner) hazard(kind HazardKind, start, offset int) {
	if s.bare || len(s.hazards) == hazardsMost {
		return
	}
	for i := len(s.hazards) - 1; i >= 0 && s.hazards[i].offset >= start; i-- {
		if s.hazards[i].kind == kind {
			return
		}
	}
	s.hazards = append(s.hazards, hazard{kind, offset})
}

// locate returns found in the order of the text with the paths, which it gets
// by going through src, a valid text, a second time: bodies that have hazards
// pay for paths, others do not.
func locate(src []byte, found []hazard) []Hazard {
	if len(found) == 0 {
		return nil
	}
	slices.SortStableFunc(found, func(a, b hazard) int { return a.offset - b.offset })
	var (
		hazards = make([]Hazard, 0, len(found))
		path    = []place{{}} // what encloses src[i], from the outside in
	)
	for i := 0; i < len(src); i++ {
		here := &path[len(path)-1]
		start := i
		switch src[i] {
		case '{':
			path = append(path, place{object: true, keyNext: true})
		case '[':
			path = append(path, place{array: true})
		case '}', ']':
			path = path[:len(path)-1]
		case ',':
			here.index++
			here.keyNext = here.object
		case ':':
			here.keyNext = false
		case '"':
			for i++; src[i] != '"'; i++ {
				if src[i] == '\\' {
					i++
				}
			}
			if here.keyNext {
				here.key = src[start+1 : i]
			}
		}
		// A hazard stands at a token's first byte or inside of a string.
		for found[0].offset <= i {
			hazards = append(hazards, Hazard{found[0].kind, pathOf(path), found[0].offset})
			if found = found[1:]; len(found) == 0 {
				return hazards
			}
		}
	}
	return hazards
}

// place is a place in an object or array, or the place of the whole text.
type place struct {
	object, array bool
	keyNext       bool   // whether the next string is a key
	key           []byte // as it stands in the text
	index         int
}

// pathOf returns the JSON path of a place, with the names of keys in it, so
// that it can be followed in any text of the same meaning.
func pathOf(places []place) string {
	path := []byte{'$'}
	for _, p := range places {
		switch {
		case p.array:
			path = append(path, '[')
			path = strconv.AppendInt(path, int64(p.index), 10)
			path = append(path, ']')
		case p.object:
			name := appendMeaning(nil, p.key)
			name = name[:min(len(name), pathLongest)]
			if isName(name) {
				path = append(path, '.')
				path = append(path, name...)
			} else {
				path = append(path, '[')
				path = strconv.AppendQuote(path, string(name))
				path = append(path, ']')
			}
		}
		if len(path) > pathLongest {
			return string(bytes.ToValidUTF8(path[:pathLongest], nil)) + "…"
		}
	}
	return string(path)
}

// isName reports whether a key can stand after a dot in a path.
func isName(key []byte) bool {
	for i, c := range key {
		if c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (i == 0 || !isDigit(c)) {
			return false
		}
	}
	return len(key) > 0
}
