package caddymodule

import (
	"context"
	"net/http"
	"strconv"

	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/snap"
)

// The headers of our own.
const (
	headerAccount    = "X-Doku-Account"     // to the app: whose call this is
	headerService    = "X-Doku-Service"     // to the app: the service code
	headerIdempotent = "Idempotency-Key"    // to the app: the same for the same call
	headerError      = "X-Doku-Error"       // on an answer made here, why
	headerExternalID = "X-Doku-External-Id" // on DOKU's answers, the X-EXTERNAL-ID used
)

// answer writes the body that tells c, and marks it as made here by reason.
func answer(w http.ResponseWriter, service snap.Service, c snap.Case, reason string) error {
	body := c.Answer(service)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set(headerError, reason)
	w.WriteHeader(c.Status)
	_, err := w.Write(body)
	return err
}

// startSpan starts a span in the trace that ctx belongs to. Caddy's tracing
// directive has a provider of its own, which only the context leads to; without
// the directive the span costs nothing.
func startSpan(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	const tracer = "github.com/caddy-doku/caddy-doku/caddymodule"
	return trace.SpanFromContext(ctx).TracerProvider().Tracer(tracer).Start(ctx, name, options...)
}
