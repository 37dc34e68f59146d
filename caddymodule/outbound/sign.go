// Package outbound has the modules for calls from the app to DOKU: the handler
// doku_sign, and the transport and the upstream source for its reverse_proxy.
package outbound

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/refusal"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/idempotency"
	"github.com/caddy-doku/caddy-doku/snap"
)

func init() {
	caddy.RegisterModule(Sign{})
}

// Sign prepares a plain request of the app for DOKU, and finds everything that can go
// wrong before it is sent: it finds the account, reads the body up to a limit and makes
// it canonical, gives the call an X-EXTERNAL-ID, and gets a B2B token. A
// `reverse_proxy` with the transport `doku` must follow, which signs; the Caddyfile
// directive `doku_sign` sets up both.
//
// The app can give a call an idempotency key. For 48 hours, a repeat with the same key
// has the same X-EXTERNAL-ID. While the first call is under way, a repeat waits for its
// answer. After a final answer from DOKU (2xx, or 4xx other than 401, 408, 409, 425 and
// 429) it gets that answer again, with the header `X-Doku-Replayed`. After anything
// else it is sent once more. If an error has the header `X-Doku-Earlier-Attempt:
// unknown`, an earlier attempt may have succeeded: ask for the status before you do
// anything else.
//
// The sidecar itself answers a call that it cannot send, with JSON of DOKU's shape
// (`responseCode`, `responseMessage`) and the header `X-Doku-Error`:
//
// | X-Doku-Error | HTTP status | meaning |
// |---|---|---|
// | `browser` | 403 | a web page in a browser called, or an app that hands a visitor's headers on; nothing was sent |
// | `host` | 403 | the call came over loopback with another Host; the answer has the `allow_hosts` line for it; nothing was sent |
// | `method` | 405 | not GET, POST, PUT, PATCH or DELETE; nothing was sent |
// | `target` | 400 | the URL has a byte that no URL may have; nothing was sent |
// | `token_path` | 403 | DOKU's path for a B2B token, which the sidecar gets itself; nothing was sent |
// | `not_snap` | 403 | a path that DOKU signs in another way; nothing was sent |
// | `account` | 400 | there is no such account, or the app's X-PARTNER-ID is not its client id; nothing was sent |
// | `body_too_large` | 413 | larger than `max_body`; nothing was sent |
// | `body_unreadable` | 400 | the app's request ended early, or took longer than `timeout`; nothing was sent |
// | `body_not_json` | 400 | not a JSON object in UTF-8, with the offset; nothing was sent |
// | `body_unsafe` | 400 | only with `body strict`: what DOKU may read otherwise, with its JSON path; nothing was sent |
// | `external_id` | 400 | the app's X-EXTERNAL-ID is not 1 to 64 letters, digits and any of `-_.:+`; nothing was sent |
// | `header_repeated` | 400 | CHANNEL-ID, X-IP-ADDRESS, X-DEVICE-ID or Authorization-Customer occurs twice; nothing was sent |
// | `idempotency_key` | 400 | the app's key is not 1 to 255 visible ASCII characters; nothing was sent |
// | `idempotency_key_reused` | 422 | the key was used for another call before; nothing was sent |
// | `in_flight` | 504 | a call with the same key is still under way; ask for the status, or repeat |
// | `store` | 503 | the store is away, so the key cannot be looked up; nothing was sent now, but an earlier attempt may have reached DOKU: ask for the status, or repeat with the same key |
// | `token` | 503 | no B2B token available; nothing was sent |
// | `unreachable` | 503 | no connection to DOKU; nothing was sent |
// | `outcome_unknown` | 504 | sent, but no answer came; DOKU may have done it: ask for the status, don't create again |
//
// DOKU's own answers pass through unchanged, with the header `X-Doku-External-Id`
// added.
type Sign struct {
	// The name of the account, which may be a placeholder such as
	// `{http.request.header.X-Brand}`. Default: the only account, or the one whose
	// client id is in the X-PARTNER-ID of the app's request. A request that has an
	// X-PARTNER-ID and is for another account is refused.
	Account string `json:"account,omitempty"`

	// How the body changes before it is signed and sent. `canonical` (the default)
	// removes white space and needless escapes, so that DOKU computes the same hash
	// however it minifies the body. `strict` does the same, and refuses a body that
	// cannot be made safe, such as one with floating-point amounts or duplicate keys.
	// `minify` only removes white space.
	Body string `json:"body,omitempty"`

	// The largest body in bytes. Default: 1 MiB.
	MaxBody int64 `json:"max_body,omitempty"`

	// The CHANNEL-ID of calls that have none of their own. Default: `DH` for paths below
	// `/direct-debit/`, `H2H` for all others.
	ChannelID string `json:"channel_id,omitempty"`

	// More names under which the app may call over a loopback address, such as
	// `host.docker.internal`. `localhost`, names below it, 127.0.0.0/8 and `[::1]` are
	// always allowed. The check stops web pages that give their own name the address
	// 127.0.0.1.
	AllowHosts []string `json:"allow_hosts,omitempty"`

	// More paths of DOKU that are not SNAP, so that calls to them are refused: in lower
	// case, with a `*` at the end for all paths below. Known are `/checkout/*`,
	// `/orders/v1/status/*`, `/…-virtual-account/v2/payment-code`,
	// `/credit-card/v1/payment-page`, `/shopeepay-emoney/v2/order`, `/ovo-emoney/v1/payment`
	// and `/dokuwallet-emoney/v1/payment`.
	NotSNAP []string `json:"not_snap,omitempty"`

	// The header in which the app may give a call an idempotency key, or `off`.
	// Default: `Idempotency-Key`.
	IdempotencyHeader string `json:"idempotency_header,omitempty"`

	// How long a call may take in total, including the wait for a token. Default: `60s`.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// How long a call may wait for a token. Default: `10s`.
	TokenTimeout caddy.Duration `json:"token_timeout,omitempty"`

	app       *doku.App
	strangers *telemetry.Few // of refused calls
	selector  *doku.Selector
	allowed   []string // AllowHosts, as they are compared
	log       *slog.Logger
	now       func() time.Time
	random    io.Reader
}

