package inbound

import (
	"context"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/directive"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
)

// isTracing reports whether a handler begins spans.
func isTracing(h caddyhttp.MiddlewareHandler) bool {
	module, ok := h.(caddy.Module)
	if !ok {
		return false
	}
	id := module.CaddyModule().ID
	return id == "http.handlers.tracing" || id == "http.handlers."+directive.Tracing
}

// TracerProvider returns the provider of the site's spans, or nil if the site has none. Caddy
// gives its provider only to requests; one that belongs to a trace that is not sampled, and
// reaches nobody, asks for it.
func (k Kept) TracerProvider(ctx context.Context, server *caddyhttp.Server) trace.TracerProvider {
	if k.site.tracing == nil {
		return nil
	}
	unsampled := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, Remote: true})
	ctx = trace.ContextWithRemoteSpanContext(ctx, unsampled)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/", http.NoBody)
	if err != nil {
		return nil
	}
	w := httpio.NewDetachedRecorder()
	var provider trace.TracerProvider
	err = k.site.tracing.ServeHTTP(w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, server),
		caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
			if span := trace.SpanFromContext(r.Context()); span.SpanContext().SpanID() != unsampled.SpanID() {
				provider = span.TracerProvider()
			}
			return nil
		}))
	if err != nil {
		return nil
	}
	return provider
}
