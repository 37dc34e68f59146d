package inbound

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/internal/appanswer"
	"github.com/caddy-doku/caddy-doku/internal/ledger"
	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/verifier"
)

// call is a call from DOKU, or from somebody who claims to be DOKU.
type call struct {
	account  *doku.Account // nil until it is known
	service  snap.Service
	method   string
	target   string // path and query as DOKU called them
	body     []byte
	read     bool // body is complete
	verified verifier.Verified
	id       ledger.Identity // once it is verified
	age      time.Duration   // of its X-TIMESTAMP when it was checked
	aged     bool            // age is known

	reference *snap.Reference // read on first use

	undecided *appanswer.Judgement // of an answer that DOKU gets though it decides nothing

	span   trace.Span // of the request
	began  time.Time
	waited time.Duration // for the app, and for the caller's sending
}

// Call is a call that doku_verify passes on, as the handlers behind it see it. It must
// not be changed.
type Call struct {
	Account  *doku.Account // nil if the call is not verified
	Service  snap.Service
	ID       ledger.Identity
	Body     []byte
	Verified bool       // the call is DOKU's; false only with `enforce report`
	Parent   trace.Span // of the spans of requests to the app

	canonical []byte // the body; until doku_verify returns
}

// OrderingKey returns the key within which the inbox keeps the order of notifications:
// that of the virtual account or transaction, or of the call alone. Only a handler that
// has not returned may call it.
func (c *Call) OrderingKey() string {
	orderedBy := snap.OrderedBy(c.Service, c.canonical)
	if orderedBy == "" {
		return c.ID.Account + "/" + c.ID.Key()
	}
	sum := sha256.Sum256([]byte(string(c.Service) + "\x00" + orderedBy))
	return c.ID.Account + "/" + hex.EncodeToString(sum[:16])
}

type callKey struct{}

// FromContext returns the call of a request that doku_verify has passed on.
func FromContext(ctx context.Context) (*Call, bool) {
	c, found := ctx.Value(callKey{}).(*Call)
	return c, found
}

// passOn returns a context for the handlers behind doku_verify.
func (in *call) passOn(ctx context.Context, verified bool) context.Context {
	return context.WithValue(ctx, callKey{}, &Call{
		Account: in.account, Service: in.service, ID: in.id, Body: in.body, Verified: verified, canonical: in.verified.Canonical,
		Parent: trace.SpanFromContext(ctx),
	})
}

// accountName returns the name of the account, or "" while it is not known.
func (in *call) accountName() string {
	if in.account == nil {
		return ""
	}
	return in.account.Name
}
