package caddymodule

import (
	"context"
	"maps"
	"net/http"
	"strconv"

	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
)

// The headers of our own.
const (
	headerAccount    = "X-Doku-Account"        // to the app: whose call this is
	headerService    = "X-Doku-Service"        // to the app: the service code
	headerVerified   = "X-Doku-Verified"       // to the app: whether the call is DOKU's for certain
	headerIdempotent = "Idempotency-Key"       // to the app: the same for the same call
	headerAttempt    = "Doku-Delivery-Attempt" // to the app: which try at a notification this is, from 1
	headerError      = "X-Doku-Error"          // on an answer made here, why
	headerExternalID = "X-Doku-External-Id"    // on DOKU's answers, the X-EXTERNAL-ID used
	headerReplayed   = "X-Doku-Replayed"       // on an answer that DOKU has given before

	// On an answer of DOKU's other than 2xx, that an earlier attempt with the same
	// idempotency key may have reached DOKU, which the answer need not tell of.
	headerEarlier = "X-Doku-Earlier-Attempt"
)

// answer writes the body that tells c, and marks it as made here by reason.
func answer(w http.ResponseWriter, service snap.Service, c snap.Case, reason string) error {
	body := c.Answer(service)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set(headerError, reason)
	w.WriteHeader(c.Status)
	_, err := w.Write(body)
	return err
}

// replay gives an earlier answer again.
func replay(w http.ResponseWriter, earlier *store.Answer) error {
	h := w.Header()
	maps.Copy(h, earlier.Header)
	h.Set("Content-Length", strconv.Itoa(len(earlier.Body)))
	w.WriteHeader(earlier.Status)
	_, err := w.Write(earlier.Body)
	return err
}

// detach returns a context with the values and the deadline of ctx that does not
// end when the caller hangs up. ctx must have a deadline.
func detach(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, _ := ctx.Deadline()
	return context.WithDeadline(context.WithoutCancel(ctx), deadline)
}
