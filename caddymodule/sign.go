package caddymodule

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-doku/caddy-doku/internal/idempotency"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/internal/tokens"
	"github.com/caddy-doku/caddy-doku/signer"
	"github.com/caddy-doku/caddy-doku/snap"
)

func init() {
	caddy.RegisterModule(Sign{})
}

// Sign prepares a plain call of the app's for DOKU and settles everything that
// can go wrong on this side of the wire: it finds the account, reads the body, up
// to a limit, and makes it canonical, gives the call an X-EXTERNAL-ID, and sees to
// it that there is a B2B token. It must be followed by a `reverse_proxy` with the
// transport `doku`, which signs; the Caddyfile directive `doku_sign` sets up both.
//
// If the app gives a call an idempotency key, a repeat of the call with the same
// key has the same X-EXTERNAL-ID, for 48 hours. While the first is under way, a
// repeat waits for its answer; after a final answer of DOKU's (2xx, or 4xx other
// than 401, 408, 409, 425 and 429) it gets that one again, with the header
// `X-Doku-Replayed`; after anything else it is sent once more. If an earlier attempt
// may have reached DOKU, whose outcome is not known, an answer other than 2xx has the
// header `X-Doku-Earlier-Attempt: unknown`: DOKU refuses this attempt, but may have
// carried out the earlier one. Ask for the status.
//
// A call that cannot be sent is answered here, with JSON of DOKU's shape
// (`responseCode`, `responseMessage`) and the header `X-Doku-Error`:
//
// | X-Doku-Error | HTTP status | meaning |
// |---|---|---|
// | `account` | 400 | there is no such account, or the app's X-PARTNER-ID is not its client id; nothing was sent |
// | `body_too_large` | 413 | larger than `max_body`; nothing was sent |
// | `body_unreadable` | 400 | the app's request ended early, or took longer than `timeout`; nothing was sent |
// | `body_not_json` | 400 | with the offset; nothing was sent |
// | `body_unsafe` | 400 | only with `body strict`: what DOKU may read otherwise, with its JSON path; nothing was sent |
// | `external_id` | 400 | the app's X-EXTERNAL-ID is not 1 to 36 digits; nothing was sent |
// | `idempotency_key` | 400 | the app's key is not 1 to 255 visible ASCII characters; nothing was sent |
// | `idempotency_key_reused` | 422 | the key was used for another call before; nothing was sent |
// | `in_flight` | 504 | a call with the same key is still under way; ask for the status, or repeat |
// | `store` | 503 | whether the key was used before cannot be told; nothing was sent now, but an earlier attempt may have reached DOKU: ask for the status, or repeat with the same key |
// | `token` | 503 | no B2B token to be had; nothing was sent |
// | `unreachable` | 503 | no connection to DOKU; nothing was sent |
// | `outcome_unknown` | 504 | sent, but no answer came; DOKU may have done it: ask for the status, don't create again |
//
// DOKU's own answers pass through as they are, with the header
// `X-Doku-External-Id` added.
type Sign struct {
	// The name of the account, which may be a placeholder such as
	// `{http.request.header.X-Brand}`. Default: the only account, or the one whose
	// client id is in the X-PARTNER-ID of the app's request. A request that has an
	// X-PARTNER-ID and is for another account is refused.
	Account string `json:"account,omitempty"`

	// What is done to the body before it is signed and sent: `canonical` (the
	// default) leaves no white space and no needless escapes, so that the hash
	// comes out the same whatever DOKU does to the body before hashing it;
	// `strict` does the same and refuses what cannot be made safe, such as
	// amounts written as floating-point numbers and duplicate keys; `minify`
	// only removes white space.
	Body string `json:"body,omitempty"`

	// The largest body in bytes. Default: 1 MiB.
	MaxBody int64 `json:"max_body,omitempty"`

	// The CHANNEL-ID of calls that have none of their own. Default: `H2H`.
	ChannelID string `json:"channel_id,omitempty"`

	// The header in which the app may give a call an idempotency key, or `off`.
	// Default: `Idempotency-Key`.
	IdempotencyHeader string `json:"idempotency_header,omitempty"`

	// How long a call may take in all, waiting for a token included. Default: `60s`.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// How long a call may wait for a token. Default: `10s`.
	TokenTimeout caddy.Duration `json:"token_timeout,omitempty"`

	app     *App
	chooser *chooser
	log     *slog.Logger
	now     func() time.Time
	random  io.Reader
}

