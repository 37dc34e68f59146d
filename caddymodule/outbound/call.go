package outbound

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/idempotency"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/internal/tokens"
	"github.com/caddy-doku/caddy-doku/snap"
)

// call is a call to DOKU on its way from Sign to the transport. One goroutine at a time
// uses it, but for the two atomic fields.
type call struct {
	account     *doku.Account // nil if there is none
	credentials *doku.Credentials
	service     snap.Service
	externalID  string
	ownID       bool // the app has chosen externalID
	channelID   string
	path        pathKind
	method      string // of the app's request
	target      string // its path
	body        []byte
	digest      [sha256.Size]byte
	written     atomic.Bool  // any of it may have reached DOKU
	readers     atomic.Int32 // of body, in transports that may go on
	status      int          // of DOKU's answer; 0 if there is none
	result      int          // what the answer says: status, or that of its response code
	plain       []byte       // the answer's body as JSON, nil if it is too large to be read
	began       time.Time
	waited      time.Duration // for DOKU, for the app's sending, and for a token

	keyed     *idempotency.Attempt // nil without an idempotency key, or without the store
	maybeSent bool                 // an earlier attempt with the key may have reached DOKU
	answered  bool                 // DOKU has answered
	answer    *store.Answer        // DOKU's, if it is small enough to be kept
	outcome   string               // for the counter; empty: DOKU's status decides

	sends     int             // signed so far
	signing   trace.Span      // of the signature under way, or nil
	reference *snap.Reference // read on first use
}

// name returns the name of the account, or "" if there is none.
func (c *call) name() string {
	if c.account == nil {
		return ""
	}
	return c.account.Name
}

// logAttrs returns the attributes of every log line about the call, and more.
func (c *call) logAttrs(more ...slog.Attr) []slog.Attr {
	return append([]slog.Attr{
		slog.String("account", c.name()), slog.String("service", string(c.service)), slog.String("external_id", c.externalID),
	}, more...)
}

// count counts the call by its outcome.
func (c *call) count(outcome string) {
	telemetry.Calls.WithLabelValues(telemetry.Outbound, c.name(), string(c.service), outcome).Inc()
	switch outcome { // evidence for inbound calls
	case reasons.Succeeded:
		c.account.Credentials().Use().Taken(c.account.Clock().Now())
	case reasons.Unauthorized:
		c.account.Credentials().Use().Refused(c.account.Clock().Now())
	}
}

// token returns a token, and adds the time of the wait.
func (c *call) token(ctx context.Context) (tokens.Token, error) {
	began := c.account.Clock().Now()
	defer func() { c.waited += c.account.Clock().Now().Sub(began) }()
	return c.account.Token(ctx)
}

// reader returns the body for an attempt. When its transport has read the body, it
// calls bodyRead.
func (c *call) reader() io.ReadCloser {
	c.readers.Add(1)
	return io.NopCloser(bytes.NewReader(c.body)) // known to net/http, which then sends small bodies together with the header
}

// bodyRead says that a transport has read the body, and will not read it again.
func (c *call) bodyRead() { c.readers.Add(-1) }

// free returns the body's buffer to the pool, unless a transport may still read it: one
// may go on after it has answered.
func (c *call) free() {
	if c.readers.Load() == 0 {
		httpio.PutBuffer(c.body)
	}
}

// callKey is where the context of a request has its call.
type callKey struct{}

func noToken(err error) error {
	detail := "[no B2B token: DOKU could not be reached; nothing was sent]"
	if errors.Is(err, tokens.ErrRefused) {
		detail = "[no B2B token: DOKU refused the request for one; check client_id, private_key and environment; nothing was sent]"
	} else if errors.Is(err, tokens.ErrUnusable) {
		detail = "[no B2B token: DOKU's answer was unusable; nothing was sent]"
	}
	return reject(reasons.Token, detail, err)
}

// failure turns the error of a call into the rejection that tells the app whether DOKU
// may have received it.
func (c *call) failure(err error) *reasons.Rejection {
	rejection, ok := errors.AsType[*reasons.Rejection](err)
	err = httpio.Cause(err)
	switch {
	case c.written.Load():
		return reject(reasons.OutcomeUnknown,
			"[outcome: unknown; DOKU may have carried this out: ask for its status, do not create it again]", err)
	case c.maybeSent:
		return reject(reasons.OutcomeUnknown,
			"[outcome: unknown; nothing was sent now, but DOKU may have carried out an earlier attempt: ask for its status, do not create it again]",
			err)
	case ok:
		return rejection
	}
	return reject(reasons.Unreachable, "[no connection to DOKU; nothing was sent]", err)
}

// reject returns the rejection for a reason of the outbound table. detail goes to the
// app.
func reject(reason, detail string, err error) *reasons.Rejection {
	return reasons.Outbound.Reject(reason, detail, err)
}
