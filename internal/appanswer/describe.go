package appanswer

import (
	"bytes"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
)

// kind is why an answer decides nothing.
type kind struct {
	what string // it is, for the log
	hint string // for the person on call
}

var (
	failed = kind{"the app has failed", "the app's own log says why"}
	busy   = kind{"the app is too busy", "the app asks for fewer or later calls: see its limits (rate limit, queue), and exempt this path"}

	login = kind{
		"the app asks for a login or a key",
		"exempt this path from the app's authentication: the sidecar has proved that the call is DOKU's",
	}
	csrf = kind{
		"the app misses a CSRF token",
		"exempt this path from the app's CSRF check (Laravel: validateCsrfTokens except; Django: csrf_exempt; Rails: skip_forgery_protection)",
	}
	host = kind{
		"the app does not take this host name",
		"allow the host name that the app gets (Django: ALLOWED_HOSTS; Rails: config.hosts), or set it with app_host",
	}
	redirect = kind{
		"the app redirects",
		"something in front of the app's handler redirects: a login (exempt this path), a rule for https, or a slash at the path's end",
	}
	noRoute = kind{
		"the app has no such route",
		"add a route for POST to this path to the app, or correct the app's address or path in the Caddyfile",
	}
	noMethod = kind{"the app's route does not take POST", "let the app's route take POST"}
	badCall  = kind{
		"the app refuses the request without a SNAP answer",
		"the app's own log says why; a 400 in front of the handler is often its host check (Django: ALLOWED_HOSTS), " +
			"a 403 or 422 its CSRF check: exempt this path. To refuse a call, answer with a 4xx responseCode, such as " + noMark,
	}

	compressed = kind{
		"the answer has a Content-Encoding that the sidecar does not read",
		"let the app answer this path without Content-Encoding",
	}
	broken = kind{
		"the answer cannot be read to its end",
		"the app's process has died or was stopped while it answered, it took too long, or its Content-Length or Content-Encoding " +
			"does not fit its body: its own log says why",
	}
	empty = kind{
		"the answer is empty",
		"the app's handler has returned nothing: " + answerWith,
	}
	html = kind{
		"the answer is a page",
		"an error page, a login page or the app's start page has answered in place of the handler: " + answerWith,
	}
	text   = kind{"the answer is plain text", answerWith}
	around = kind{
		"something stands before or behind the JSON",
		"a PHP warning (display_errors), a debug bar or other output is in the answer: turn it off, so that the answer is JSON only",
	}
	noObject  = kind{"the answer is not a JSON object", answerWith}
	noCode    = kind{"the answer has no responseCode", answerWith}
	oddCode   = kind{"its responseCode is not a 2xx, 4xx or 5xx code", "a responseCode has seven digits: " + answerWith}
	manyCodes = kind{"it has several responseCodes, which differ", "the app must write one responseCode: " + answerWith}
)

// The hints are the same for all services, but for the answers in them.
const (
	yesMark    = "<yes>"
	noMark     = "<no>"
	answerWith = "the app must answer with JSON such as " + yesMark
)

// forService returns a hint with the answers to a service's calls.
func forService(hint string, service snap.Service) string {
	switch service {
	case snap.ServiceVAInquiry, snap.ServiceVAPayment, snap.ServiceDebitNotify:
	default:
		service = snap.ServiceVAPayment
	}
	yes := `{"responseCode":"200` + string(service) + `00","responseMessage":"Successful"}`
	if service == snap.ServiceVAInquiry {
		yes = `{"responseCode":"2002400","responseMessage":"Successful","virtualAccountData":{…}}, the bill in virtualAccountData`
	}
	return strings.NewReplacer(yesMark, yes, noMark, "404"+string(service)+"12").Replace(hint)
}

// notBare returns the kind of an answer that is no bare yes because of why.
func (k kind) notBare(why string) kind {
	return kind{k.what + ", and no bare yes, since " + why, k.hint}
}

// Error describes the answer.
func (j *Judgement) Error() string {
	switch j.Decision {
	case Undecided:
		return j.kind.what + ": " + j.found
	case No:
		return fmt.Sprintf("the app has refused the call: HTTP %d, responseCode %s", j.Status, j.Code)
	case Yes:
	}
	return fmt.Sprintf("the app has taken the call: HTTP %d", j.Status)
}

// Hint says what to do about an answer that decides nothing. It is "" for another one.
func (j *Judgement) Hint() string { return forService(j.kind.hint, j.service) }