// The ways to treat a body.
const (
	bodyCanonical = "canonical"
	bodyStrict    = "strict"
	bodyMinify    = "minify"
)

const defaultMaxBody = 1 << 20

// CaddyModule returns the Caddy module information.
func (Sign) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.doku_sign", New: func() caddy.Module { return new(Sign) }}
}

// Provision finds the account and sets the defaults.
func (s *Sign) Provision(ctx caddy.Context) error {
	var err error
	if s.app, err = findApp(ctx); err != nil {
		return err
	}
	if s.chooser, err = s.app.choose(s.Account, snap.HeaderPartnerID, func(a *Account) string { return a.clientID }); err != nil {
		return err
	}
	if s.Body == "" {
		s.Body = bodyCanonical
	}
	if s.MaxBody == 0 {
		s.MaxBody = defaultMaxBody
	}
	if s.ChannelID == "" {
		s.ChannelID = "H2H"
	}
	if s.IdempotencyHeader == "" {
		s.IdempotencyHeader = headerIdempotent
	}
	if s.Timeout == 0 {
		s.Timeout = caddy.Duration(time.Minute)
	}
	if s.TokenTimeout == 0 {
		s.TokenTimeout = caddy.Duration(10 * time.Second)
	}
	s.log, s.now, s.random = ctx.Slogger(), time.Now, rand.Reader
	if server, served := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); served {
		s.warnOfStrangers(server.Listen)
	}
	return nil
}

// warnOfStrangers warns if others than this machine's programs may reach the handler.
// Caddy listens everywhere for a site called http://127.0.0.1:9180: a name is what a
// request says, not where it comes from.
func (s *Sign) warnOfStrangers(addresses []string) {
	for _, text := range addresses {
		address, err := caddy.ParseNetworkAddress(text)
		if err != nil || address.IsUnixNetwork() || address.Host == "localhost" || net.ParseIP(address.Host).IsLoopback() {
			continue
		}
		s.log.Warn("doku_sign can be reached from other machines, and whoever reaches it acts in your name: write `bind 127.0.0.1` in its site, unless only the app gets through to it",
			"listens", text)
	}
}

// Validate checks the options.
func (s *Sign) Validate() error {
	switch s.Body {
	case bodyCanonical, bodyStrict, bodyMinify:
	default:
		return fmt.Errorf("body: expected canonical, strict or minify, found %q", s.Body)
	}
	if s.MaxBody < 0 || s.Timeout < 0 || s.TokenTimeout < 0 {
		return errors.New("max_body, timeout and token_timeout must be positive")
	}
	if s.IdempotencyHeader != "off" && !httpguts.ValidHeaderFieldName(s.IdempotencyHeader) {
		return fmt.Errorf("idempotency_header: expected the name of a header, or off, found %q", s.IdempotencyHeader)
	}
	return nil
}

// call is a call to DOKU on its way, from Sign to the transport.
type call struct {
	account     *Account
	credentials *credentials
	service     snap.Service
	externalID  string
	ownID       bool // whether externalID is the app's choice
	channelID   string
	body        []byte
	digest      [sha256.Size]byte
	written     atomic.Bool  // whether any of it may have reached DOKU
	readers     atomic.Int32 // of body that a transport may still be using
	status      int          // of DOKU's answer; 0 if there is none
	began       time.Time
	elsewhere   time.Duration // that DOKU, the app's sending, and waiting for a token have taken

	repeatable *idempotency.Repeatable // if the app has given an idempotency key, and the store is there
	uncertain  bool                    // whether an earlier attempt with the key may have reached DOKU
	answered   bool                    // whether DOKU has answered
	answer     *store.Answer           // DOKU's, if it is small enough to be kept
	outcome    string                  // for the counter, if it is not DOKU's answer that says it

	attempts int        // that were signed
	signing  trace.Span // of the signature that is being made, or nil
	billed   *bill      // once it was asked for
}

