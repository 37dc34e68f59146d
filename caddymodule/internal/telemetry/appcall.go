package telemetry

import (
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// StartAppCall starts the span of a request to the app, below the span of its context.
// The returned request carries the trace to the app in its headers, which it changes.
// fewPaths is as in [StartClient]. End the span with [EndAppCall].
func StartAppCall(r *http.Request, fewPaths bool, into propagation.TextMapPropagator) (*http.Request, trace.Span) {
	ctx, span := StartClient(r.Context(), r.Method, &url.URL{Path: r.URL.Path}, fewPaths)
	if span.IsRecording() {
		r = r.WithContext(ctx)
	}
	if span.SpanContext().IsValid() { // also of a trace that is not sampled: the app then does not sample it either
		into.Inject(ctx, propagation.HeaderCarrier(r.Header))
	}
	return r, span
}

// EndAppCall ends the span of a request to the app with the status of its answer, or
// 0, or the error.
func EndAppCall(span trace.Span, r *http.Request, status int, err error) {
	defer span.End()
	if !span.IsRecording() {
		return
	}
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		if host, _ := repl.GetString("http.reverse_proxy.upstream.hostport"); host != "" {
			span.SetAttributes(serverOf(&url.URL{Scheme: "http", Host: host, Path: r.URL.Path})...)
		}
	}
	switch {
	case err != nil:
		failed(span, err)
	case status != 0:
		span.SetAttributes(semconv.HTTPResponseStatusCode(status))
		failedStatus(span, status)
	}
}
