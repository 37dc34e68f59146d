package httpio

import (
	"context"
	"maps"
	"net/http"
	"strconv"

	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
)

// The headers of our own, as [net/http] spells them.
const (
	HeaderAccount        = "X-Doku-Account"        // to the app: the account's name
	HeaderService        = "X-Doku-Service"        // to the app: the service code
	HeaderVerified       = "X-Doku-Verified"       // to the app: whether the call is proved to be DOKU's
	HeaderIdempotencyKey = "Idempotency-Key"       // to the app: the same for the same call
	HeaderAttempt        = "Doku-Delivery-Attempt" // to the app: 1 plus the attempts on record at this notification
	HeaderError          = "X-Doku-Error"          // on the sidecar's own answer: why
	HeaderExternalID     = "X-Doku-External-Id"    // on DOKU's answers: the X-EXTERNAL-ID of the call
	HeaderReplayed       = "X-Doku-Replayed"       // on an answer that DOKU gave before

	// HeaderEarlierAttempt is on an error from DOKU, if an earlier attempt with the same
	// idempotency key may have reached DOKU.
	HeaderEarlierAttempt = "X-Doku-Earlier-Attempt"
)

// Reject answers with the SNAP body of a case. reason goes into X-Doku-Error.
func Reject(w http.ResponseWriter, service snap.Service, c snap.Case, reason string) error {
	body := c.Answer(service)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set(HeaderError, reason)
	w.WriteHeader(c.Status)
	_, err := w.Write(body)
	return err
}

// Replay gives an earlier answer again.
func Replay(w http.ResponseWriter, earlier *store.Answer) error {
	maps.Copy(w.Header(), earlier.Header)
	return Write(w, earlier)
}

// Write gives an answer whose headers w has already.
func Write(w http.ResponseWriter, answer *store.Answer) error {
	if len(answer.Body) > 0 {
		w.Header()["Content-Length"] = []string{strconv.Itoa(len(answer.Body))}
	}
	w.WriteHeader(answer.Status)
	_, err := w.Write(answer.Body)
	return err
}

// Detach returns a context with the values and the deadline of ctx that goes on when
// the caller hangs up. ctx must have a deadline.
func Detach(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, _ := ctx.Deadline()
	return context.WithDeadline(context.WithoutCancel(ctx), deadline)
}
