package inbound

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/appanswer"
	"github.com/caddy-doku/caddy-doku/internal/ledger"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

var answers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// deliver passes a verified call to the app, unless it is a repeat, and answers DOKU.
func (v *Verify) deliver(in *call, rej rejecter, w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	// The app may finish, and its answer is recorded, even if DOKU hangs up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), time.Duration(v.Timeout))
	defer cancel()
	buffer := answers.Get().(*bytes.Buffer)
	buffer.Reset()
	defer func() {
		if buffer.Cap() <= httpio.MaxPooled {
			answers.Put(buffer)
		}
	}()
	in.traceLinks(ctx)
	ctx, span := telemetry.StartSpan(ctx, "doku.ledger")
	defer span.End()
	app := httpio.NewRecorder(w, buffer)
	var rejection *reasons.Rejection // the app gave no answer
	out, err := in.account.Ledger().Deliver(ctx, in.id, func() (store.Answer, error) {
		var answer store.Answer
		if answer, rejection = v.callApp(ctx, app, next, r, in); rejection != nil {
			return store.Answer{}, rejection
		}
		return answer, nil
	})
	if err != nil {
		app.Rollback()
		if rejection == nil {
			rejection = ledgerRejection(err)
		}
	}
	v.logOddities(ctx, in, out)
	if span.IsRecording() {
		span.SetAttributes(telemetry.KeyLedger.String(ledgerResult(out, err)))
	}
	if rejection != nil {
		return rej.reject(w, r, rejection)
	}
	if out.Replayed {
		rej.count(reasons.Replayed)
		v.logOutcome(ctx, in, reasons.Replayed, out.Answer.Status)
		in.traceOutcome(r.Context(), reasons.Replayed, out.Answer.Body)
		return httpio.Replay(w, &out.Answer)
	}
	outcome := reasons.Accepted
	if out.Answer.Status < 200 || out.Answer.Status > 299 {
		outcome = reasons.AppRefused
		v.logAppRefusal(ctx, in, app.Status(), out.Answer)
	}
	rej.count(outcome)
	v.logOutcome(ctx, in, outcome, out.Answer.Status)
	in.traceOutcome(r.Context(), outcome, out.Answer.Body)
	telemetry.Observe(in.span, telemetry.AddedInbound, v.now().Sub(in.began)-in.waited)
	return httpio.Write(w, &out.Answer)
}

// ledgerRejection returns the rejection for an error of the ledger.
func ledgerRejection(err error) *reasons.Rejection {
	switch {
	case errors.Is(err, ledger.ErrConflict):
		return reject(reasons.Conflict, "", err)
	case errors.Is(err, ledger.ErrInFlight):
		return reject(reasons.InFlight, "", err)
	case errors.Is(err, ledger.ErrLedger), errors.Is(err, ledger.ErrNotRecorded):
		return reject(reasons.Store, "", err)
	}
	return reject(reasons.Other, "", err)
}

// SourceDurable is the [httpio.ReplayFrom] source of an inbox that has kept a call
// without calling the app; SourceInbox that of an inbox that has called the app.
const (
	SourceInbox   = "inbox"
	SourceDurable = "durable"
)

// callApp calls the app, and returns its answer for DOKU. If the app gives no answer, or
// one that decides nothing, callApp returns why. Only callApp's own calls are observed: an
// inbox observes its attempts by itself, and to keep a call is the sidecar's own time.
func (v *Verify) callApp(ctx context.Context, app *httpio.Recorder, next caddyhttp.Handler, r *http.Request, in *call,
) (store.Answer, *reasons.Rejection) {
	began := v.now()
	r, span := telemetry.StartAppCall(v.forApp(ctx, r, in), true, v.traces)
	err := app.Record(ctx, func() error { return next.ServeHTTP(app, r) })
	took := v.now().Sub(began)
	if rejecter, ok := errors.AsType[reasons.Rejecter](err); ok {
		return store.Answer{}, rejecter.Rejection()
	}
	switch app.Source() {
	case SourceDurable: // the span is dropped: nobody has called the app
		return v.judge(ctx, in, app)
	case SourceInbox: // the span is dropped: each attempt has its own
		in.waited += took
		return v.judge(ctx, in, app)
	}
	telemetry.EndAppCall(span, r, app.Status(), err)
	in.waited += took
	rejection := appRejection(ctx, err, app.Status())
	if broken, ok := errors.AsType[httpio.BrokenError](err); ok {
		said := appanswer.JudgeBroken(in.service, app.Answer(), broken)
		rejection.Err, rejection.Hint = said, said.Hint()
	}
	if rejection == nil || rejection.Reason == reasons.AppTimeout {
		telemetry.Observe(in.span, telemetry.AppDuration.WithLabelValues(in.account.Name, string(in.service)), took)
	}
	if rejection != nil {
		return store.Answer{}, rejection
	}
	return v.judge(ctx, in, app)
}

