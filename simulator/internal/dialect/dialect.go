// Package dialect writes JSON as the usual libraries of other languages do.
//
// DOKU does not document whether it hashes a body as it arrives, or decodes and re-encodes
// it first. Its own SDKs re-encode, in five languages and five ways.
package dialect

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// The dialects, by language.
const (
	JavaScript = "JavaScript"
	Java       = "Java"
	PHP        = "PHP"
)

// dialect is the way in which a language's usual JSON library re-encodes a text.
type dialect struct {
	name    string
	number  func(json.Number) string
	escaped func(rune) bool // besides quote, backslash and control characters
	hex     string          // form of a control character without a short escape
	indices bool            // keys that are array indices come first, in order
}

var dialects = []dialect{
	{name: JavaScript, number: numberOfJavaScript, escaped: none, hex: `\u%04x`, indices: true},
	{name: Java, number: numberOfJava, escaped: none, hex: `\u%04X`},
	{name: PHP, number: numberOfPHP, escaped: func(r rune) bool { return r == '\u2028' || r == '\u2029' }, hex: `\u%04x`},
}

// Known reports whether there is a dialect with a name.
func Known(name string) bool {
	return slices.ContainsFunc(dialects, func(d dialect) bool { return d.name == name })
}

// Rewrite returns body as a dialect writes it, or nil if body is not JSON or the dialect is
// not known.
func Rewrite(name string, body []byte) []byte {
	for _, d := range dialects {
		if d.name == name && json.Valid(body) {
			return d.rewrite(body)
		}
	}
	return nil
}

// rewrite returns valid JSON as d writes it, or nil if it cannot.
func (d dialect) rewrite(body []byte) []byte {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	again, err := d.value(decoder)
	if err != nil {
		return nil
	}
	return []byte(again)
}

// Differing returns the languages that re-encode body to something other than body without
// its white space. It returns none if body is not JSON.
func Differing(body []byte) []string {
	var compact bytes.Buffer
	if json.Compact(&compact, body) != nil {
		return nil
	}
	var languages []string
	for _, d := range dialects {
		if !bytes.Equal(d.rewrite(body), compact.Bytes()) {
			languages = append(languages, d.name)
		}
	}
	return languages
}

func none(rune) bool { return false }

// numberOfJavaScript encodes all numbers as 64-bit floating-point numbers.
func numberOfJavaScript(n json.Number) string {
	f, err := n.Float64()
	switch {
	case err != nil:
		return "null" // infinity
	case f == 0:
		return "0" // also -0
	case math.Abs(f) >= 1e21 || math.Abs(f) < 1e-6:
		return exponent(f, "e+", "e-")
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}

// numberOfJava keeps integers, of any size, and encodes other numbers as doubles: Jackson's
// tree does so.
func numberOfJava(n json.Number) string {
	if !strings.ContainsAny(n.String(), ".eE") {
		if n == "-0" {
			return "0"
		}
		return n.String()
	}
	f, err := n.Float64()
	switch {
	case err != nil:
		return "Infinity"
	case f != 0 && (math.Abs(f) >= 1e7 || math.Abs(f) < 1e-3):
		text := exponent(f, "E", "E-")
		if mantissa, rest, _ := strings.Cut(text, "E"); !strings.Contains(mantissa, ".") {
			text = mantissa + ".0E" + rest
		}
		return text
	}
	text := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return text
}

// numberOfPHP keeps integers of 64 bits, and encodes other numbers as floats.
func numberOfPHP(n json.Number) string {
	if _, err := n.Int64(); err == nil {
		if n == "-0" {
			return "0"
		}
		return n.String()
	}
	f, err := n.Float64()
	switch {
	case err != nil:
		return "" // PHP does not encode infinity
	case f == 0 && math.Signbit(f):
		return "-0.0"
	case f != 0 && (math.Abs(f) >= 1e17 || math.Abs(f) < 1e-4):
		text := exponent(f, "e+", "e-")
		if mantissa, rest, _ := strings.Cut(text, "e"); !strings.Contains(mantissa, ".") {
			text = mantissa + ".0e" + rest
		}
		return text
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}

// exponent formats f with an exponent without leading zeros.
func exponent(f float64, positive, negative string) string {
	mantissa, power, _ := strings.Cut(strconv.FormatFloat(f, 'e', -1, 64), "e")
	sign := positive
	if power[0] == '-' {
		sign = negative
	}
	return mantissa + sign + strings.TrimLeft(power[1:], "0")
}

// value reads the next value and returns it re-encoded.
func (d dialect) value(in *json.Decoder) (string, error) {
	token, err := in.Token()
	if err != nil {
		return "", err
	}
	switch t := token.(type) {
	case json.Delim:
		if t == '{' {
			return d.object(in)
		}
		return d.array(in)
	case json.Number:
		return d.number(t), nil
	case string:
		return d.text(t), nil
	case nil:
		return "null", nil
	}
	return fmt.Sprint(token), nil
}

func (d dialect) array(in *json.Decoder) (string, error) {
	var values []string
	for in.More() {
		value, err := d.value(in)
		if err != nil {
			return "", err
		}
		values = append(values, value)
	}
	_, err := in.Token()
	return "[" + strings.Join(values, ",") + "]", err
}

func (d dialect) object(in *json.Decoder) (string, error) {
	var keys []string
	values := make(map[string]string)
	for in.More() {
		token, err := in.Token()
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
		if values[key], err = d.value(in); err != nil {
			return "", err
		}
	}
	if d.indices {
		slices.SortStableFunc(keys, byIndex)
	}
	var b strings.Builder
	for i, key := range keys {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(d.text(key) + ":" + values[key])
	}
	_, err := in.Token()
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

func (d dialect) text(s string) string {
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
			fmt.Fprintf(&b, d.hex, c)
		case d.escaped(c):
			fmt.Fprintf(&b, `\u%04x`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
