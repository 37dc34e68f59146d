package snap

import (
	"bytes"
	"slices"
	"strconv"
)

// HazardKind is a kind of [Hazard].
type HazardKind uint8

// JSON encoders write these differently, so a receiver that re-encodes a body before it
// hashes the body gets another hash.
const (
	DuplicateKey     HazardKind = iota + 1 // readers keep the last one, or the first, or both
	FloatLiteral                           // any with '.', 'e' or 'E', and -0: 10000.00 is rewritten as 10000.0 or 10000
	BigInteger                             // beyond 2^53-1 either way: loses digits as a double
	LineSeparator                          // U+2028 or U+2029: escaped by some
	LoneSurrogate                          // \ud800 without its other half: not a character
	ControlCharacter                       // one without a short escape, and with a letter in it: written \u001f or \u001F
	InvalidUTF8                            // replaced by most readers
	IntegerKey                             // "0", "12", beside other keys: reordered by JavaScript, made a list by PHP
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

// String returns a description of k, such as "duplicate key".
func (k HazardKind) String() string {
	if int(k) < len(hazardNames) && hazardNames[k] != "" {
		return hazardNames[k]
	}
	return "unknown hazard"
}

// Hazard is a part of a body that cannot be made safe without a change of its meaning.
type Hazard struct {
	Kind   HazardKind
	Path   string // JSON path, such as $.additionalInfo.items[3].price or $["odd key"]; long ones are cut and end with "…"
	Offset int    // in the input, in bytes; of a key's opening quote for duplicate and integer keys
}

// hazard is a [Hazard] without its path.
type hazard struct {
	kind   HazardKind
	offset int
}

// hazard records a hazard at offset, unless there are too many, or one of its kind since
// start, where its string or number begins.
func (s *scanner) hazard(kind HazardKind, start, offset int) {
	if s.bare || len(s.hazards) == maxHazards {
		return
	}
	for i := len(s.hazards) - 1; i >= 0 && s.hazards[i].offset >= start; i-- {
		if s.hazards[i].kind == kind {
			return
		}
	}
	s.hazards = append(s.hazards, hazard{kind, offset})
}

// locate returns found in the order of the text, with paths. To find the paths it
// reads src, a valid text, a second time, so that only bodies with hazards pay for
// paths.
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
			name = name[:min(len(name), maxPath)]
			if isName(name) {
				path = append(path, '.')
				path = append(path, name...)
			} else {
				path = append(path, '[')
				path = strconv.AppendQuote(path, string(name))
				path = append(path, ']')
			}
		}
		if len(path) > maxPath {
			return string(bytes.ToValidUTF8(path[:maxPath], nil)) + "…"
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
