package snap

import (
	"encoding/binary"
	"unicode/utf16"
	"unicode/utf8"
)

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

// decodeRune is [utf8.DecodeRune] for a character that is not ASCII. It is faster for
// those of two and three bytes.
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
		if r&0xf > 9 { // the others are the same in upper and lower case
			s.hazard(ControlCharacter, start, i)
		}
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

// appendMeaning decodes the inside of a valid string as encoding/json does, and appends
// the result to dst: a byte that is part of no character becomes U+FFFD.
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