// The values of the option body.
const (
	bodyCanonical = "canonical"
	bodyStrict    = "strict"
	bodyMinify    = "minify"
)

// CaddyModule returns the Caddy module information.
func (Sign) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.doku_sign", New: func() caddy.Module { return new(Sign) }}
}

// Provision finds the account and sets the defaults.
func (s *Sign) Provision(ctx caddy.Context) error {
	var err error
	if s.app, err = doku.Find(ctx); err != nil {
		return err
	}
	if s.selector, err = s.app.Select(s.Account, snap.HeaderPartnerID, (*doku.Account).ID); err != nil {
		return err
	}
	if s.Body == "" {
		s.Body = bodyCanonical
	}
	if s.MaxBody == 0 {
		s.MaxBody = httpio.DefaultMaxBody
	}
	if s.allowed, err = readHosts(s.AllowHosts); err != nil {
		return err
	}
	if s.IdempotencyHeader == "" {
		s.IdempotencyHeader = httpio.HeaderIdempotencyKey
	}
	if s.Timeout == 0 {
		s.Timeout = caddy.Duration(time.Minute)
	}
	if s.TokenTimeout == 0 {
		s.TokenTimeout = caddy.Duration(10 * time.Second)
	}
	s.log, s.now, s.random = telemetry.Log(ctx.Slogger()), time.Now, rand.Reader
	s.strangers = telemetry.NewFew(s.log)
	if server, served := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); served {
		s.warnOfOtherListeners(server.Listen)
	}
	return nil
}

