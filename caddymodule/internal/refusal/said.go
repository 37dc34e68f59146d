package refusal

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-doku/caddy-doku/snap"
)

// Result returns the HTTP status of what DOKU says: status, or that of the responseCode in
// body, if status is 2xx and the code says no. DOKU's own libraries, and other banks' SNAP,
// refuse within a 200.
func Result(status int, body []byte) int {
	if status < 200 || status > 299 || saysYes(body) {
		return status
	}
	coded, _, ok := snap.ResponseCode(strings.TrimSpace(string(snap.CodeOf(body)))).Case()
	if ok && 400 <= coded && coded <= 599 {
		return coded
	}
	return status
}

// saysYes reports whether body has one responseCode, and the code is 2xx, without reading the
// rest of it. If this is not certain, it is false.
func saysYes(body []byte) bool {
	i := bytes.Index(body, []byte(`"responseCode":"2`))
	return i >= 0 && bytes.LastIndex(body, []byte(`"responseCode"`)) == i
}

// Longest is how much of DOKU's message stands in the log, in characters; the limit of SNAP.
const Longest = 150

// readLongest is how much is read of an answer that is not JSON, in bytes.
const readLongest = 4096

// Said returns what DOKU says about a refusal, for the log: response code and message, or the
// first line of an answer that is not JSON.
func Said(plain []byte) []slog.Attr {
	var fields struct {
		Code    snap.ResponseCode `json:"responseCode"`
		Message any               `json:"responseMessage"`
	}
	if err := json.Unmarshal(plain, &fields); err == nil {
		message, _ := fields.Message.(string)
		return []slog.Attr{
			slog.String("response_code", Shown(string(fields.Code), 7)),
			slog.String("response_message", Shown(message, Longest)),
		}
	}
	return []slog.Attr{slog.String("answer", Shown(firstLine(plain), Longest))}
}

var (
	markup   = regexp.MustCompile(`(?s)<(script|style).*?</(script|style)>|<[^>]*>`)
	personal = regexp.MustCompile(`[^\s@<>"']+@[^\s@<>"']+|[0-9][0-9 ]{6,}[0-9]`)
	longWord = regexp.MustCompile(`[A-Za-z0-9+/=_.~-]{20,}`)
)

// firstLine returns the first line with text of an answer, without its HTML.
func firstLine(body []byte) string {
	text := string(body[:min(len(body), readLongest)])
	for line := range strings.Lines(markup.ReplaceAllString(text, "\n")) {
		if line = strings.TrimSpace(line); line != "" {
			return line
		}
	}
	return ""
}

// Shown returns a text of DOKU's as it may stand in the log: in one line, not too long, and
// without what may be a token, a signature, a number of a person or an address.
func Shown(text string, longest int) string {
	text = text[:min(len(text), readLongest)]
	text = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	text = personal.ReplaceAllString(text, "…")
	text = longWord.ReplaceAllStringFunc(text, func(word string) string {
		if strings.ContainsAny(word, "0123456789") {
			return "…"
		}
		return word
	})
	runes := []rune(strings.Join(strings.Fields(text), " "))
	if len(runes) > longest {
		return string(runes[:longest]) + "…"
	}
	return string(runes)
}
