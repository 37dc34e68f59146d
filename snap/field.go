package snap

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// StringField returns the member called name of the JSON object body, if it is
// there and a string without escapes. body must be what [AppendCanonical] has
// put out. Of members with the same name it takes the last, as most readers do.
// It is much faster than decoding the whole.
func StringField(body []byte, name string) string {
	var (
		found string
		depth int
		isKey bool // whether the next string at depth 1 is a key
		match bool // whether the key before was name
	)
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '{', '[':
			depth++
			isKey = depth == 1
		case '}', ']':
			depth--
		case ',':
			isKey = depth == 1
		case '"':
			start := i + 1
			escaped := false
			for i = care(body, start); i < len(body) && body[i] != '"'; i = care(body, i) {
				if body[i] == '\\' {
					escaped = true
					i++
				}
				i++
			}
			text := body[min(start, len(body)):min(i, len(body))]
			switch {
			case depth == 1 && isKey:
				isKey = false
				if match = !escaped && string(text) == name; match {
					found = "" // an earlier member's
				}
			case depth == 1 && match:
				match = false
				if !escaped {
					found = string(text)
				}
			}
		}
	}
	return found
}

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
