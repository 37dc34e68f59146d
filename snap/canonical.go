package snap

import (
	"fmt"
)

// SyntaxError says where and why a text is not JSON.
type SyntaxError struct {
	Offset int // in bytes, from 0 to the length of the input
	msg    string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("%s at offset %d", e.msg, e.Offset) }

const (
	maxDepth   = 10000 // nesting; encoding/json has the same limit
	maxHazards = 16    // reported per body
	maxPath    = 256   // bytes of a hazard's path
	fewKeys    = 16    // keys of one object that need no hash table
	maxKept    = 1024  // open containers, keys and so on to keep memory for; larger texts get their own
)

// AppendCanonical appends the canonical form of the JSON text src to dst and
// returns the extended slice: the bytes that every plausible minifier leaves as
// they are. Insignificant white space is gone; "\/" and needless \uXXXX escapes
// have become the raw character; the order of keys, the literals of numbers and
// the meaning of everything are kept. The result is never longer than src.
//
// A part that cannot be made safe stays unchanged, and is reported as a [Hazard]: the
// first 16 in the order of the text, and of one kind in one string only the first.
// Keys are duplicates if they are equal once their escapes are resolved.
//
// src must be what [json.Valid] accepts; otherwise the error is a
// [*SyntaxError] and dst is returned as it was. dst and src must not overlap,
// and up to len(src) bytes of dst's spare capacity may be overwritten. It makes one
// pass over src without a tree, in time proportional to its length, whatever the
// content. It allocates only missing room in dst, and the hazards.
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
