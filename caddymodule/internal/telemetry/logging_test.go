package telemetry

import (
	"bytes"
	"context"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/trace"
)

func TestWhatIsLoggedWithinATraceNamesIt(t *testing.T) {
	t.Parallel()
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}})
	traced := trace.ContextWithSpanContext(t.Context(), span)
	ids := `"traceID":"` + span.TraceID().String() + `","spanID":"` + span.SpanID().String() + `"`
	request := caddyhttp.PrepareRequest(httptest.NewRequestWithContext(traced, "GET", "/", nil), caddy.NewReplacer(), httptest.NewRecorder(),
		&caddyhttp.Server{})
	tests := []struct {
		name string
		ctx  context.Context
		log  func(*slog.Logger) *slog.Logger
		want bool
	}{
		{"in the background, with a span", traced, func(l *slog.Logger) *slog.Logger { return l }, true},
		{"with attributes", traced, func(l *slog.Logger) *slog.Logger { return l.With("account", "a") }, true},
		{"without a span", t.Context(), func(l *slog.Logger) *slog.Logger { return l }, false},
		{"in a request, for which Caddy does it", request.Context(), func(l *slog.Logger) *slog.Logger { return l }, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			live := new(CurrentLog)
			live.Use(slog.New(TracedHandler{slog.NewJSONHandler(&out, nil)}))
			test.log(slog.New(live)).InfoContext(test.ctx, "got a B2B token")
			if strings.Contains(out.String(), ids) != test.want {
				t.Errorf("found %s", out.String())
			}
		})
	}
}
