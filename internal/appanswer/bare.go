package appanswer

import (
	"encoding/base64"
	"encoding/hex"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-doku/caddy-doku/internal/store"
)

// bareLongest is the longest text that counts as a bare yes, in bytes.
const bareLongest = 512

// notBare returns why an answer with HTTP 2xx and a trimmed body is no bare yes, or "".
//
// A bare yes names nothing that it says yes to. So it counts only if nothing about it hints
// at another meaning: what is left out by mistake is delivered again, and what is let in by
// mistake ends DOKU's repeats of a payment that nobody has booked.
func notBare(answer store.Answer, body []byte) string {
	switch {
	case answer.Status == http.StatusPartialContent, answer.Status == http.StatusMultiStatus:
		return "the status says that it is only a part, or several answers"
	case leadsOn(answer.Header):
		return "it leads to another page, or to a login"
	case !bareType(answer.Header.Values("Content-Type"), len(body) == 0):
		return "its Content-Type is not text/plain"
	case len(body) > bareLongest:
		return "its text is long"
	case !bareText(body):
		return "it is not a text of plain words"
	}
	return notYes(string(body))
}

// leadsOn reports whether headers send a browser to another page, under whatever name
// frameworks have for that.
func leadsOn(h http.Header) bool {
	for name := range h {
		switch name = strings.ToLower(name); {
		case name == "content-location":
		case strings.Contains(name, "location"), strings.Contains(name, "redirect"), strings.Contains(name, "refresh"),
			strings.HasSuffix(name, "-authenticate"):
			return true
		}
	}
	return false
}

// bareType reports whether an answer with these Content-Types may be a bare yes. Without a
// body, the type is only what a framework always writes.
func bareType(types []string, empty bool) bool {
	for _, text := range types {
		mediaType, params, err := mime.ParseMediaType(text)
		switch {
		case empty && (mediaType == "text/html" || mediaType == "application/json"):
			continue
		case err != nil || mediaType != "text/plain":
			return false
		}
		switch strings.ToLower(params["charset"]) {
		case "", "utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "windows-1252":
		default: // it may say something else than its bytes seem to
			return false
		}
	}
	return true
}

// bareText reports whether a body is a text of plain words: without markup, JSON, control
// characters, escapes, and characters that look like others.
func bareText(body []byte) bool {
	if !utf8.Valid(body) {
		return false
	}
	for _, r := range string(body) {
		switch {
		case r == '\t', r == '\n', r == '\r', r == '…', '‐' <= r && r <= '”':
		case r == 'ſ', r > 'ɏ', !unicode.IsPrint(r), r > unicode.MaxASCII && !unicode.IsLetter(r), strings.ContainsRune("<>{}[]\"`\\%&=", r):
			return false
		}
	}
	return true
}

// notYes returns why a text of plain words is no yes, or "".
func notYes(text string) string {
	letters := strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, text)
	if strings.Contains(letters, strings.ToLower(codeName)) {
		return "it names a responseCode"
	}
	if _, err := strconv.ParseFloat(text, 64); err == nil && text != "1" && (len(text) != 3 || text[0] != '2') {
		return "it is a number"
	}
	joined := numbers(text, " .,-_'/:") // 4.042.512 is a number, and 16:00 one without a 0
	for _, number := range append(numbers(text, ""), joined...) {
		if (len(number) == 3 || len(number) == 7) && (number[0] == '4' || number[0] == '5') {
			return "it has the number of an error"
		}
	}
	for _, number := range joined {
		if strings.Trim(number, "0") == "" {
			return "it says 0"
		}
	}
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(".,;:!?()", r) }) {
		if encodesText(word) {
			return "it has a word that is an encoded text"
		}
	}
	if namesFailure(strings.ToLower(text)) {
		return "it speaks of a failure"
	}
	return ""
}

// numbers returns the digits of the numbers in a text, among whose digits one of the
// separators may stand.
func numbers(text, separators string) (all []string) {
	var number []byte
	end := func() {
		if len(number) > 0 {
			all, number = append(all, string(number)), nil
		}
	}
	apart := 0 // separators since the last digit
	for _, r := range text {
		switch {
		case '0' <= r && r <= '9':
			number, apart = append(number, byte(r)), 0
		case strings.ContainsRune(separators, r) && apart == 0:
			apart = 1
		default:
			end()
			apart = 0
		}
	}
	end()
	return all
}

// encodesText reports whether a word is a text in base64 or hexadecimal digits. It may say
// anything.
func encodesText(word string) bool {
	const shortest = 8
	if len(word) < shortest {
		return false
	}
	for _, decode := range []func(string) ([]byte, error){
		hex.DecodeString, base64.RawStdEncoding.DecodeString, base64.RawURLEncoding.DecodeString,
	} {
		if plain, err := decode(word); err == nil && isASCIIText(plain) {
			return true
		}
	}
	return false
}

func isASCIIText(text []byte) bool {
	for _, b := range text {
		if b < ' ' && b != '\n' && b != '\r' && b != '\t' || b > '~' {
			return false
		}
	}
	return true
}

// failureStems begin the words of a failure, in English and Indonesian; failureWords are
// such words. No list has all of them: strict, the default, needs none.
var (
	failureStems = []string{
		"erro", "fail", "exception", "warning", "fatal", "panic", "traceback", "invalid", "incorrect", "illegal", "denie", "deny", "denial",
		"unauth", "forbid", "refus", "reject", "unavail", "unable", "unknown", "unexpect", "unsupport", "unprocess", "unsuccess", "undefin",
		"timeout", "mainten", "cannot", "could", "would", "should", "missing", "mismatch", "abort", "cancel", "declin", "expire", "crash",
		"broken", "disabl", "block", "wrong", "problem", "sorry", "retry", "login", "logon", "signin", "password", "csrf", "captcha",
		"redirect", "debug", "notice", "deprecated", "stack", "gagal", "kesalahan", "galat", "ditolak", "menolak", "tolak", "batal",
		"dibatal", "maaf", "kadaluarsa", "kedaluwarsa", "gangguan", "pemeliharaan", "terlarang", "dilarang",
	}
	failureWords = map[string]bool{
		"no": true, "not": true, "nok": true, "ko": true, "ng": true, "nack": true, "nak": true, "false": true, "null": true, "nil": true,
		"none": true, "nan": true, "never": true, "nothing": true, "without": true, "can't": true, "won't": true, "isn't": true,
		"wasn't": true, "doesn't": true, "didn't": true, "hasn't": true, "aren't": true, "weren't": true, "err": true, "bad": true,
		"timed": true, "down": true, "stop": true, "again": true, "later": true, "busy": true, "log": true, "sign": true, "f": true, "n": true,
		"off": true, "tidak": true, "belum": true, "bukan": true, "salah": true, "tak": true, "nggak": true, "gak": true, "jangan": true,
		"ulang": true, "ulangi": true, "lagi": true, "nanti": true, "sibuk": true, "rusak": true, "kosong": true, "tanpa": true,
	}
)

// namesFailure reports whether a text in lower case speaks of a failure.
func namesFailure(text string) bool {
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return !unicode.IsLetter(r) && r != '\'' }) {
		if failureWords[word] {
			return true
		}
		for _, stem := range failureStems {
			if strings.HasPrefix(word, stem) {
				return true
			}
		}
	}
	// a failure within a word, such as NullPointerException or PAYMENT_ERROR
	for _, part := range []string{"error", "fail", "exception", "gagal", "invalid", "denied", "notfound"} {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}
