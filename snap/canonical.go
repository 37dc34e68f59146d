package snap

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"math/bits"
	"slices"
	"strconv"
	"sync"
	"unicode/utf8"
)

// HazardKind is a kind of [Hazard].
type HazardKind uint8

// What different JSON encoders write differently, so that a receiver that
// re-encodes a body before hashing it finds another hash.
const (
	DuplicateKey     HazardKind = iota + 1 // readers keep the last one, or the first, or both
	FloatLiteral                           // 10000.00, 1e5, -0: rewritten as 10000.0, 100000, 0
	BigInteger                             // beyond 2^53-1: loses digits as a double
	LineSeparator                          // U+2028 or U+2029: escaped by some
	LoneSurrogate                          // \ud800 without its other half: not a character
	ControlCharacter                       // without a short escape: \u001f or \u001F
	InvalidUTF8                            // replaced by most readers
	IntegerKey                             // "0", "12": reordered by JavaScript
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
	Path   string // JSON path, such as $.additionalInfo.items[3].price
	Offset int    // in the input, in bytes
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
	linearKeys  = 16    // keys of one object that are compared one by one
)

// AppendCanonical appends the canonical form of the JSON text src to dst and
// returns the extended slice: the bytes that every plausible minifier leaves as
// they are. Insignificant white space is gone; "\/" and needless \uXXXX escapes
// have become the raw character; the order of keys, the literals of numbers and
// the meaning of everything are kept. The result is never longer than src.
//
// What cannot be made safe is kept as it stands and reported, the first 16 of
// them. Duplicate keys are found by what they mean, escapes resolved.
//
// src must be what [json.Valid] accepts; otherwise the error is a
// [*SyntaxError] and dst is returned as it was. dst and src must not overlap.
// It takes one pass over src, without building a tree, in time proportional to
// its length whatever it holds, and allocates only what dst lacks.
func AppendCanonical(dst, src []byte) ([]byte, []Hazard, error) {
	s := scanners.Get().(*scanner)
	defer s.release()
	s.reset(dst, src)
	if err := s.scan(); err != nil {
		return dst, nil, err
	}
	var hazards []Hazard
	if len(s.hazards) > 0 {
		hazards = slices.Clone(s.hazards)
	}
	return s.dst, hazards, nil
}

// AppendMinified appends src without its insignificant white space to dst, and
// changes nothing else: what [json.Compact] does. Errors are those of
// [AppendCanonical].
func AppendMinified(dst, src []byte) ([]byte, error) {
	s := scanners.Get().(*scanner)
	defer s.release()
	s.reset(dst, src)
	s.plain = true
	if err := s.scan(); err != nil {
		return dst, err
	}
	return s.dst, nil
}

// scanner is the state of one pass. Output lags behind: bytes that stay as they
// are, from start on, are copied in one piece when something is left out or
// replaced.
type scanner struct {
	src, dst []byte
	start    int
	plain    bool // only minify

	frames  []frame
	keys    []key  // of the open objects, at most linearKeys each
	meant   []byte // keys whose meaning is not the text in src or dst
	hazards []Hazard
	table   keyTable // keys of objects with more than linearKeys
	objects uint32   // opened so far, so that each has a number
}

// frame is an array or object that is open.
type frame struct {
	object         bool
	number         uint32 // of the object
	base           int    // of its keys in scanner.keys
	count          int    // of keys or elements so far
	keyAt, keyEnds int    // the current key's text in src, for paths
}

// key is an object's key: where its meaning stands, and a cheap mark that
// equal keys have in common.
type key struct {
	mark   uint64
	at, to int
	where  keySource
}

type keySource uint8

const (
	inSrc keySource = iota
	inDst
	inMeant
)

var scanners = sync.Pool{New: func() any { return new(scanner) }}

func (s *scanner) reset(dst, src []byte) {
	*s = scanner{
		src: src, dst: slices.Grow(dst, len(src)),
		frames: s.frames[:0], keys: s.keys[:0], meant: s.meant[:0], hazards: s.hazards[:0],
		table: s.table,
	}
	s.table.clear()
}

// release gives the scanner back, without the body, which may hold personal data.
func (s *scanner) release() {
	s.src, s.dst = nil, nil
	scanners.Put(s)
}

func (s *scanner) fail(at int, format string, args ...any) error {
	return &SyntaxError{Offset: at, msg: fmt.Sprintf(format, args...)}
}

