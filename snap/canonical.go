package snap

import (
	"fmt"
)

// syntaxError says where and why a text is not JSON.
type syntaxError struct {
	offset int // in bytes, from 0 to the length of the input
	msg    string
}

func (e *syntaxError) Error() string { return fmt.Sprintf("%s at offset %d", e.msg, e.offset) }

const (
	maxDepth   = 10000 // nesting; encoding/json has the same limit
	maxHazards = 16    // reported per body
	maxPath    = 256   // bytes of a hazard's path
	fewKeys    = 16    // keys of one object that need no hash table
	maxKept    = 1024  // capacity, in elements, up to which buffers return to the pool
)

// AppendCanonical appends the canonical form of the JSON text src to dst and
// returns the extended slice: bytes that every plausible minifier leaves as they
// are. Insignificant white space is removed; "\/" and needless \uXXXX escapes
// become the raw character; the order of keys, the literals of numbers and the
// meaning stay. The result is never longer than src.
//
// A part that cannot be made safe stays unchanged and is reported as a [Hazard]: at most
// 16, in the order of the text, and at most one of a kind in one string. Keys are
// duplicates if they are equal after their escapes are resolved.
//
// src must be JSON that [encoding/json.Valid] accepts; otherwise the error says what is
// wrong at which offset, and dst is returned unchanged. dst and src must not overlap, and
// up to len(src) bytes of dst's spare capacity may be overwritten. The time is
// proportional to the length of src for any content. It allocates only missing room in
// dst, and the hazards.
func AppendCanonical(dst, src []byte) ([]byte, []Hazard, error) {
	s := scanners.Get().(*scanner)
	defer s.release()
	out, err := s.run(dst, src, false)
	if err != nil {
		return dst, nil, err
	}
	return out, locate(src, s.hazards), nil
}

// AppendMinified appends src without its insignificant white space to dst and returns the
// extended slice, as [encoding/json.Compact] does. Arguments and errors are those of
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