// name returns the name of the account, or "" if there is none.
func (c *call) name() string {
	if c.account == nil {
		return ""
	}
	return c.account.Name
}

// count counts the call by what has become of it.
func (c *call) count(outcome string) {
	calls.WithLabelValues(directionOut, c.name(), string(c.service), outcome).Inc()
}

// token returns a token, and takes note of the time that the call waits for it.
func (c *call) token(ctx context.Context) (tokens.Token, error) {
	began := c.account.clock.Now()
	defer func() { c.elsewhere += c.account.clock.Now().Sub(began) }()
	return c.account.token(ctx)
}

// reader returns the body for an attempt, whose transport tells by read when it
// is done with it.
func (c *call) reader() io.ReadCloser {
	c.readers.Add(1)
	return io.NopCloser(bytes.NewReader(c.body)) // known to net/http, which then sends small bodies together with the header
}

// read says that a transport has read a body to its end, and will not again.
func (c *call) read() { c.readers.Add(-1) }

// free lets other calls use the memory of the body, unless a transport may still
// read it: one may go on after it has answered.
func (c *call) free() {
	if c.readers.Load() == 0 {
		recycle(c.body)
	}
}

type callKey struct{}

// localError is why a call was not sent, or has no answer.
type localError struct {
	c      snap.Case
	reason string
	err    error
}

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// ServeHTTP prepares the call, hands it on, and answers if it cannot be made.
func (s *Sign) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	began := s.now()
	ctx, cancel := context.WithTimeout(r.Context(), time.Duration(s.Timeout))
	defer cancel()
	c, err := s.prepare(ctx, w, r)
	c.began = began
	defer c.free()
	defer traceCall(r, c)
	defer s.settle(ctx, c) // also when the proxy panics, as it does if the app has gone
	if err == nil {
		w.Header().Set(headerExternalID, c.externalID)
		if again := c.repeatable; again != nil && again.Answer != nil {
			c.outcome = outcomeReplayed
			w.Header().Set(headerReplayed, "true")
			return replay(w, again.Answer)
		}
		err = s.send(ctx, c, w, r, next)
	}
	if err == nil {
		observe(trace.SpanFromContext(ctx), addedOut, s.now().Sub(began)-c.elsewhere)
		return nil
	}
	failed, ok := errors.AsType[*localError](err)
	if !ok {
		return err
	}
	c.outcome = failed.reason
	s.log.LogAttrs(ctx, slog.LevelWarn, "call not made", slog.String("account", c.name()), slog.String("service", string(c.service)),
		slog.String("external_id", c.externalID), slog.String("reason", failed.reason), slog.String("error", failed.Error()), slog.String("hint", outboundHints[failed.reason]))
	err = answer(w, c.service, failed.c, failed.reason)
	if c.repeatable != nil {
		_ = http.NewResponseController(w).Flush() // the app need not wait until the outcome is noted
	}
	return err
}

// send hands the call on.
func (s *Sign) send(ctx context.Context, c *call, w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if c.repeatable != nil {
		// DOKU's answer is wanted even if the app hangs up: its repeat gets it.
		detached, cancel := detach(ctx)
		defer cancel()
		ctx = detached
	}
	out := r.WithContext(context.WithValue(ctx, callKey{}, c))
	out.Body, out.ContentLength = nil, 0 // the transport has the bytes
	if err := next.ServeHTTP(w, out); err != nil {
		return c.failure(err)
	}
	return nil
}