func (s *scanner) unexpected(at int, expected string) error {
	if at >= len(s.src) {
		return s.fail(len(s.src), "expected %s, found the end", expected)
	}
	if at == 0 && bytes.HasPrefix(s.src, []byte("\ufeff")) {
		return s.fail(0, "expected JSON, found a byte order mark; send it without")
	}
	return s.fail(at, "expected %s, found %q", expected, s.src[at])
}

// flush copies the bytes from start up to at, and goes on from next.
func (s *scanner) flush(at, next int) {
	s.dst = append(s.dst, s.src[s.start:at]...)
	s.start = next
}

// space leaves out white space from i on and returns where it ends.
func (s *scanner) space(i int) int {
	from := i
	for i < len(s.src) {
		// Indentation is mostly eight blanks or more in a row.
		if i+8 <= len(s.src) && binary.LittleEndian.Uint64(s.src[i:]) == 0x2020202020202020 {
			i += 8
			continue
		}
		if c := s.src[i]; c != ' ' && c != '\n' && c != '\r' && c != '\t' {
			break
		}
		i++
	}
	if i > from {
		s.flush(from, i)
	}
	return i
}

// scan reads src as one JSON value. Its three places are before a value, before
// a key, and after a value; it jumps between them instead of calling itself, so
// that deep nesting costs no stack.
func (s *scanner) scan() error {
	src, i := s.src, 0
	var err error

value:
	if i >= len(src) || src[i] <= ' ' {
		i = s.space(i)
		if i >= len(src) {
			return s.unexpected(i, "a value")
		}
	}
	switch c := src[i]; {
	case c == '"':
		if i, _, err = s.text(i + 1); err != nil {
			return err
		}
	case c == '{':
		if err = s.open(i, true); err != nil {
			return err
		}
		if i = s.space(i + 1); i < len(src) && src[i] == '}' {
			i++
			s.close()
			break
		}
		goto name
	case c == '[':
		if err = s.open(i, false); err != nil {
			return err
		}
		if i = s.space(i + 1); i < len(src) && src[i] == ']' {
			i++
			s.close()
			break
		}
		goto value
	case c == '-' || '0' <= c && c <= '9':
		if i, err = s.number(i); err != nil {
			return err
		}
	default:
		if i, err = s.literal(i); err != nil {
			return err
		}
	}

	for { // after a value
		if i >= len(src) || src[i] <= ' ' {
			i = s.space(i)
		}
		if len(s.frames) == 0 {
			if i < len(src) {
				return s.unexpected(i, "the end")
			}
			s.flush(i, i)
			return nil
		}
		f := &s.frames[len(s.frames)-1]
		if i >= len(src) {
			return s.unexpected(i, f.next())
		}
		switch c := src[i]; {
		case c == ',':
			i++
			if f.object {
				goto name
			}
			f.count++
			goto value
		case c == '}' && f.object || c == ']' && !f.object:
			i++
			s.close()
		default:
			return s.unexpected(i, f.next())
		}
	}

name:
	if i >= len(src) || src[i] <= ' ' {
		i = s.space(i)
	}
	if i >= len(src) || src[i] != '"' {
		return s.unexpected(i, "a key in double quotes")
	}
	from := i + 1
	out := len(s.dst) + from - s.start // where the key stands in dst, once copied
	var kind textKind
	if i, kind, err = s.text(from); err != nil {
		return err
	}
	if !s.plain {
		s.name(from, i-1, out, kind)
	}
	if i >= len(src) || src[i] != ':' {
		if i = s.space(i); i >= len(src) || src[i] != ':' {
			return s.unexpected(i, "':'")
		}
	}
	i++
	goto value
}

func (f *frame) next() string {
	if f.object {
		return "',' or '}'"
	}
	return "',' or ']'"
}

func (s *scanner) open(at int, object bool) error {
	if len(s.frames) == deepest {
		return s.fail(at, "expected at most %d levels of nesting, found more", deepest)
	}
	if object {
		s.objects++
	}
	s.frames = append(s.frames, frame{object: object, number: s.objects, base: len(s.keys)})
	return nil
}

func (s *scanner) close() {
	last := len(s.frames) - 1
	s.keys = s.keys[:s.frames[last].base]
	s.frames = s.frames[:last]
}

