package caddymodule

import (
	"context"
	"log/slog"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/trace"
)

// tracedHandler adds the ids of the trace to what is logged within one, under the
// names that Caddy uses. Caddy itself does it for what a request's context comes
// with; this is for the rest, such as a token that is fetched in the background.
type tracedHandler struct{ slog.Handler }

func (h tracedHandler) Handle(ctx context.Context, r slog.Record) error {
	_, ofRequest := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
	if span := trace.SpanContextFromContext(ctx); span.IsValid() && !ofRequest {
		r = r.Clone()
		r.AddAttrs(slog.String("traceID", span.TraceID().String()), slog.String("spanID", span.SpanID().String())) //nolint:sloglint // Caddy's names
	}
	return h.Handler.Handle(ctx, r)
}

func (h tracedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return tracedHandler{h.Handler.WithAttrs(attrs)}
}

func (h tracedHandler) WithGroup(name string) slog.Handler {
	return tracedHandler{h.Handler.WithGroup(name)}
}
