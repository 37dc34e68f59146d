package verifier

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/caddy-doku/caddy-doku/snap"
)

// Evidence is what would make the signature of a refused call match. The zero value
// says that nothing was found.
type Evidence struct {
	Body   string // such as "without its byte order mark"
	Target string // such as another path
	Token  bool   // an empty token
}

// evidenceLongest bounds the work for a call that is refused.
const evidenceLongest = 64 << 10

// Evidence looks for the cause of a signature that does not match: a body that was
// rendered in another way, a path that was rewritten, an empty token. It is for the
// operator's log only: the call stays refused.
func (h *Head) Evidence(body []byte) Evidence {
	if h.signature == nil || len(body) > evidenceLongest {
		return Evidence{}
	}
	forms := formsOf(body)
	for _, form := range forms {
		for _, target := range otherTargets(h.target) {
			other := *h
			other.target = target
			if other.signed(snap.Digest(form)) {
				return Evidence{Target: target}
			}
		}
		if other := *h; h.form == Symmetric && h.token != "" {
			other.token = ""
			if other.signed(snap.Digest(form)) {
				return Evidence{Token: true}
			}
		}
	}
	isJSON := make([]bool, len(forms))
	for i, form := range forms {
		isJSON[i] = json.Valid(form)
	}
	for _, r := range renderings {
		for i, form := range forms {
			if r.ofJSON && !isJSON[i] {
				continue
			}
			if changed, ok := r.render(form); ok && h.signed(snap.Digest(changed)) {
				return Evidence{Body: r.name}
			}
		}
	}
	return Evidence{}
}

// formsOf returns the body in the forms under which a signature may match.
func formsOf(body []byte) [][]byte {
	forms := [][]byte{body}
	if minified, err := snap.AppendMinified(nil, body); err == nil && !bytes.Equal(minified, body) {
		forms = append(forms, minified)
	}
	if canonical, _, err := snap.AppendCanonical(nil, body); err == nil && !bytes.Equal(canonical, forms[len(forms)-1]) {
		forms = append(forms, canonical)
	}
	return forms
}

// otherTargets returns targets that a proxy could make this one from.
func otherTargets(target string) []string {
	path, query, _ := strings.Cut(target, "?")
	if query != "" {
		query = "?" + query
	}
	var others []string
	add := func(other string) {
		if other != target {
			others = append(others, other)
		}
	}
	add(path)
	add(path + "/" + query)
	add(strings.TrimSuffix(path, "/") + query)
	if decoded, err := url.PathUnescape(path); err == nil {
		add(decoded + query)
		add((&url.URL{Path: decoded}).EscapedPath() + query)
	}
	add(strings.ToLower(path) + query)
	add(strings.ReplaceAll(path, "//", "/") + query)
	add(strings.Replace(path, "/v1/", "/v1.1/", 1) + query)
	add(strings.Replace(path, "/v1.1/", "/v1/", 1) + query)
	return others
}

// rendering is a way in which an encoder writes the same JSON.
type rendering struct {
	name   string
	ofJSON bool // render takes valid JSON only
	render func(body []byte) ([]byte, bool)
}

var renderings = func() []rendering {
	mark := []byte("\ufeff")
	all := []rendering{
		{"without its byte order mark", false, func(body []byte) ([]byte, bool) { return bytes.CutPrefix(body, mark) }},
		{"with a byte order mark", false, func(body []byte) ([]byte, bool) { return append(bytes.Clone(mark), body...), true }},
		{"with the line end that it lacks", false, func(body []byte) ([]byte, bool) { return append(bytes.Clone(body), '\n'), true }},
		{"with its keys sorted", false, sorted},
	}
	for _, numbers := range []struct {
		name  string
		write func(string) string
	}{{"", nil}, {"with numbers such as 11500.0", short}, {"with numbers such as 11500", shortest}, {"with numbers such as 11500.00", long}} {
		for _, text := range []struct {
			name          string
			letters       string // how what is not ASCII is escaped
			slashes, html bool
		}{
			{name: ""},
			{"with escapes such as \\u00e9", "%04x", false, false},
			{"with escapes such as \\u00E9", "%04X", false, false},
			{"with slashes escaped", "", true, false},
			{"with slashes and escapes such as \\u00e9", "%04x", true, false},
			{"with <, > and & escaped", "", false, true},
		} {
			if name := strings.TrimPrefix(strings.TrimSuffix(text.name+" and "+numbers.name, " and "), " and "); name != "" {
				all = append(all, rendering{name, true, func(body []byte) ([]byte, bool) {
					return rendered(body, numbers.write, text.letters, text.slashes, text.html)
				}})
			}
		}
	}
	return all
}()

// sorted writes objects with their keys in order, as many encoders do.
func sorted(body []byte) ([]byte, bool) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var value any
	if decoder.Decode(&value) != nil {
		return nil, false
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, false
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), true
}

// rendered writes JSON with other numbers and escapes. It reports false if body, which is
// valid JSON, has none of them.
func rendered(body []byte, number func(string) string, letters string, slashes, html bool) ([]byte, bool) {
	out := make([]byte, 0, len(body)+len(body)/4)
	quoted := false
	for i := 0; i < len(body); {
		c := body[i]
		switch {
		case quoted && c == '\\':
			out = append(out, c, body[i+1])
			i += 2
		case c == '"':
			quoted = !quoted
			out = append(out, c)
			i++
		case !quoted && number != nil && (c == '-' || c >= '0' && c <= '9'):
			end := i + 1
			for end < len(body) && strings.IndexByte("0123456789+-.eE", body[end]) >= 0 {
				end++
			}
			out = append(out, number(string(body[i:end]))...)
			i = end
		case quoted && slashes && c == '/':
			out = append(out, '\\', c)
			i++
		case quoted && html && strings.IndexByte("<>&", c) >= 0:
			out = fmt.Appendf(out, "\\u%04x", c)
			i++
		case quoted && letters != "" && c >= utf8.RuneSelf:
			r, size := utf8.DecodeRune(body[i:])
			out = appendEscaped(out, r, letters)
			i += size
		default:
			out = append(out, c)
			i++
		}
	}
	return out, !bytes.Equal(out, body)
}

func appendEscaped(out []byte, r rune, form string) []byte {
	if r < 1<<16 {
		return fmt.Appendf(out, "\\u"+form, r)
	}
	r -= 1 << 16
	return fmt.Appendf(out, "\\u"+form+"\\u"+form, 0xd800+r>>10, 0xdc00+r&0x3ff)
}

// fraction returns a number with a fraction in the form of digits, or text if it has
// none.
func fraction(text string, digits int) string {
	value, err := strconv.ParseFloat(text, 64)
	if err != nil || !strings.Contains(text, ".") {
		return text
	}
	return strconv.FormatFloat(value, 'f', digits, 64)
}

func shortest(text string) string { return fraction(text, -1) }

func short(text string) string {
	text = fraction(text, -1)
	if !strings.ContainsAny(text, ".eE") {
		text += ".0"
	}
	return text
}

func long(text string) string {
	if value, err := strconv.ParseFloat(text, 64); err == nil {
		return strconv.FormatFloat(value, 'f', 2, 64)
	}
	return text
}