func (s *scanner) literal(i int) (int, error) {
	for _, word := range [...]string{"true", "false", "null"} {
		if rest := s.src[i:]; len(rest) >= len(word) && string(rest[:len(word)]) == word {
			return i + len(word), nil
		}
	}
	return i, s.unexpected(i, "a value")
}

// number reads a number; from is its first byte.
func (s *scanner) number(from int) (int, error) {
	src, i := s.src, from
	if src[i] == '-' {
		i++
	}
	first := i
	for i < len(src) && isDigit(src[i]) {
		i++
	}
	switch {
	case i == first:
		return i, s.unexpected(i, "a digit")
	case src[first] == '0' && i-first > 1:
		return i, s.unexpected(first+1, "no digit after a leading zero")
	}
	float := false
	digits := src[first:i]
	if i < len(src) && src[i] == '.' {
		float = true
		i++
		fraction := i
		for i < len(src) && isDigit(src[i]) {
			i++
		}
		if i == fraction {
			return i, s.unexpected(i, "a digit after the decimal point")
		}
	}
	if i < len(src) && src[i]|0x20 == 'e' {
		float = true
		i++
		if i < len(src) && (src[i] == '+' || src[i] == '-') {
			i++
		}
		exponent := i
		for i < len(src) && isDigit(src[i]) {
			i++
		}
		if i == exponent {
			return i, s.unexpected(i, "a digit in the exponent")
		}
	}
	const largest = "9007199254740991" // 2^53-1
	switch {
	case float || first > from && digits[0] == '0':
		s.hazard(FloatLiteral, from)
	case len(digits) > len(largest) || len(digits) == len(largest) && string(digits) > largest:
		s.hazard(BigInteger, from)
	}
	return i, nil
}

// textKind tells how a string's meaning relates to the bytes.
type textKind uint8

const (
	textAsIs    textKind = iota // the bytes in src are the meaning
	textUnquote                 // the bytes put out may be, but for the short escapes; src is not
	textOdd                     // neither: has something that was reported
)

// care returns the first index from i on of a byte in a string that is not
// plain ASCII: a quote, a backslash, a control character, or part of a longer
// character. It looks at eight bytes at a time: in each expression below the
// high bit of a byte of the word is set if that byte is of the kind looked for.
// Borrows can set the bit of a later byte wrongly, never that of the first.
func care(src []byte, i int) int {
	const (
		ones  = 0x0101010101010101
		highs = 0x8080808080808080
	)
	for ; i+8 <= len(src); i += 8 {
		w := binary.LittleEndian.Uint64(src[i:])
		quote := w ^ ('"' * ones)
		slash := w ^ ('\\' * ones)
		found := (w | (w - 0x20*ones) | (quote - ones) | (slash - ones)) & highs
		if found != 0 {
			// The cheap test has false positives for bytes from 0x80 on only, and
			// those are looked for anyway.
			return i + bits.TrailingZeros64(found)/8
		}
	}
	for i < len(src) && src[i] >= ' ' && src[i] < utf8.RuneSelf && src[i] != '"' && src[i] != '\\' {
		i++
	}
	return i
}

// text reads a string from the byte after its quote on, and returns the index
// after the closing one.
func (s *scanner) text(i int) (int, textKind, error) {
	if i = care(s.src, i); i < len(s.src) && s.src[i] == '"' {
		return i + 1, textAsIs, nil
	}
	return s.oddText(i)
}

// oddText goes on with a string from where care is needed.
func (s *scanner) oddText(i int) (int, textKind, error) {
	kind := textAsIs
	for {
		i = care(s.src, i)
		if i >= len(s.src) {
			return i, kind, s.unexpected(i, "the end of a string")
		}
		switch c := s.src[i]; {
		case c == '"':
			return i + 1, kind, nil
		case c == '\\':
			next, k, err := s.escape(i)
			if err != nil {
				return i, kind, err
			}
			i, kind = next, max(kind, k)
		case c < ' ':
			return i, kind, s.unexpected(i, "no raw control character in a string")
		default:
			r, size := utf8.DecodeRune(s.src[i:])
			switch {
			case r == utf8.RuneError && size == 1:
				s.hazard(InvalidUTF8, i)
				kind = textOdd
			case r == '\u2028' || r == '\u2029':
				s.hazard(LineSeparator, i)
				kind = textOdd
			}
			i += size
		}
	}
}

// shortEscapes are the characters after a backslash that stay as they are.
const shortEscapes = `"\bfnrt`

