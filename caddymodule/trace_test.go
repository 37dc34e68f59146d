package caddymodule

import (
	"context"
	"net/http"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

func TestACallIsOnTheTraceOfItsRequest(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	handler := h.sign(t, new(Sign))
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	ctx, server := provider.Tracer("test").Start(context.Background(), "server")
	for _, trxID := range []string{"INV-1", "INV-2"} {
		if w := serve(t, handler, create(ctx, trxID)); w.Code != http.StatusOK {
			t.Fatalf("HTTP %d %s", w.Code, w.Body)
		}
	}
	server.End()
	var names []string
	for _, span := range recorder.Ended() {
		if span.SpanContext().TraceID() != server.SpanContext().TraceID() {
			t.Errorf("%s is on a trace of its own", span.Name())
		}
		names = append(names, span.Name())
	}
	// Only the first call waits for a token.
	want := []string{"doku.token", "doku.prepare", "POST", "doku.prepare", "POST", "server"}
	if len(names) != len(want) {
		t.Fatalf("spans %v, expected %v", names, want)
	}
	for i := range want {
		if names[i] != want[i] {
			t.Fatalf("spans %v, expected %v", names, want)
		}
	}
}
