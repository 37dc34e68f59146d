// Package appanswer decides what the app's answer to a DOKU call means. It is the only
// place that does: ledger, inbox, metrics and log follow it.
//
// DOKU looks at the HTTP status only, and takes any 2xx for "paid and booked", for ever.
// So an answer counts as a yes only if it is one. See [Judge].
package appanswer

import (
	"net/http"
	"strings"

	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
)

// Decision is what the app has decided about a call.
type Decision int

const (
	// Undecided means that the answer decides nothing: the app must get the call again.
	// It is the zero value.
	Undecided Decision = iota

	// No means that the app has refused the call, and will refuse it again.
	No

	// Yes means that the app has taken the call.
	Yes
)

// Judgement is what an answer means. It is an error that describes an answer that is no
// yes, with the first characters of its body: digits, addresses and long words are
// masked.
type Judgement struct { //nolint:errname // it is an error only if it is no yes
	Decision Decision

	// Status is the worse of the HTTP status and that of the responseCode.
	Status int

	// Answer is the answer with Status, and without what stands around its JSON. DOKU gets
	// it after a yes or a no.
	Answer store.Answer

	Code         snap.ResponseCode // "" if there is none
	OtherService bool              // a yes or no with the code of another service

	service snap.Service
	kind    kind
	found   string
}

// Judge returns what the app's answer to a call of a service means:
//
//   - [Yes]: HTTP 2xx, and one JSON object whose responseCode, a text or a number, is a 2xx
//     code. White space and byte order marks around it do not count.
//   - [No]: a JSON object whose responseCode is a 4xx code, with HTTP 2xx or 4xx. 401, 408,
//     425 and 429, by HTTP status or by code, are none: a wrong key or "too busy" decides
//     nothing.
//   - [Undecided]: everything else.
//
// Of several responseCodes, in any spelling, all must say yes.
//
// With loose, HTTP 2xx with nothing or a short plain text, which hints at no failure, is a
// yes to a notification.
//
// Nobody can read an answer with another Content-Encoding than identity: the way to the app
// has decoded those that it can.
func Judge(service snap.Service, answer store.Answer, loose bool) *Judgement {
	body := trim(answer.Body)
	encoded := isEncoded(answer.Header)
	var read reading
	if !encoded {
		read = readBody(body)
	}
	j := &Judgement{Status: worse(answer.Status, read), Answer: answer, Code: read.code, service: service}
	httpYes := isYes(answer.Status)
	switch {
	case httpYes && read.clear && isYes(read.status):
		j.Decision = Yes
	case read.clear && isRefusal(read.status) && isRefusal(j.Status) && (httpYes || isRefusal(answer.Status)):
		j.Decision = No
	case encoded && httpYes:
		j.kind, j.found = compressed, describe(answer, body)
	case loose && httpYes && !read.object && service.Notification():
		if why := notBare(answer, body); why != "" {
			j.kind, j.found = kindOf(answer, body, read).notBare(why), describe(answer, body)
		} else {
			j.Decision = Yes
		}
	default:
		j.kind, j.found = kindOf(answer, body, read), describe(answer, body)
	}
	j.Answer.Status = j.Status
	if read.object {
		j.Answer.Body = body
	}
	j.OtherService = j.Decision != Undecided && read.clear && read.code.Service() != service
	return j
}

// JudgeBroken returns what an answer means of which only the head and perhaps the start of
// the body could be read, because of err: never a yes or a no, and after HTTP 2xx the app may
// have taken the call.
func JudgeBroken(service snap.Service, answer store.Answer, err error) *Judgement {
	answer.Body = nil
	j := &Judgement{Status: answer.Status, Answer: answer, service: service}
	if j.kind = broken; !isYes(answer.Status) {
		j.kind = kindOf(answer, nil, reading{})
	}
	j.found = describe(answer, nil, err.Error())
	return j
}

// isEncoded reports whether an answer has a Content-Encoding that nobody has decoded.
func isEncoded(h http.Header) bool {
	for _, value := range h["Content-Encoding"] {
		if value = strings.TrimSpace(value); value != "" && !strings.EqualFold(value, "identity") {
			return true
		}
	}
	return false
}

// MaybeTaken reports whether the app may have taken the call although its answer decides
// nothing: nothing in it says no.
func (j *Judgement) MaybeTaken() bool { return j.Decision == Undecided && isYes(j.Status) }

// Soon reports whether the app only says that it cannot take the call now (5xx, 408, 425,
// 429), so that it makes sense to try again while DOKU waits.
func (j *Judgement) Soon() bool { return j.Decision == Undecided && snap.Retryable(j.Status) }

// ForDOKU reports whether DOKU can get the answer as it stands: after a yes or a no, and
// if an undecided answer is a SNAP answer that says so itself with 5xx, such as 503 with
// 5032400. A 401 or a 429 of the app is about the sidecar, and DOKU would take it for its own.
func (j *Judgement) ForDOKU() bool {
	coded, _, ok := j.Code.Case()
	return j.Decision != Undecided || ok && j.Status >= http.StatusInternalServerError && coded/100 == j.Status/100
}

func isYes(status int) bool { return 200 <= status && status <= 299 }

// isRefusal reports whether a status is one that a refusal may have.
func isRefusal(status int) bool {
	return 400 <= status && status <= 499 && status != http.StatusUnauthorized && !snap.Retryable(status)
}

// worse returns the worse of an HTTP status and that of the responseCode.
func worse(status int, read reading) int {
	coded := read.status
	switch {
	case !read.clear || coded < 400 || status >= 500:
	case isYes(status), isRefusal(status) && !isRefusal(coded):
		return coded
	}
	return status
}