// escape reads the escape at i and puts out its canonical form.
func (s *scanner) escape(i int) (int, textKind, error) {
	if i+1 >= len(s.src) {
		return i, 0, s.unexpected(i+1, "the rest of an escape")
	}
	switch c := s.src[i+1]; {
	case bytes.IndexByte([]byte(shortEscapes), c) >= 0:
		return i + 2, textUnquote, nil
	case c == '/':
		if !s.plain {
			s.flush(i, i+1)
		}
		return i + 2, textUnquote, nil
	case c != 'u':
		return i, 0, s.unexpected(i+1, `one of "\/bfnrtu after a backslash`)
	}
	r, err := s.hex(i + 2)
	if err != nil || s.plain {
		return i + 6, textUnquote, err
	}
	end := i + 6
	switch {
	case r == '"' || r == '\\':
		s.flush(i, end)
		s.dst = append(s.dst, '\\', byte(r))
	case r < ' ':
		if short := bytes.IndexByte([]byte("\b\f\n\r\t"), byte(r)); short >= 0 { //nolint:gosec // r is below 0x20
			s.flush(i, end)
			s.dst = append(s.dst, '\\', "bfnrt"[short])
			break
		}
		s.hazard(ControlCharacter, i)
		s.flush(i, end)
		const hex = "0123456789abcdef"
		s.dst = append(s.dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		return end, textOdd, nil
	case r == '\u2028' || r == '\u2029':
		s.hazard(LineSeparator, i)
		return end, textOdd, nil
	case 0xd800 <= r && r < 0xe000:
		low, isPair := s.lowSurrogate(end)
		if r >= 0xdc00 || !isPair {
			s.hazard(LoneSurrogate, i)
			return end, textOdd, nil
		}
		r = (r-0xd800)<<10 + (low - 0xdc00) + 0x10000
		end += 6
		fallthrough
	default:
		s.flush(i, end)
		s.dst = utf8.AppendRune(s.dst, r)
	}
	return end, textUnquote, nil
}

// lowSurrogate reads the escape of a low surrogate at i, if there is one.
func (s *scanner) lowSurrogate(i int) (rune, bool) {
	if i+6 > len(s.src) || s.src[i] != '\\' || s.src[i+1] != 'u' {
		return 0, false
	}
	r, err := s.hex(i + 2)
	return r, err == nil && 0xdc00 <= r && r < 0xe000
}

// hex reads four hexadecimal digits.
func (s *scanner) hex(i int) (rune, error) {
	var r rune
	for j := i; j < i+4; j++ {
		if j >= len(s.src) {
			return 0, s.unexpected(j, "four hexadecimal digits")
		}
		c := s.src[j]
		switch {
		case isDigit(c):
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, s.unexpected(j, "four hexadecimal digits")
		}
		r = r<<4 | rune(c)
	}
	return r, nil
}

// name takes note of a key, src[from:to], whose output begins at dst[out].
func (s *scanner) name(from, to, out int, kind textKind) {
	f := &s.frames[len(s.frames)-1]
	f.keyAt, f.keyEnds = from, to
	k := key{at: from, to: to}
	switch kind {
	case textUnquote:
		s.flush(to, to)
		k.at, k.to, k.where = out, len(s.dst), inDst
	case textOdd:
		var meaning string
		if json.Unmarshal(s.src[from-1:to+1], &meaning) == nil {
			k.at, k.where = len(s.meant), inMeant
			s.meant = append(s.meant, meaning...)
			k.to = len(s.meant)
		}
	}
	text := s.bytes(k)
	if kind == textAsIs && len(text) < 8 && from+8 <= len(s.src) {
		// The same number as mark's, by one load: the bytes behind the key are cut off.
		w := binary.LittleEndian.Uint64(s.src[from:])
		k.mark = w&(1<<(8*len(text))-1) | uint64(len(text))<<56
	} else {
		k.mark = mark(text)
	}
	if len(text) > 0 && isDigit(text[0]) && indexLike(text) {
		s.hazard(IntegerKey, from-1)
	}
	if s.repeated(f, k) {
		s.hazard(DuplicateKey, from-1)
	}
	f.count++
}

func (s *scanner) bytes(k key) []byte {
	switch k.where {
	case inDst:
		return s.dst[k.at:k.to]
	case inMeant:
		return s.meant[k.at:k.to]
	}
	return s.src[k.at:k.to]
}

// mark returns a number that equal texts have in common and different ones
// seldom: for texts of up to 7 bytes it is the text itself.
func mark(text []byte) uint64 {
	n := len(text)
	if n >= 8 {
		return binary.LittleEndian.Uint64(text) ^
			bits.RotateLeft64(binary.LittleEndian.Uint64(text[n-8:]), 21) ^ uint64(n)<<56
	}
	var w uint64
	for i, c := range text {
		w |= uint64(c) << (8 * i)
	}
	return w | uint64(n)<<56
}

// repeated reports whether f has had the key k, and adds it if not. The first
// keys are compared one by one; an object with more has all of them in a hash
// table with a random seed, so that no choice of keys makes it slow.
func (s *scanner) repeated(f *frame, k key) bool {
	if f.count < linearKeys {
		earlier := s.keys[f.base:]
		for i := range earlier {
			if earlier[i].mark == k.mark && bytes.Equal(s.bytes(earlier[i]), s.bytes(k)) {
				return true
			}
		}
		s.keys = append(s.keys, k)
		return false
	}
	if f.count == linearKeys {
		for _, earlier := range s.keys[f.base:] {
			s.table.add(s, f.number, earlier)
		}
	}
	return !s.table.add(s, f.number, k)
}

// keyTable is an open hash table of the keys of large objects. Keys of objects
// that have been closed stay; the object's number keeps them apart.
type keyTable struct {
	slots []tableSlot // a power of two, at most half of them in use
	used  int
}

type tableSlot struct {
	hash   uint64
	object uint32 // 0: the slot is free
	key    key
}

var tableSeed = maphash.MakeSeed()

const (
	tableSmallest = 128
	tableKept     = 1 << 12 // slots kept for the next body; larger ones are left to the garbage collector
)

func (t *keyTable) clear() {
	switch {
	case len(t.slots) > tableKept:
		t.slots = nil
	case t.used > 0:
		clear(t.slots)
	}
	t.used = 0
}

// add adds k to the keys of object and reports whether it is new.
func (t *keyTable) add(s *scanner, object uint32, k key) bool {
	if 2*(t.used+1) > len(t.slots) {
		t.grow()
	}
	text := s.bytes(k)
	hash := maphash.Bytes(tableSeed, text) + uint64(object)*0x9e3779b97f4a7c15
	for i := hash; ; i++ {
		slot := t.slot(i)
		if slot.object == 0 {
			*slot = tableSlot{hash, object, k}
			t.used++
			return true
		}
		if slot.hash == hash && slot.object == object && bytes.Equal(s.bytes(slot.key), text) {
			return false
		}
	}
}

func (t *keyTable) grow() {
	old := t.slots
	t.slots = make([]tableSlot, max(2*len(old), tableSmallest))
	for _, slot := range old {
		if slot.object == 0 {
			continue
		}
		i := slot.hash
		for t.slot(i).object != 0 {
			i++
		}
		*t.slot(i) = slot
	}
}

// slot returns the slot that i falls on.
func (t *keyTable) slot(i uint64) *tableSlot {
	return &t.slots[i&uint64(len(t.slots)-1)] //nolint:gosec // there are slots
}

// indexLike reports whether JavaScript would take a key for an array index: 0
// to 2^32-2 without leading zeros.
func indexLike(text []byte) bool {
	if len(text) == 0 || len(text) > 10 || !isDigit(text[0]) || text[0] == '0' && len(text) > 1 {
		return false
	}
	n, err := strconv.ParseUint(string(text), 10, 64)
	return err == nil && n < 1<<32-1
}

// hazard reports what stands at offset, with the path that is open.
func (s *scanner) hazard(kind HazardKind, offset int) {
	if s.plain || len(s.hazards) == hazardsMost {
		return
	}
	path := []byte{'$'}
	for _, f := range s.frames {
		if len(path) > pathLongest {
			path = append(path[:pathLongest], "…"...)
			break
		}
		switch {
		case !f.object:
			path = append(path, '[')
			path = strconv.AppendInt(path, int64(f.count), 10)
			path = append(path, ']')
		case f.keyEnds > f.keyAt:
			path = append(path, '.')
			path = append(path, s.src[f.keyAt:min(f.keyEnds, f.keyAt+pathLongest)]...)
		}
	}
	s.hazards = append(s.hazards, Hazard{Kind: kind, Path: string(path), Offset: offset})
}