// settle counts what has become of a call, and keeps it if the app may ask again.
func (s *Sign) settle(ctx context.Context, c *call) {
	switch {
	case c.outcome != "":
	case c.answered:
		c.outcome = answeredBy(c.status)
	default:
		c.outcome = outcomeCancelled
		if c.written.Load() || c.uncertain {
			c.outcome = "outcome_unknown"
		}
		s.log.LogAttrs(ctx, slog.LevelWarn, "the app has hung up before there was an answer", slog.String("account", c.name()), slog.String("service", string(c.service)),
			slog.String("external_id", c.externalID), slog.String("reason", c.outcome), slog.String("hint", outboundHints[c.outcome]))
	}
	s.tell(ctx, c)
	c.count(c.outcome)
	if c.repeatable == nil || c.repeatable.Answer != nil {
		return
	}
	var err error
	if c.answer != nil {
		err = c.repeatable.Answered(ctx, *c.answer)
	} else {
		err = c.repeatable.Failed(ctx, c.written.Load())
	}
	if err != nil {
		s.log.LogAttrs(ctx, slog.LevelWarn, "the outcome of a call was not kept; a repeat will be sent with the same external id",
			slog.String("account", c.name()), slog.String("external_id", c.externalID), slog.String("error", err.Error()))
	}
}

// tell logs a call that has DOKU's answer: of the others, a warning has told.
func (s *Sign) tell(ctx context.Context, c *call) {
	level, message, hint := slog.LevelDebug, "call to DOKU answered", answeredHints[c.outcome]
	if hint != "" {
		level, message = slog.LevelWarn, "DOKU has not carried out a call"
	}
	if outboundHints[c.outcome] != "" || !s.log.Enabled(ctx, level) {
		return
	}
	status, replayed := c.status, c.outcome == outcomeReplayed
	if replayed {
		status = c.repeatable.Answer.Status
	}
	attrs := []slog.Attr{
		slog.String("account", c.name()), slog.String("service", string(c.service)), slog.String("external_id", c.externalID),
		slog.String("outcome", c.outcome), slog.Int("status", status), slog.Duration("took", s.now().Sub(c.began)),
	}
	if hint != "" {
		attrs = append(attrs, slog.String("reason", c.outcome), slog.String("hint", hint))
	}
	s.log.LogAttrs(ctx, level, message, attrs...) //nolint:sloglint // one of two
}

// prepare reads the app's request. The call it returns is never nil.
func (s *Sign) prepare(ctx context.Context, w http.ResponseWriter, r *http.Request) (*call, error) {
	c := &call{channelID: r.Header.Get(snap.HeaderChannelID)}
	c.service, _ = snap.ServiceOf(r.Method, r.URL.Path)
	err := s.fill(c.beginSigning(ctx), c, w, r)
	return c, err
}

func (s *Sign) fill(ctx context.Context, c *call, w http.ResponseWriter, r *http.Request) (err error) {
	if c.account, err = s.chooser.account(r); err != nil {
		return &localError{snap.InvalidFieldFormat.With("[no such account; nothing was sent]"), "account", err}
	}
	if err := c.partner(r.Header); err != nil {
		return err
	}
	c.credentials = c.account.credentials()
	if c.channelID == "" {
		c.channelID = s.ChannelID
	}
	if err := s.identify(c, r.Header); err != nil {
		return err
	}
	if err := s.readBody(ctx, c, w, r); err != nil {
		return err
	}
	if err := s.repeat(ctx, c, r); err != nil {
		return err
	}
	if c.repeatable != nil && c.repeatable.Answer != nil {
		return nil
	}
	if err := s.token(ctx, c); err != nil {
		return c.failure(err)
	}
	return nil
}

// token sees to it that there is a token, so that the transport finds one.
func (s *Sign) token(ctx context.Context, c *call) error {
	if _, ok := c.account.tokens.Current(ctx); ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.TokenTimeout))
	defer cancel()
	if _, err := c.token(ctx); err != nil {
		return noToken(err)
	}
	return nil
}

