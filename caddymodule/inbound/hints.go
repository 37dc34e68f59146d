package inbound

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/verifier"
)

// mark that some encoders put in front of a body.
var byteOrderMark = []byte("\ufeff")

// hint returns what the operator can do about a signature or body that is not as
// expected, by the evidence that there is, or "" for the hint of the table.
func (v *Verify) hint(in *call, head *verifier.Head, h http.Header, rejection *reasons.Rejection) string {
	encoding := h.Get("Content-Encoding")
	switch {
	case rejection.Reason != reasons.Signature && rejection.Reason != reasons.BodyFormat:
		return ""
	case encoding != "" && !strings.EqualFold(encoding, "identity"):
		return fmt.Sprintf("the call has Content-Encoding %.40q, and DOKU signs plain JSON: "+
			"if a CDN or proxy in front compresses bodies, switch it off", encoding)
	case rejection.Reason == reasons.BodyFormat && bytes.HasPrefix(in.body, byteOrderMark):
		return "the body begins with a byte order mark, which JSON must not have: look for a proxy in front that adds it, or ask DOKU"
	case rejection.Reason == reasons.BodyFormat:
		return ""
	}
	switch found := head.Evidence(in.body); {
	case found.Body != "":
		return "the secret is right: the signature matches the body " + found.Body +
			"; DOKU, or a proxy in front of the sidecar, writes the JSON anew after it is signed"
	case found.Target != "":
		return fmt.Sprintf("the secret is right: the signature matches the path %.200q; something in front of the sidecar changes the path: "+
			"write public_prefix or public_target, or correct the URL at DOKU", found.Target)
	case found.Token:
		return "the secret is right: the signature matches an empty token; if all calls are so, write `token none` in doku_verify"
	case !v.symmetric():
		return ""
	}
	return in.account.Credentials().Use().Evidence(v.now()).Hint(in.target)
}

// symmetric reports whether signatures need the secret.
func (v *Verify) symmetric() bool { return slices.Contains(v.forms, verifier.Symmetric) }

// unknownService is the rejection of a genuine call whose path names no service.
func unknownService(target string) *reasons.Rejection {
	rejection := reject(reasons.ServiceUnknown, "", fmt.Errorf(
		"the path %.200q does not tell which service a genuine call is of; write `path <path> service %[2]s` in doku_app, "+
			"or `service %[2]s` in doku_verify, for payment notifications", target, snap.ServiceVAPayment))
	path, _, _ := strings.Cut(target, "?")
	if service, _ := snap.ServiceOf(http.MethodPost, httpio.CleanPath(path)); service.Inbound() != "" {
		rejection.Hint = fmt.Sprintf("the URL at DOKU is spelt otherwise than the paths that the sidecar knows: "+
			"correct it there, or write `path <path> service %[1]s` in doku_app or `service %[1]s` in doku_verify", service)
	}
	return rejection
}

// strange returns the rejection of a call that no account is found for. It has the
// answer that a stranger gets who knows the id of an account.
func strange(err error, missing string, h http.Header, check func() error) *reasons.Rejection {
	checked := check()
	if checked == nil { // the header is an account's, while the option `account` names no account
		return unknownClient(h, missing, err)
	}
	rejection := rejectionOf(checked)
	if rejection.Reason == reasons.ClientUnknown {
		rejection.Err = err
	}
	return rejection
}

// outside returns the name for X-Doku-Error. A stranger does not learn whether it has
// named an account.
func outside(why *reasons.Rejection) string {
	if why.Reason == reasons.ClientUnknown {
		switch why.Case {
		case snap.InvalidToken:
			return reasons.TokenInvalid
		case snap.Unauthorized:
			return reasons.Signature
		}
	}
	return reasons.Inbound.Outside(why.Reason)
}

// closeChunked closes the connection after the answer to a call whose body came in
// chunks. Such a call may have had a Content-Length too, which the server does not show,
// and then RFC 9112 §6.1 demands it: somebody in front may have read it otherwise.
func closeChunked(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 && len(r.TransferEncoding) > 0 {
		w.Header().Set("Connection", "close")
	}
}