// appRejection returns why the app gave no answer, or nil.
func appRejection(ctx context.Context, err error, status int) *reasons.Rejection {
	failure, handled := errors.AsType[caddyhttp.HandlerError](err)
	switch {
	case handled && failure.StatusCode == http.StatusGatewayTimeout || err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return reject(reasons.AppTimeout, "", httpio.Cause(err))
	case err != nil:
		return reject(reasons.AppUnreachable, "", httpio.Cause(err))
	case status == 0:
		return reject(reasons.AppMissing, "",
			errors.New("no handler answered: expected a reverse_proxy to the app after doku_verify, for the same path"))
	}
	return nil
}

// report passes a call on, whether it is verified or not, and reports the result.
func (v *Verify) report(in *call, rejection *reasons.Rejection, rej rejecter, w http.ResponseWriter, r *http.Request,
	next caddyhttp.Handler,
) (err error) {
	verified := rejection == nil
	out := r.Clone(in.passOn(r.Context(), false))
	unmarked(out.Header)
	in.mark(out.Header, verified)
	out.Trailer = nil // see forApp
	switch {
	case in.read:
		out.Body = io.NopCloser(bytes.NewReader(in.body))
	case len(in.body) > 0: // the start of a body whose reading failed
		out.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(in.body), r.Body), r.Body}
	}
	if verified {
		rej.count(reasons.Reported + reasons.Verified)
		v.logOutcome(r.Context(), in, reasons.Reported+reasons.Verified, 0)
		in.traceLinks(r.Context())
		in.traceOutcome(r.Context(), reasons.Reported+reasons.Verified, nil)
	} else {
		rej.report(r, "call from DOKU passed on unverified, since enforce is report", reasons.Reported+rejection.Reason, rejection)
	}
	out, span := telemetry.StartAppCall(out, verified, v.traces)
	defer func() { telemetry.EndAppCall(span, out, 0, err) }()
	answer := newAnswered(w)
	if err = next.ServeHTTP(answer, out); err == nil && !answer.began {
		return rej.reject(w, r, reject(reasons.AppMissing, "", errNoHandler))
	}
	return err
}

// logOutcome logs a verified call with its outcome. status is the app's, or 0 if it is
// not known.
func (v *Verify) logOutcome(ctx context.Context, in *call, outcome string, status int) {
	if !v.base.Log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	v.base.Log.LogAttrs(ctx, slog.LevelDebug, "call from DOKU verified", slog.String("account", in.account.Name),
		slog.String("service", string(in.service)), slog.String("external_id", in.id.ExternalID), slog.Duration("age", in.age),
		slog.String("signature_form", string(in.verified.Signature)), slog.String("body_form", string(in.verified.BodyForm)),
		slog.String("outcome", outcome), slog.Int("status", status))
}

// logOddities warns of a changed payment, of an external id of two payments, and of an
// outcome that is not recorded.
func (v *Verify) logOddities(ctx context.Context, in *call, out ledger.Outcome) {
	if !out.Changed && !out.Reused && out.Unkept == nil {
		return
	}
	attrs := []slog.Attr{
		slog.String("account", in.account.Name), slog.String("service", string(in.service)), slog.String("external_id", in.id.ExternalID),
	}
	if out.Changed {
		telemetry.ChangedPayments.WithLabelValues(in.account.Name).Inc()
		v.base.Log.LogAttrs(
			ctx,
			slog.LevelWarn,
			"a notification is about a payment that the app accepted with another body before; the app got it too, and has to tell them apart",
			append(attrs, slog.String("payment_id", in.id.PaymentID))...)
	}
	if out.Reused {
		v.base.Log.LogAttrs(ctx, slog.LevelWarn,
			"two notifications of one day have the same external id, which is not signed; the app got both",
			append(attrs, slog.String("payment_id", in.id.PaymentID))...)
	}
	if out.Unkept != nil {
		v.base.Log.LogAttrs(ctx, slog.LevelWarn,
			"the ledger does not know the outcome of a call: a repeat may wait for a while, or reach the app again",
			append(attrs, slog.String("error", out.Unkept.Error()))...)
	}
}
