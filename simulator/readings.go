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

// DOKU does not document whether it hashes a body as it arrives, or decodes and re-encodes
// it first. Its own SDKs re-encode, in five languages and five ways. The simulator hashes a
// body as it arrives, and records in each exchange the languages that give another hash.

// reading is the way in which a language's usual JSON library re-encodes a text.
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

// double encodes numbers as 64-bit floating-point numbers, with suffix after whole ones
// that are not integers in the text.
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

// fragile returns the languages that re-encode body to something other than body without
// its white space.
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

// value reads the next value and returns it re-encoded.
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