// repeat finds out whether the call was made before, if the app has given it an
// idempotency key.
func (s *Sign) repeat(ctx context.Context, c *call, r *http.Request) error {
	if s.IdempotencyHeader == "off" {
		return nil
	}
	values := r.Header.Values(s.IdempotencyHeader)
	if len(values) == 0 {
		return nil
	}
	if len(values) > 1 || !idempotency.ValidKey(values[0]) {
		return &localError{
			snap.InvalidFieldFormat.With(s.IdempotencyHeader + " [expected 1 to 255 visible ASCII characters, once]"), "idempotency_key",
			errors.New("the app's idempotency key is not 1 to 255 visible ASCII characters, once"),
		}
	}
	asking, span := startSpan(ctx, "doku.repeat")
	again, err := c.account.repeats.Begin(asking, idempotency.Keyed{
		Key:        values[0],
		Digest:     idempotency.CallDigest(r.Method, snap.RequestTarget(r.URL.RequestURI()), c.digest),
		ExternalID: c.externalID,
		Own:        c.ownID,
	})
	span.End()
	switch {
	case err == nil && again.Answer != nil:
		c.repeatable, c.externalID = again, again.Answer.Header.Get(headerExternalID)
		return nil
	case err == nil:
		c.repeatable, c.externalID, c.uncertain = again, again.ExternalID, again.Uncertain
		return nil
	case errors.Is(err, idempotency.ErrKeyReused):
		return &localError{snap.Unprocessable.With("[" + s.IdempotencyHeader + " was used for another call before; nothing was sent]"), "idempotency_key_reused", err}
	case errors.Is(err, store.ErrInFlight):
		return &localError{snap.Timeout.With("[outcome: unknown; a call with the same " + s.IdempotencyHeader + " is still under way]"), "in_flight", err}
	case s.app.OnStoreError == storeErrorContinue && ctx.Err() == nil:
		c.externalID, c.uncertain = again.ExternalID, again.Uncertain
		s.log.LogAttrs(ctx, slog.LevelWarn, "the store is away: a call is made without protection against repeats",
			slog.String("account", c.name()), slog.String("external_id", c.externalID), slog.String("error", err.Error()))
		return nil
	}
	return &localError{snap.Unavailable.With("[outcome: unknown; the store is away, so nothing was sent now, but DOKU may have carried out an earlier attempt with this " +
		s.IdempotencyHeader + ": ask for its status, or repeat with the same " + s.IdempotencyHeader + "]"), "store", err}
}

// partner refuses a call that the app means for another account than the one that
// was chosen.
func (c *call) partner(h http.Header) error {
	values := snap.HeaderValues(h, snap.HeaderPartnerID)
	if len(values) == 0 || len(values) == 1 && values[0] == c.account.clientID {
		return nil
	}
	return &localError{
		snap.InvalidFieldFormat.With(fmt.Sprintf("X-PARTNER-ID [expected %s, the client id of the account that was chosen, or none; found %.60q; nothing was sent]", c.account.clientID, values)), "account",
		fmt.Errorf("the app's X-PARTNER-ID: expected %s, the client id of account %q, or none, found %.60q", c.account.clientID, c.account.Name, values),
	}
}

// identify gives the call the app's X-EXTERNAL-ID or a new one.
func (s *Sign) identify(c *call, h http.Header) (err error) {
	values := snap.HeaderValues(h, snap.HeaderExternalID)
	if len(values) == 0 {
		if c.externalID, err = signer.ExternalID(s.now(), s.random); err != nil {
			return &localError{snap.GeneralError, "external_id", err}
		}
		return nil
	}
	if len(values) > 1 || !signer.ValidExternalID(values[0]) {
		return &localError{
			snap.InvalidFieldFormat.With("X-EXTERNAL-ID [expected 1 to 36 digits, once; or leave it out]"), "external_id",
			errors.New("X-EXTERNAL-ID of the app is not 1 to 36 digits, once"),
		}
	}
	c.externalID, c.ownID = values[0], true
	return nil
}

