package inbound

import (
	"context"
	"errors"
	"net/http"

	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/ledger"
	"github.com/caddy-doku/caddy-doku/snap"
)

// traceVerified adds the result of verifying to its span.
func (in *call) traceVerified(span trace.Span, rejection *reasons.Rejection) {
	span.SetAttributes(telemetry.CallAttributes(in.accountName(), in.service, in.id.ExternalID, in.ref())...)
	if in.aged {
		span.SetAttributes(telemetry.KeyClockDifference.Float64(in.age.Seconds()))
	}
	if rejection != nil {
		telemetry.RejectedBy(span, rejection.Reason)
		return
	}
	span.SetAttributes(
		telemetry.KeySignatureForm.String(string(in.verified.Signature)),
		telemetry.KeyBodyForm.String(string(in.verified.BodyForm)),
	)
}

// ref returns the virtual account that a verified call is about. Anybody can write the
// body of another one.
func (in *call) ref() snap.Reference {
	if in.reference == nil && in.id.ExternalID != "" {
		b := snap.ReferenceOf(in.body)
		in.reference = &b
	}
	if in.reference == nil {
		return snap.Reference{}
	}
	return *in.reference
}

// traceLinks links the trace of a verified call with those of the earlier calls about
// the same virtual account.
func (in *call) traceLinks(ctx context.Context) {
	span := in.span
	if !span.IsRecording() {
		return
	}
	in.account.Provider().See(span)
	linkCaller(ctx, span)
	telemetry.NameServer(span, in.method, in.target, in.service)
	ref := in.ref()
	span.SetAttributes(telemetry.CallAttributes(in.account.Name, in.service, in.id.ExternalID, ref)...)
	for _, link := range in.account.Links().Find(ctx, ref) {
		span.AddLink(link)
	}
}

// traceOutcome adds the outcome to the span of DOKU's request.
func (in *call) traceOutcome(ctx context.Context, outcome string, answer []byte) {
	span := in.span
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(telemetry.KeyOutcome.String(outcome))
	span.SetAttributes(telemetry.ResponseCode(answer)...)
	if in.service == snap.ServiceVAInquiry && outcome == reasons.Accepted {
		in.account.Links().Add(ctx, in.ref().Or(snap.ReferenceOf(answer)), span.SpanContext())
	}
}

// ledgerResult names the ledger's finding.
func ledgerResult(out ledger.Outcome, err error) string {
	switch {
	case errors.Is(err, ledger.ErrConflict):
		return "conflict"
	case errors.Is(err, ledger.ErrInFlight):
		return "in_flight"
	case errors.Is(err, ledger.ErrLedger):
		return "unavailable"
	case errors.Is(err, ledger.ErrNotRecorded):
		return "not_recorded"
	case out.Replayed:
		return "repeat"
	case out.Changed:
		return "changed"
	}
	return "new"
}

// traceIssued adds to the span of DOKU's token request that it got a token.
func traceIssued(r *http.Request, account string) {
	if span := trace.SpanFromContext(r.Context()); span.IsRecording() {
		telemetry.NameServer(span, r.Method, r.URL.Path, snap.ServiceB2BToken)
		linkCaller(r.Context(), span)
		span.SetAttributes(telemetry.KeyAccount.String(account), telemetry.KeyService.String(string(snap.ServiceB2BToken)),
			telemetry.KeyOutcome.String(reasons.Issued), telemetry.KeyResponseCode.String(snap.Successful.Code(snap.ServiceB2BToken)))
	}
}
