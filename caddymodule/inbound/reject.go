package inbound

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/verifier"
)

// eventRefused is the event of a call that was not accepted.
const eventRefused = "doku_call_refused"

// Base is what all handlers of inbound calls have: a log, and Caddy's events.
type Base struct {
	Log *slog.Logger

	ctx    caddy.Context
	events *caddyevents.App
}

// NewBase returns the base of a handler that is provisioned with ctx.
func NewBase(ctx caddy.Context) (Base, error) {
	events, err := ctx.App("events")
	if err != nil {
		return Base{}, fmt.Errorf("getting events app: %w", err)
	}
	return Base{ctx: ctx, events: events.(*caddyevents.App), Log: telemetry.Log(ctx.Slogger())}, nil
}

// Emit emits an event, if anybody has subscribed to it. data is called only then.
func (b Base) Emit(name string, data func() map[string]any) {
	if b.events.ShouldEmit(name) {
		b.events.Emit(b.ctx, name, data())
	}
}

// rejecter answers a call that must not reach the app, or that the app has not taken.
// A log line, a counter, a placeholder, a span and an event get the precise reason;
// DOKU gets the SNAP case only.
type rejecter struct {
	Base
	account string
	service snap.Service
	few     *telemetry.Few // of the calls that are not verified, or nil: each is logged
}

// reject returns the rejection for a reason of the inbound table.
func reject(reason, detail string, err error) *reasons.Rejection {
	return reasons.Inbound.Reject(reason, detail, err)
}

// rejectionOf returns the rejection for an error of the verifier.
func rejectionOf(err error) *reasons.Rejection {
	if refusal, ok := errors.AsType[*verifier.Refusal](err); ok {
		return &reasons.Rejection{Case: refusal.Case, Reason: verifier.Reason(err), Err: err}
	}
	return reject(reasons.Other, "", err)
}

// unread is the rejection of a call whose body could not be read.
func unread(err error) *reasons.Rejection {
	switch {
	case errors.Is(err, httpio.ErrTooLarge):
		return reject(reasons.BodyTooLarge, "", err)
	case errors.Is(err, httpio.ErrBusy):
		return reject(reasons.Busy, "", err)
	}
	return reject(reasons.BodyUnreadable, "", err)
}

func notPOST(method string) error { return fmt.Errorf("expected POST, found %.20q", method) }

// unknownClient is the rejection of a call that no account is found for. It is the one
// that an account gives to a caller it does not know.
func unknownClient(h http.Header, header string, err error) *reasons.Rejection {
	if len(h.Values(header)) == 0 {
		return reject(reasons.HeaderMissing, header, err)
	}
	return reject(reasons.ClientUnknown, "", err)
}

// reject reports the rejection and answers.
func (rej rejecter) reject(w http.ResponseWriter, r *http.Request, why *reasons.Rejection) error {
	message := "call from DOKU not accepted"
	if why.Reason == reasons.Kept {
		message = "a notification is kept: it is genuine, and the app has not taken it yet"
	}
	if why.Message != "" {
		message = why.Message
	}
	rej.report(r, message, why.Reason, why)
	return httpio.Reject(w, rej.service, why.Case, outside(why))
}

// like returns the refusals whose log lines are like this one's.
func (rej rejecter) like(reason string) telemetry.Refusals {
	return telemetry.Refusals{Reason: reason, Service: string(rej.service), Account: rej.account}
}

// count counts the call by its outcome.
func (rej rejecter) count(outcome string) {
	telemetry.Calls.WithLabelValues(telemetry.Inbound, rej.account, string(rej.service), outcome).Inc()
}

// report reports a rejection to everybody but DOKU. outcome is for the counter and the
// trace.
func (rej rejecter) report(r *http.Request, message, outcome string, why *reasons.Rejection) {
	rej.count(outcome)
	rej.trace(r, outcome, why)
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.doku.reason", why.Reason)
	}
	externalID := func() string { return telemetry.Printable(fmt.Sprintf("%.128s", r.Header.Get(snap.HeaderExternalID))) }
	if rej.few == nil || rej.few.Allow(rej.like(why.Reason)) { //nolint:contextcheck // its own line is of many calls
		rej.Log.LogAttrs(r.Context(), slog.LevelWarn, message, //nolint:sloglint // one of two
			slog.String("account", rej.account),
			slog.String("service", string(rej.service)),
			slog.String("response_code", why.Case.Code(rej.service)),
			slog.String("reason", why.Reason),
			slog.String("error", why.Err.Error()),
			slog.String("hint", rej.hint(why)),
			slog.String("external_id", externalID()),
			slog.String("remote", r.RemoteAddr))
	}
	rej.Emit(eventRefused, func() map[string]any {
		return map[string]any{
			"account": rej.account, "service": string(rej.service), "response_code": why.Case.Code(rej.service),
			"reason": why.Reason, "external_id": externalID(), "remote": r.RemoteAddr,
		}
	})
}

// hint says what the operator can do, and whether DOKU tries again.
func (rej rejecter) hint(why *reasons.Rejection) string {
	hint := cmp.Or(why.Hint, reasons.Inbound.Hint(why.Reason))
	if why.Case.Status < http.StatusInternalServerError || why.Reason == reasons.Kept {
		return hint
	}
	return hint + repeats(rej.service)
}

// repeats says whether DOKU repeats a call of a service that it got a 5xx for.
func repeats(service snap.Service) string {
	switch {
	case service.Notification():
		return "; DOKU tries again after 30 minutes, 6 hours and 12 hours"
	case service == snap.ServiceVAInquiry:
		return "; DOKU does not repeat an inquiry: a customer has got no answer at the bank"
	}
	return ""
}

// trace adds the rejection to the span of DOKU's request.
func (rej rejecter) trace(r *http.Request, outcome string, why *reasons.Rejection) {
	span := trace.SpanFromContext(r.Context())
	if !span.IsRecording() {
		return
	}
	// Without the path, unless the call was verified: anybody can invent one.
	telemetry.NameServer(span, r.Method, "", snap.ServiceUnknown)
	if rej.account != "" {
		span.SetAttributes(telemetry.KeyAccount.String(rej.account))
	}
	span.SetAttributes(telemetry.KeyService.String(string(rej.service)), telemetry.KeyOutcome.String(outcome),
		telemetry.KeyReason.String(why.Reason), telemetry.KeyResponseCode.String(why.Case.Code(rej.service)))
}
