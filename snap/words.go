package snap

import (
	"encoding/binary"
	"math/bits"
)

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
// bit of each byte of that kind. A borrow or carry out of such a byte can spoil
// the bytes above it, never those below: the lowest bit found is always right,
// and only that one is used.
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080

	wordTrue  = 't' | 'r'<<8 | 'u'<<16 | 'e'<<24
	wordNull  = 'n' | 'u'<<8 | 'l'<<16 | 'l'<<24
	wordFalse = 'f' | 'a'<<8 | 'l'<<16 | 's'<<24 | 'e'<<32
)

// stringEnds finds the bytes of w that stop a simple string: the quote, the
// backslash, control characters, and what is not ASCII. The search for the end of
// a string waits for the result, so every operation counts:
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
