package moduletest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// Traces records spans. They start where the tracing directive starts its own.
type Traces struct {
	*tracetest.SpanRecorder
	Provider *sdktrace.TracerProvider
}

// NewTraces returns an empty record.
func NewTraces() *Traces {
	recorder := tracetest.NewSpanRecorder()
	return &Traces{recorder, sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))}
}

// Serve gives a request to a handler inside the span of a server.
func (tr *Traces) Serve(t testing.TB, handler caddyhttp.Handler, r *http.Request) *httptest.ResponseRecorder {
	t.Helper()
	ctx, span := tr.Provider.Tracer("test").Start(r.Context(), "handler", trace.WithSpanKind(trace.SpanKindServer))
	defer span.End()
	return Serve(t, handler, r.WithContext(ctx))
}

// Tree draws the ended spans of the trace of the last root span with this name: a line
// for each, indented below its parent, with the values of keys.
func (tr *Traces) Tree(name string, keys ...attribute.Key) string {
	var of trace.TraceID
	all := tr.Ended()
	for _, span := range all {
		if span.Name() == name && !span.Parent().IsValid() {
			of = span.SpanContext().TraceID()
		}
	}
	all = slices.DeleteFunc(slices.Clone(all), func(s sdktrace.ReadOnlySpan) bool { return s.SpanContext().TraceID() != of })
	slices.SortStableFunc(all, func(a, b sdktrace.ReadOnlySpan) int { return a.StartTime().Compare(b.StartTime()) })
	var out strings.Builder
	var draw func(parent trace.SpanID, depth int)
	draw = func(parent trace.SpanID, depth int) {
		for _, span := range all {
			if span.Parent().SpanID() != parent {
				continue
			}
			fmt.Fprintf(&out, "%s%s", strings.Repeat("  ", depth), span.Name())
			for _, key := range keys {
				if value := AttributeOf(span, key); value != "" {
					fmt.Fprintf(&out, " %s", value)
				}
			}
			out.WriteByte('\n')
			draw(span.SpanContext().SpanID(), depth+1)
		}
	}
	draw(trace.SpanID{}, 0)
	return strings.TrimSpace(out.String())
}

// Last returns the last ended span with this name.
func (tr *Traces) Last(t testing.TB, name string) sdktrace.ReadOnlySpan {
	t.Helper()
	for _, span := range slices.Backward(tr.Ended()) {
		if span.Name() == name {
			return span
		}
	}
	t.Fatalf("there is no span %q", name)
	return nil
}

// AttributeOf returns the value of an attribute, or "".
func AttributeOf(span sdktrace.ReadOnlySpan, key attribute.Key) string {
	for _, kv := range span.Attributes() {
		if kv.Key == key {
			return kv.Value.String()
		}
	}
	return ""
}

// Linked reports whether a span has a link to another.
func Linked(from, to sdktrace.ReadOnlySpan) bool {
	return slices.ContainsFunc(from.Links(), func(l sdktrace.Link) bool {
		return l.SpanContext.TraceID() == to.SpanContext().TraceID() && l.SpanContext.SpanID() == to.SpanContext().SpanID()
	})
}

// Traceparent returns a span as the header Traceparent names it.
func Traceparent(span trace.SpanContext) string {
	return fmt.Sprintf("00-%s-%s-%s", span.TraceID(), span.SpanID(), span.TraceFlags())
}

// Same reports an error if two texts differ.
func Same(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n%s\nexpected:\n%s", what, got, want)
	}
}

// Measured returns what a histogram has measured.
func Measured(t testing.TB, o prometheus.Observer) *dto.Histogram {
	t.Helper()
	var m dto.Metric
	if err := o.(prometheus.Metric).Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetHistogram()
}

// Gather returns the metrics of the configuration, by name.
func (env *Env) Gather(t testing.TB) map[string][]*dto.Metric {
	t.Helper()
	families, err := env.Ctx.GetMetricsRegistry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string][]*dto.Metric)
	for _, family := range families {
		all[family.GetName()] = family.GetMetric()
	}
	return all
}
