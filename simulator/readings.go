package simulator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// It is not known whether DOKU hashes a body as it arrives, or decodes it first
// and encodes it again before hashing; and its own SDKs, in five languages, do
// the latter in five ways. The simulator takes the first for granted, and notes
// in each exchange for which of the others the hash would be another.

// reading is how a language's usual JSON library writes what it has read.
type reading struct {
	language string
	number   func(json.Number) string
	escaped  func(rune) bool // besides quote, backslash and control characters
	hex      string          // form of a control character without a short escape
	indices  bool            // keys that are array indices come first, in order
}

var readings = []reading{
	{language: "JavaScript", number: double(""), escaped: none, hex: `\u%04x`, indices: true},
	{language: "Java", number: double(".0"), escaped: none, hex: `\u%04X`},
	{language: "PHP", number: double(""), escaped: func(r rune) bool { return r == '\u2028' || r == '\u2029' }, hex: `\u%04x`},
}

func none(rune) bool { return false }

// double writes numbers as a 64-bit floating-point number does, with suffix
// behind whole ones that were not written as integers.
func double(suffix string) func(json.Number) string {
	return func(n json.Number) string {
		f, err := n.Float64()
		if err != nil {
			return "Infinity"
		}
		text := strconv.FormatFloat(f, 'f', -1, 64)
		if !strings.Contains(text, ".") && strings.ContainsAny(n.String(), ".eE") {
			text += suffix
		}
		return text
	}
}

// fragile returns the languages whose reading of body, written again, is not
// body without its white space.
func fragile(body []byte) []string {
	var compact bytes.Buffer
	if json.Compact(&compact, body) != nil {
		return nil
	}
	var languages []string
	for _, r := range readings {
		decoder := json.NewDecoder(bytes.NewReader(body))
		decoder.UseNumber()
		if again, err := r.value(decoder); err != nil || again != compact.String() {
			languages = append(languages, r.language)
		}
	}
	return languages
}

// value reads the next value and returns it as written again.
func (r reading) value(d *json.Decoder) (string, error) {
	token, err := d.Token()
	if err != nil {
		return "", err
	}
	switch t := token.(type) {
	case json.Delim:
		if t == '{' {
			return r.object(d)
		}
		return r.array(d)
	case json.Number:
		return r.number(t), nil
	case string:
		return r.text(t), nil
	case nil:
		return "null", nil
	}
	return fmt.Sprint(token), nil
}

func (r reading) array(d *json.Decoder) (string, error) {
	var values []string
	for d.More() {
		value, err := r.value(d)
		if err != nil {
			return "", err
		}
		values = append(values, value)
	}
	_, err := d.Token()
	return "[" + strings.Join(values, ",") + "]", err
}

func (r reading) object(d *json.Decoder) (string, error) {
	var keys []string
	values := make(map[string]string)
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return "", err
		}
		key, isKey := token.(string)
		if !isKey {
			return "", errors.New("expected a key")
		}
		if _, again := values[key]; !again {
			keys = append(keys, key)
		}
		if values[key], err = r.value(d); err != nil {
			return "", err
		}
	}
	if r.indices {
		slices.SortStableFunc(keys, byIndex)
	}
	var b strings.Builder
	for i, key := range keys {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(r.text(key) + ":" + values[key])
	}
	_, err := d.Token()
	return "{" + b.String() + "}", err
}

// byIndex orders keys as JavaScript does: array indices first, by size.
func byIndex(a, b string) int {
	index := func(key string) int {
		n, err := strconv.Atoi(key)
		if err != nil || n < 0 || strconv.Itoa(n) != key {
			return 1 << 62
		}
		return n
	}
	return index(a) - index(b)
}

func (r reading) text(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		if short := strings.IndexRune("\"\\\b\f\n\r\t", c); short >= 0 {
			b.WriteByte('\\')
			b.WriteByte(`"\bfnrt`[short])
			continue
		}
		switch {
		case c < ' ':
			fmt.Fprintf(&b, r.hex, c)
		case r.escaped(c):
			fmt.Fprintf(&b, `\u%04x`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
