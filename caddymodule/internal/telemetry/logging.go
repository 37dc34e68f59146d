package telemetry

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/trace"
)

// TracedHandler adds trace and span id to log lines, under the names that Caddy uses.
// Caddy does it for a request's own context; this is for the rest, such as a token
// fetch in the background.
type TracedHandler struct{ slog.Handler }

// Handle implements [slog.Handler].
func (h TracedHandler) Handle(ctx context.Context, r slog.Record) error {
	_, ofRequest := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields)
	if span := trace.SpanContextFromContext(ctx); span.IsValid() && !ofRequest {
		r = r.Clone()
		traceID, spanID := span.TraceID().String(), span.SpanID().String()
		r.AddAttrs(slog.String("traceID", traceID), slog.String("spanID", spanID)) //nolint:sloglint // Caddy's names
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (h TracedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return TracedHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements [slog.Handler].
func (h TracedHandler) WithGroup(name string) slog.Handler {
	return TracedHandler{h.Handler.WithGroup(name)}
}

// CurrentLog is a log handler that outlives a reload: it writes to the log of the
// configuration in use, which [CurrentLog.Use] sets. The zero value discards.
type CurrentLog struct{ current atomic.Pointer[slog.Logger] }

// Use sets the log to write to.
func (h *CurrentLog) Use(log *slog.Logger) { h.current.Store(log) }

func (h *CurrentLog) handler() slog.Handler {
	if log := h.current.Load(); log != nil {
		return log.Handler()
	}
	return slog.DiscardHandler
}

// Enabled implements [slog.Handler].
func (h *CurrentLog) Enabled(ctx context.Context, level slog.Level) bool {
	return h.handler().Enabled(ctx, level)
}

// Handle implements [slog.Handler].
func (h *CurrentLog) Handle(ctx context.Context, r slog.Record) error {
	return h.handler().Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (h *CurrentLog) WithAttrs(attrs []slog.Attr) slog.Handler { return h.handler().WithAttrs(attrs) }

// WithGroup implements [slog.Handler].
func (h *CurrentLog) WithGroup(name string) slog.Handler { return h.handler().WithGroup(name) }