// warnOfOtherListeners warns of listeners that other machines can reach. Caddy listens
// on all interfaces even for a site named http://127.0.0.1:9180: the name is matched
// with the request's Host.
func (s *Sign) warnOfOtherListeners(addresses []string) {
	for _, text := range addresses {
		address, err := caddy.ParseNetworkAddress(text)
		if err != nil || address.IsUnixNetwork() || address.Host == "localhost" || net.ParseIP(address.Host).IsLoopback() {
			continue
		}
		s.log.Warn(
			"doku_sign can be reached from other machines, and anybody who reaches it acts in your name: write `bind 127.0.0.1` in its site, unless only the app gets through to it",
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
	return checkPatterns(s.NotSNAP)
}

// ServeHTTP prepares the call, passes it on, and answers if it cannot be sent.
func (s *Sign) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	began := s.now()
	ctx, cancel := context.WithTimeout(r.Context(), time.Duration(s.Timeout))
	defer cancel()
	telemetry.Cleanse(trace.SpanFromContext(ctx))
	c, err := s.prepare(ctx, w, r)
	c.began = began
	defer c.free()
	defer traceCall(r, c)
	defer s.finish(ctx, c) // also when the proxy panics, as it does if the app has gone
	if err == nil {
		if c.path != b2b2cTokenPath { // which is sent without
			w.Header().Set(httpio.HeaderExternalID, c.externalID)
		}
		if again := c.keyed; again != nil && again.Answer != nil {
			c.outcome = reasons.Replayed
			w.Header().Set(httpio.HeaderReplayed, "true")
			dropCORS(again.Answer.Header) // kept by an earlier version
			return httpio.Replay(w, again.Answer)
		}
		err = s.send(ctx, c, w, r, next)
	}
	if err == nil {
		telemetry.Observe(trace.SpanFromContext(ctx), telemetry.AddedOutbound, s.now().Sub(began)-c.waited)
		return nil
	}
	failed, ok := errors.AsType[*reasons.Rejection](err)
	if !ok {
		return err
	}
	c.outcome = failed.Reason
	if !isStrangers(failed.Reason) || s.strangers.Allow(telemetry.Refusals{Reason: failed.Reason}) { //nolint:contextcheck // see inbound
		s.log.LogAttrs(ctx, slog.LevelWarn, "call not made", c.logAttrs(
			slog.String("reason", failed.Reason), slog.String("error", failed.Error()),
			slog.String("hint", reasons.Outbound.Hint(failed.Reason)))...)
	}
	err = httpio.Reject(w, c.service, failed.Case, failed.Reason)
	if c.keyed != nil {
		_ = http.NewResponseController(w).Flush() // the app need not wait until the outcome is noted
	}
	return err
}

// isStrangers reports whether a call was refused that is probably not the app's: a web page
// can make thousands of them.
func isStrangers(reason string) bool {
	return reason == reasons.Browser || reason == reasons.Host || reason == reasons.Method
}

// Cleanup writes to the log how many more calls were refused.
func (s *Sign) Cleanup() error {
	if s.strangers != nil {
		s.strangers.Close()
	}
	return nil
}

// send passes the call on to the transport.
func (s *Sign) send(ctx context.Context, c *call, w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if c.keyed != nil {
		// DOKU's answer is wanted even if the app hangs up: its repeat gets it.
		detached, cancel := httpio.Detach(ctx)
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

// finish counts and logs the outcome of a call, and keeps its answer for repeats.
func (s *Sign) finish(ctx context.Context, c *call) {
	switch {
	case c.outcome != "":
	case c.answered:
		c.outcome = telemetry.OutcomeOf(c.result)
	default:
		c.outcome = reasons.Cancelled
		if c.written.Load() || c.maybeSent {
			c.outcome = reasons.OutcomeUnknown
		}
		s.log.LogAttrs(ctx, slog.LevelWarn, "the app hung up before there was an answer", c.logAttrs(
			slog.String("reason", c.outcome), slog.String("hint", reasons.Outbound.Hint(c.outcome)))...)
	}
	s.logOutcome(ctx, c)
	c.count(c.outcome)
	if c.keyed == nil || c.keyed.Answer != nil {
		return
	}
	var err error
	if c.answer != nil {
		answer := *c.answer
		if !idempotency.Final(c.result) {
			answer.Status = c.result // not to be kept, though the HTTP status is 2xx
		}
		err = c.keyed.Complete(ctx, answer)
	} else {
		err = c.keyed.Abort(ctx, c.written.Load())
	}
	if err != nil {
		s.log.LogAttrs(ctx, slog.LevelWarn, "the outcome of a call was not kept; a repeat will be sent with the same external id",
			c.logAttrs(slog.String("error", err.Error()))...)
	}
}

// logOutcome logs a call that DOKU has answered. The others have a warning already.
func (s *Sign) logOutcome(ctx context.Context, c *call) {
	outcome := reasons.Outbound.Find(c.outcome)
	if outcome.Case.Status != 0 || c.outcome == reasons.Cancelled {
		return
	}
	level, message, hint := slog.LevelDebug, "call to DOKU answered", outcome.Hint
	if c.outcome == reasons.Declined {
		hint = strings.Join(refusal.LikelyCauses(c.method, c.target, c.result, c.body), "; ")
	}
	if hint != "" {
		level, message = slog.LevelWarn, "DOKU has not carried out a call"
	}
	if !s.log.Enabled(ctx, level) {
		return
	}
	status := c.status
	if c.outcome == reasons.Replayed {
		status = c.keyed.Answer.Status
	}
	attrs := c.logAttrs(slog.String("outcome", c.outcome), slog.Int("status", status), slog.Duration("took", s.now().Sub(c.began)))
	if hint != "" {
		attrs = append(append(attrs, refusal.Said(c.plain)...), slog.String("reason", c.outcome), slog.String("hint", hint))
	}
	s.log.LogAttrs(ctx, level, message, attrs...) //nolint:sloglint // one of two
}

var (
	_ caddy.Provisioner           = (*Sign)(nil)
	_ caddy.Validator             = (*Sign)(nil)
	_ caddy.CleanerUpper          = (*Sign)(nil)
	_ caddyhttp.MiddlewareHandler = (*Sign)(nil)
)
