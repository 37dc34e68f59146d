package caddymodule

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/verifier"
)

// eventRefused is the name of the event of a call of DOKU's, or of somebody who
// says so, that was not accepted.
const eventRefused = "doku_call_refused"

// guard is what the handlers of inbound calls have in common.
type guard struct {
	ctx    caddy.Context
	events *caddyevents.App
	log    *slog.Logger
}

func newGuard(ctx caddy.Context) (guard, error) {
	events, err := ctx.App("events")
	if err != nil {
		return guard{}, fmt.Errorf("getting events app: %w", err)
	}
	return guard{ctx: ctx, events: events.(*caddyevents.App), log: ctx.Slogger()}, nil
}

// refuser answers a call that must not reach the app, or that the app has not
// taken. What is the matter is said six times: in a log line, a counter, a
// placeholder, a span and an event with the precise reason, and to DOKU by its case
// only.
type refuser struct {
	guard
	account string
	service snap.Service
}

// refusal is why a call is refused: what DOKU is told, and the reason.
type refusal struct {
	c      snap.Case
	reason string
	err    error
}

// refusalOf returns the refusal that an error of the verifier's is.
func refusalOf(err error) refusal {
	if refused, ok := errors.AsType[*verifier.Refusal](err); ok {
		return refusal{refused.Case, verifier.Reason(err), err}
	}
	return refusal{snap.GeneralError, "other", err}
}

// unread is the refusal of a call whose body could not be read.
func unread(err error) refusal {
	if errors.Is(err, errTooLarge) {
		return refusal{snap.BodyTooLarge, "body_too_large", err}
	}
	return refusal{snap.BadRequest, "body_unreadable", err}
}

// notPOST is the error of a call that is made in another way than DOKU's.
func notPOST(method string) error { return fmt.Errorf("expected POST, found %.20q", method) }

// stranger is the refusal of a call for which there is no account: what an account
// answers that does not know its caller.
func stranger(h http.Header, header string, err error) refusal {
	if len(h.Values(header)) == 0 {
		return refusal{snap.InvalidMandatory.With(header), "header_missing", err}
	}
	return refusal{snap.UnknownClient, "client_unknown", err}
}

// refuse tells and answers.
func (f refuser) refuse(w http.ResponseWriter, r *http.Request, why refusal) error {
	f.tell(r, "call from DOKU not accepted", why.reason, why)
	return answer(w, f.service, why.c, outside(why.reason))
}

// count counts a call by what has become of it.
func (f refuser) count(outcome string) {
	calls.WithLabelValues(directionIn, f.account, string(f.service), outcome).Inc()
}

// tell tells everybody but DOKU. outcome is what becomes of the call.
func (f refuser) tell(r *http.Request, message, outcome string, why refusal) {
	f.count(outcome)
	f.trace(r, outcome, why)
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.doku.reason", why.reason)
	}
	externalID := fmt.Sprintf("%.128s", r.Header.Get(snap.HeaderExternalID))
	f.log.LogAttrs(r.Context(), slog.LevelWarn, message, //nolint:sloglint // one of two
		slog.String("account", f.account),
		slog.String("service", string(f.service)),
		slog.String("response_code", why.c.Code(f.service)),
		slog.String("reason", why.reason),
		slog.String("error", why.err.Error()),
		slog.String("hint", inboundHints[why.reason]),
		slog.String("external_id", externalID),
		slog.String("remote", r.RemoteAddr))
	if f.events.ShouldEmit(eventRefused) {
		f.events.Emit(f.ctx, eventRefused, map[string]any{
			"account": f.account, "service": string(f.service), "response_code": why.c.Code(f.service),
			"reason": why.reason, "external_id": externalID, "remote": r.RemoteAddr,
		})
	}
}

// outside returns what a stranger may know of a reason: not which of the
// checks of a signature failed.
func outside(reason string) string {
	if reason == "signature_format" {
		return "signature"
	}
	return reason
}
