package inbound

import (
	"context"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/contrib/propagators/autoprop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

func init() {
	caddy.RegisterModule(UntrustedTrace{})
	httpcaddyfile.RegisterHandlerDirective("doku_untrusted_trace", parseUntrustedTrace)
}

// UntrustedTrace sets the caller's trace aside, before `tracing` sees it. The caller then
// decides neither the trace id nor whether the call is sampled, and its tracestate and
// baggage reach nobody. Once `doku_verify` or `doku_token` has proved that the call is
// DOKU's, its span gets a link to DOKU's trace.
//
// The headers are those of `OTEL_PROPAGATORS`, and traceparent, tracestate and baggage.
type UntrustedTrace struct {
	traces propagation.TextMapPropagator
	fields []string
}

// CaddyModule returns the Caddy module information.
func (UntrustedTrace) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.doku_untrusted_trace", New: func() caddy.Module { return new(UntrustedTrace) }}
}

// Provision finds the headers.
func (u *UntrustedTrace) Provision(caddy.Context) error {
	u.traces = autoprop.NewTextMapPropagator()
	for name := range headerSet(append(u.traces.Fields(), "Traceparent", "Tracestate", "Baggage")...) {
		u.fields = append(u.fields, name)
	}
	return nil
}

// ServeHTTP removes the caller's trace from the request.
func (u *UntrustedTrace) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	traced := false
	for _, name := range u.fields {
		traced = traced || len(r.Header[name]) > 0
	}
	if !traced {
		return next.ServeHTTP(w, r)
	}
	ctx := r.Context() // it has no span yet
	if span := trace.SpanContextFromContext(u.traces.Extract(ctx, propagation.HeaderCarrier(r.Header))); span.IsValid() {
		r = r.WithContext(context.WithValue(ctx, untrustedKey{}, span))
	}
	for _, name := range u.fields {
		delete(r.Header, name)
	}
	return next.ServeHTTP(w, r)
}

type untrustedKey struct{}

// linkCaller links the span of a call that is DOKU's with the trace that DOKU sent.
func linkCaller(ctx context.Context, span trace.Span) {
	if callers, found := ctx.Value(untrustedKey{}).(trace.SpanContext); found && span.IsRecording() {
		span.AddLink(trace.Link{SpanContext: callers.WithTraceState(trace.TraceState{})})
	}
}

func parseUntrustedTrace(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	u := new(UntrustedTrace)
	return u, u.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	doku_untrusted_trace [<matcher>]
func (u *UntrustedTrace) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the directive's name
	if d.NextArg() || d.NextBlock(0) {
		return d.ArgErr()
	}
	return nil
}

var (
	_ caddy.Provisioner           = (*UntrustedTrace)(nil)
	_ caddyhttp.MiddlewareHandler = (*UntrustedTrace)(nil)
	_ caddyfile.Unmarshaler       = (*UntrustedTrace)(nil)
)
