package telemetry

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// LastProvider remembers the provider of the last recorded span, for spans that no
// request begins: Caddy does not give its provider away. The zero value is ready.
type LastProvider struct {
	last atomic.Pointer[trace.TracerProvider]
}

// See remembers the provider of span.
func (p *LastProvider) See(span trace.Span) {
	provider := span.TracerProvider()
	if last := p.last.Load(); last == nil || *last != provider {
		p.last.Store(&provider)
	}
}

// Use remembers a provider, if none is known.
func (p *LastProvider) Use(provider trace.TracerProvider) { p.last.CompareAndSwap(nil, &provider) }

// Get returns the provider, or one that records nothing.
func (p *LastProvider) Get() trace.TracerProvider {
	if last := p.last.Load(); last != nil {
		return *last
	}
	return noop.NewTracerProvider()
}

// TraceOf returns the traceparent of ctx, or "" if its trace is not recorded.
func TraceOf(ctx context.Context) string {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return ""
	}
	return traceparent(span.SpanContext())
}

func traceparent(span trace.SpanContext) string {
	return fmt.Sprintf("00-%s-%s-%s", span.TraceID(), span.SpanID(), span.TraceFlags())
}

// SpanOf returns the span that a traceparent names, or an invalid one.
func SpanOf(text string) trace.SpanContext {
	parts := strings.Split(text, "-")
	if len(parts) != 4 {
		return trace.SpanContext{}
	}
	traceID, err := trace.TraceIDFromHex(parts[1])
	if err != nil {
		return trace.SpanContext{}
	}
	spanID, err := trace.SpanIDFromHex(parts[2])
	if err != nil {
		return trace.SpanContext{}
	}
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: spanID, TraceFlags: trace.FlagsSampled, Remote: true})
}