// readBody reads the app's body and makes it ready to be signed and sent.
func (s *Sign) readBody(ctx context.Context, c *call, w http.ResponseWriter, r *http.Request) error {
	began := s.now()
	control := http.NewResponseController(w)
	deadline, _ := ctx.Deadline()
	limited := control.SetReadDeadline(deadline) == nil // not every writer has deadlines
	raw, err := readBody(r, s.MaxBody, memory)
	if limited && err == nil {
		err = control.SetReadDeadline(time.Time{})
	}
	c.elsewhere += s.now().Sub(began)
	defer func() { recycle(raw) }() // what goes on is a copy
	if err != nil {
		abandon(w, r)
		if errors.Is(err, errTooLarge) {
			return &localError{snap.BodyTooLarge.With(fmt.Sprintf("[more than max_body, %d bytes]", s.MaxBody)), "body_too_large", err}
		}
		return &localError{snap.BadRequest.With("[the request body ended early, or took too long]"), "body_unreadable", err}
	}
	if len(raw) > 0 {
		var hazards []snap.Hazard
		if s.Body == bodyMinify {
			c.body, err = snap.AppendMinified(memory(len(raw)), raw)
		} else {
			c.body, hazards, err = snap.AppendCanonical(memory(len(raw)), raw)
		}
		if err != nil {
			return &localError{snap.BadRequest.With("[the body is not JSON: " + err.Error() + "]"), "body_not_json", err}
		}
		if len(hazards) > 0 {
			list := describe(hazards)
			if s.Body == bodyStrict {
				return &localError{snap.InvalidFieldFormat.With(list), "body_unsafe", errors.New(list)}
			}
			s.log.LogAttrs(ctx, slog.LevelWarn, "the body has parts that DOKU may hash otherwise than they were signed; send amounts as strings and every key once",
				slog.String("account", c.name()), slog.String("service", string(c.service)), slog.String("hazards", list))
		}
	}
	c.digest = snap.Digest(c.body)
	return nil
}

func describe(hazards []snap.Hazard) string {
	parts := make([]string, len(hazards))
	for i, hazard := range hazards {
		parts[i] = fmt.Sprintf("%s: %s", hazard.Path, hazard.Kind)
	}
	return strings.Join(parts, "; ")
}

func noToken(err error) error {
	what := "[no B2B token: DOKU could not be reached; nothing was sent]"
	if errors.Is(err, tokens.ErrTokenRefused) {
		what = "[no B2B token: DOKU refused the request for one; check client_id, private_key and environment; nothing was sent]"
	} else if errors.Is(err, tokens.ErrTokenAnswer) {
		what = "[no B2B token: DOKU's answer was unusable; nothing was sent]"
	}
	return &localError{snap.Unavailable.With(what), "token", err}
}

// failure turns the error of a call into what the app must know: whether DOKU may
// have received it.
func (c *call) failure(err error) error {
	local, ok := errors.AsType[*localError](err)
	err = plain(err)
	switch {
	case c.written.Load():
		return &localError{snap.Timeout.With("[outcome: unknown; DOKU may have carried this out: ask for its status, do not create it again]"), "outcome_unknown", err}
	case c.uncertain:
		return &localError{snap.Timeout.With("[outcome: unknown; nothing was sent now, but DOKU may have carried out an earlier attempt: ask for its status, do not create it again]"), "outcome_unknown", err}
	case ok:
		return local
	}
	return &localError{snap.Unavailable.With("[no connection to DOKU; nothing was sent]"), "unreachable", err}
}

var (
	_ caddy.Provisioner           = (*Sign)(nil)
	_ caddy.Validator             = (*Sign)(nil)
	_ caddyhttp.MiddlewareHandler = (*Sign)(nil)
)
