package outbound

import (
	"context"
	"net/http"
	"net/url"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/tokens"
	"github.com/caddy-doku/caddy-doku/snap"
)

// startSigning starts the span of an attempt's signature, unless it has started.
func (c *call) startSigning(ctx context.Context) context.Context {
	if c.signing == nil {
		ctx, c.signing = telemetry.StartSpan(ctx, "doku.sign") //nolint:spancheck // endSigning ends it
	} else if c.signing.IsRecording() {
		ctx = trace.ContextWithSpan(ctx, c.signing)
	}
	return ctx
}

// endSigning ends it. If there is no signature, reason says why.
func (c *call) endSigning(reason string) {
	if c.signing == nil {
		return
	}
	if c.signing.IsRecording() {
		c.signing.SetAttributes(c.attributes()...)
		if reason != "" {
			telemetry.RejectedBy(c.signing, reason)
		}
		c.signing.End()
	}
	c.signing = nil
}

// attributes returns the attributes that all spans of a call have.
func (c *call) attributes() []attribute.KeyValue {
	attrs := telemetry.CallAttributes(c.name(), c.service, c.externalID, c.ref())
	if c.sends > 0 {
		attrs = append(attrs, telemetry.KeyAttempt.Int(c.sends))
	}
	return attrs
}

// ref returns the virtual account that the call is about.
func (c *call) ref() snap.Reference {
	if c.reference == nil {
		b := snap.ReferenceOf(c.body)
		c.reference = &b
	}
	return *c.reference
}

// startAttempt starts the span of one attempt at a call.
func (c *call) startAttempt(ctx context.Context, req *http.Request, token tokens.Token) (context.Context, trace.Span) {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, trace.SpanFromContext(ctx)
	}
	target := &url.URL{Scheme: c.account.BaseURL().Scheme, Host: c.account.BaseURL().Host, Path: req.URL.Path, RawPath: req.URL.RawPath}
	ctx, span := telemetry.StartClient(ctx, req.Method, target, c.service != snap.ServiceUnknown)
	if span.IsRecording() { // the sampler may have chosen not to
		span.SetAttributes(c.attributes()...)
		if !token.Issued.IsZero() {
			span.SetAttributes(telemetry.KeyTokenAge.Float64(c.account.Clock().Now().Sub(token.Issued).Seconds()))
		}
		if c.sends > 1 {
			span.SetAttributes(semconv.HTTPRequestResendCount(c.sends - 1))
		}
	}
	return ctx, span
}

// endAttempt ends it.
func (c *call) endAttempt(span trace.Span, resp *http.Response, err error) {
	if span.IsRecording() {
		var outcome string
		switch {
		case err != nil && c.written.Load():
			outcome = reasons.OutcomeUnknown
		case err != nil:
			outcome = reasons.Unreachable
		case c.tokenRejected():
			outcome = "token_refused"
		default:
			outcome = telemetry.OutcomeOf(c.result)
		}
		span.SetAttributes(telemetry.KeyOutcome.String(outcome))
		if err == nil && c.answer != nil {
			span.SetAttributes(telemetry.ResponseCode(c.answer.Body)...)
		}
	}
	telemetry.EndClient(span, resp, err)
}

// traceCall adds the outcome of the call to the span of the app's request.
func traceCall(r *http.Request, c *call) {
	span := trace.SpanFromContext(r.Context())
	if !span.IsRecording() {
		return
	}
	given, reason := c.answer, c.outcome
	if c.outcome == reasons.Replayed {
		given, reason = c.keyed.Answer, ""
	}
	c.endSigning(reason) // if it got no further
	if given != nil {
		b := c.ref().Or(snap.ReferenceOf(given.Body)) // DOKU may have made the number
		c.reference = &b
		span.SetAttributes(telemetry.ResponseCode(given.Body)...)
	}
	telemetry.NameServer(span, r.Method, r.URL.Path, c.service)
	span.SetAttributes(c.attributes()...)
	span.SetAttributes(telemetry.KeyOutcome.String(c.outcome))
	if c.outcome == reasons.Succeeded && c.service == snap.ServiceVACreate && given != nil {
		c.account.Links().Add(r.Context(), c.ref(), span.SpanContext())
	}
}
