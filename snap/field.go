package snap

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math/bits"
	"unicode/utf8"
)

// StringField returns the member called name of the JSON object body, if it is
// there and a string without escapes, and "" otherwise. body must be a result of
// [AppendCanonical]. If members have the same name, the last one counts, as for most
// readers. It is much faster than decoding body.
func StringField(body []byte, name string) string {
	value := member(body, name)
	if len(value) < 2 || value[0] != '"' || bytes.IndexByte(value, '\\') >= 0 {
		return ""
	}
	return string(value[1 : len(value)-1])
}

// idField returns the member called name of the JSON object body as a text: a string
// without its escapes, any other value as its JSON. It is "" if the member is missing, null
// or an empty string. body and repeated members are as for [StringField].
func idField(body []byte, name string) string {
	value := member(body, name)
	if value == nil { // not there, or an object or array
		if !bytes.Contains(body, []byte(`"`+name+`":`)) {
			return ""
		}
		var members map[string]json.RawMessage
		if json.Unmarshal(body, &members) != nil {
			return ""
		}
		value = members[name]
	}
	switch {
	case len(value) == 0, string(value) == "null":
		return ""
	case value[0] != '"':
		return string(value)
	case bytes.IndexByte(value, '\\') < 0:
		return string(value[1 : len(value)-1])
	}
	var text string
	if json.Unmarshal(value, &text) != nil {
		return ""
	}
	return text
}

// member returns the value, as it stands, of the member called name of the JSON
// object body, or nil if there is none or its value is an object or array. See
// [StringField].
//
// In canonical form a key is always written the same way. So a search for its text finds
// it, and all of body is read only if the text is found twice.
func member(body []byte, name string) (value []byte) {
	var room [64]byte
	key := append(append(append(room[:0], '"'), name...), '"', ':')
	i := bytes.Index(body, key)
	if i < 0 {
		return nil
	}
	rest := body[i+len(key):]
	if i == 0 || body[i-1] != '{' && body[i-1] != ',' || bytes.Contains(rest, key) {
		return lastMember(body, name)
	}
	// All brackets are in pairs, so what comes before the key has as many that stay
	// open as what comes after it closes.
	if i < len(rest) && nesting(body[:i]) == 1 || i >= len(rest) && nesting(rest) == -1 {
		return scalar(rest)
	}
	return nil
}

// nesting returns how many brackets text opens, less those that it closes. It must
// not begin inside a string.
func nesting(text []byte) (depth int) {
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case '"':
			i = stringEnd(text, i)
		}
	}
	return depth
}

// lastMember is [member] for a body that may have the key more than once.
func lastMember(body []byte, name string) (value []byte) {
	var (
		depth int
		isKey bool // whether the next string at depth 1 is a key
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
			end := stringEnd(body, i)
			if isKey && string(body[min(i+1, end):end]) == name && at(body, end+1) == ':' {
				value = scalar(body[end+2:])
			}
			isKey = false
			i = end
		}
	}
	return value
}

// stringEnd returns the index of the closing quote of the string that begins at i,
// or len(body) if there is none.
func stringEnd(body []byte, i int) int {
	for i = care(body, i+1); i < len(body) && body[i] != '"'; i = care(body, i) {
		if body[i] == '\\' {
			i++
		}
		i++
	}
	return min(i, len(body))
}

// scalar returns the string, number or literal that text begins with, or nil.
func scalar(text []byte) []byte {
	if len(text) == 0 || text[0] == '{' || text[0] == '[' {
		return nil
	}
	end := 0
	if text[0] == '"' {
		end = min(stringEnd(text, 0)+1, len(text))
	}
	for end < len(text) && text[end] != ',' && text[end] != '}' {
		end++
	}
	return text[:end]
}

// care returns the first index from i on of a byte in a string that is not
// plain ASCII: a quote, a backslash, a control character, or part of a longer
// character. It looks at eight bytes at a time: in each expression below the
// high bit of a byte of the word is set if that byte is of the kind looked for.
// Borrows can set the bit of a later byte wrongly, never that of the first.
func care(src []byte, i int) int {
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
