package doku

import (
	"context"
	"errors"
	"net/http"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/tokens"
	"github.com/caddy-doku/caddy-doku/snap"
)

// fetchTrace is a token fetch, for the traces of the calls that wait for it.
type fetchTrace struct {
	reason tokens.Reason
	span   trace.SpanContext
}

// aroundFetch traces and counts a token fetch: see [tokens.Config].
func (rt *runtime) aroundFetch(fetch, cause context.Context, reason tokens.Reason) (context.Context, func(error)) {
	fetch, counted := rt.countRefresh(fetch, cause, reason)
	fetch, traced := rt.traceFetch(fetch, cause, reason)
	return fetch, func(err error) {
		counted(err)
		traced(err)
	}
}

// traceFetch puts a token fetch on the trace of the call that waits for it. If no call
// waits, the fetch gets a trace of its own, linked with the call that started it.
func (rt *runtime) traceFetch(fetch, cause context.Context, reason tokens.Reason) (context.Context, func(error)) {
	causing := trace.SpanFromContext(cause)
	if !causing.IsRecording() {
		rt.fetch.Store(&fetchTrace{reason: reason})
		return fetch, func(error) {}
	}
	options := []trace.SpanStartOption{trace.WithAttributes(telemetry.KeyRefreshReason.String(string(reason)))}
	background := reason == tokens.ReasonAhead
	if background {
		options = append(options, trace.WithNewRoot(), trace.WithLinks(trace.Link{SpanContext: causing.SpanContext()}))
	} else {
		fetch = trace.ContextWithSpan(fetch, causing)
	}
	fetch, span := telemetry.Tracer(causing.TracerProvider()).Start(fetch, "doku.token.fetch", options...)
	if background {
		causing.AddLink(trace.Link{SpanContext: span.SpanContext()})
	}
	rt.fetch.Store(&fetchTrace{reason, span.SpanContext()})
	return fetch, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, tokenFailure(err))
		}
		span.End()
	}
}

// tokenFailure returns the kind of a fetch's error.
func tokenFailure(err error) string {
	for _, known := range []error{tokens.ErrRefused, tokens.ErrUnusable, tokens.ErrUnreachable, tokens.ErrClosed} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return telemetry.ErrorType(err)
}

// token returns the B2B token. Waiting for one is a span of its own.
func (rt *runtime) token(ctx context.Context) (tokens.Token, error) {
	if token, ok := rt.tokens.Current(ctx); ok {
		return token, nil
	}
	ctx, span := telemetry.StartSpan(ctx, "doku.token")
	defer span.End()
	token, err := rt.tokens.Token(ctx)
	if !span.IsRecording() {
		return token, err
	}
	if fetch := rt.fetch.Load(); fetch != nil {
		span.SetAttributes(telemetry.KeyRefreshReason.String(string(fetch.reason)))
		if fetch.span.IsValid() && fetch.span.TraceID() != span.SpanContext().TraceID() { // another call had started it
			span.AddLink(trace.Link{SpanContext: fetch.span})
		}
	}
	if err != nil {
		span.SetStatus(codes.Error, tokenFailure(err))
	}
	return token, err
}

// tracedTransport makes the token requests, each in a span. No trace header goes to
// DOKU.
type tracedTransport struct{ *http.Transport }

func (t tracedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, span := telemetry.StartClient(req.Context(), req.Method, req.URL, true)
	if span.IsRecording() {
		req = req.WithContext(ctx)
		span.SetAttributes(telemetry.KeyService.String(string(snap.ServiceB2BToken)))
	}
	resp, err := t.Transport.RoundTrip(req)
	telemetry.EndClient(span, resp, err)
	return resp, err
}