// kindOf returns why an answer decides nothing.
func kindOf(answer store.Answer, body []byte, read reading) kind {
	status := worse(answer.Status, read)
	switch {
	case isYes(status):
		return kindOfYes(answer, body, read)
	case status >= 500:
		return failed
	case snap.Retryable(status):
		return busy
	case status == http.StatusUnauthorized:
		return login
	case 300 <= status && status <= 399:
		return redirect
	case status == http.StatusNotFound:
		return noRoute
	case status == http.StatusMethodNotAllowed:
		return noMethod
	}
	said := bytes.ToLower(body[:min(len(body), 8<<10)])
	switch {
	case status == statusPageExpired, bytes.Contains(said, []byte("csrf")), bytes.Contains(said, []byte("authenticity")):
		return csrf
	case bytes.Contains(said, []byte("allowed_hosts")),
		bytes.Contains(said, []byte("blocked host")),
		bytes.Contains(said, []byte("host header")),
		bytes.Contains(said, []byte("host")) && bytes.Contains(said, []byte("allowed")):
		return host
	}
	return badCall
}

// statusPageExpired is Laravel's status for a missing CSRF token.
const statusPageExpired = 419

// kindOfYes returns why an answer with HTTP 2xx decides nothing.
func kindOfYes(answer store.Answer, body []byte, read reading) kind {
	switch {
	case len(body) == 0:
		return empty
	case read.codes > 1:
		return manyCodes
	case read.codes == 1 && read.code != "":
		return oddCode
	case read.object:
		return noCode
	case bytes.Contains(body, []byte(`"`+codeName+`"`)):
		return around
	case isPage(answer, body):
		return html
	case isPlain(body):
		return text
	}
	return noObject
}

func isPage(answer store.Answer, body []byte) bool {
	mediaType, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	return bytes.HasPrefix(body, []byte("<")) || strings.Contains(mediaType, "html") && bytes.IndexByte(body, '<') >= 0
}

// isPlain reports whether a trimmed body is text that cannot be a page or contain JSON.
func isPlain(body []byte) bool {
	return utf8.Valid(body) && !bytes.ContainsAny(body, "<{[\x00") && !bytes.HasPrefix(body, []byte(`"`))
}

// describe returns status, content type and the first characters of an answer, or in place of
// those what was wrong.
func describe(answer store.Answer, body []byte, wrong ...string) string {
	parts := []string{fmt.Sprintf("HTTP %d", answer.Status)}
	if contentType := answer.Header.Get("Content-Type"); contentType != "" {
		parts = append(parts, fmt.Sprintf("%.60q", contentType))
	}
	if encoding := answer.Header.Get("Content-Encoding"); encoding != "" {
		parts = append(parts, fmt.Sprintf("Content-Encoding %.20q", encoding))
	}
	if location := answer.Header.Get("Location"); location != "" {
		location, _, _ = strings.Cut(location, "?")
		parts = append(parts, fmt.Sprintf("to %q", mask(location)))
	}
	switch {
	case len(wrong) > 0:
		parts = append(parts, wrong...)
	case len(body) == 0:
		parts = append(parts, "no body")
	default:
		parts = append(parts, fmt.Sprintf("%q", mask(string(body[:min(len(body), 4*startLongest)]))))
	}
	return strings.Join(parts, ", ")
}

const (
	startLongest = 100 // characters of a body in a description
	wordLongest  = 20  // longer words may be tokens or keys
)

// mask returns the start of a text in one line. Digits become *, and so do words that may
// be addresses or tokens: logs must not tell who has paid, or a secret.
func mask(text string) string {
	var start strings.Builder
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
		if start.Len() > 0 {
			start.WriteByte(' ')
		}
		start.WriteString(maskWord(word))
		if start.Len() >= startLongest {
			break
		}
	}
	whole := []rune(start.String())
	if len(whole) > startLongest {
		return string(whole[:startLongest]) + "…"
	}
	return string(whole)
}

func maskWord(word string) string {
	if strings.ContainsRune(word, '@') {
		return "***"
	}
	masked, run := []rune(nil), 0
	for _, r := range word {
		switch {
		case unicode.IsDigit(r):
			r, run = '*', run+1
		case unicode.IsLetter(r):
			run++
		default:
			run = 0
		}
		if run <= wordLongest {
			masked = append(masked, r)
		}
	}
	return string(masked)
}
