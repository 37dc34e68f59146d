package site

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/directive"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
)

func init() {
	caddy.RegisterModule(Tracing{})
}

// Tracing is Caddy's `tracing` if the environment asks for traces, and does nothing if it
// does not. The variable OTEL_TRACES_EXPORTER is `none` (the default), `otlp` or `console`.
type Tracing struct {
	tracing caddyhttp.MiddlewareHandler // or nil
}

// exporterVariable names the exporter of traces.
const exporterVariable = "OTEL_TRACES_EXPORTER"

// CaddyModule returns the Caddy module information.
func (Tracing) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers." + directive.Tracing, New: func() caddy.Module { return new(Tracing) }}
}

// Provision loads Caddy's tracing, if it is asked for.
func (t *Tracing) Provision(ctx caddy.Context) error {
	exporters := []string{"none", "otlp", "console"}
	switch exporter := os.Getenv(exporterVariable); exporter {
	case "", "none":
		return nil
	case "otlp", "console":
	default:
		return fmt.Errorf("%s: expected %s, found %.40q%s", exporterVariable, strings.Join(exporters, ", "), exporter,
			directive.DidYouMean(exporter, exporters))
	}
	module, err := ctx.LoadModuleByID("http.handlers.tracing", json.RawMessage(`{"span":""}`))
	if err != nil {
		return err
	}
	tracing, ok := module.(caddyhttp.MiddlewareHandler)
	if !ok {
		return fmt.Errorf("expected a handler, found %T", module)
	}
	t.tracing = tracing
	return nil
}

// ServeHTTP passes a request on, in a span if traces are on.
func (t *Tracing) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if t.tracing == nil {
		return next.ServeHTTP(w, r)
	}
	return t.tracing.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		telemetry.Cleanse(trace.SpanFromContext(r.Context())) // whoever handles the request
		return next.ServeHTTP(w, r)
	}))
}

func parseTracing(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	t := new(Tracing)
	return t, t.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	doku_tracing [<matcher>]
func (t *Tracing) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return noOptions(d) }

// noOptions reads a directive that has neither arguments nor options.
func noOptions(d *caddyfile.Dispenser) error {
	d.Next() // consume the directive's name
	name := d.Val()
	return directive.Block(d, func() error { return d.Errf("%s has no options, found '%s'", name, d.Val()) })
}

var (
	_ caddy.Provisioner           = (*Tracing)(nil)
	_ caddyfile.Unmarshaler       = (*Tracing)(nil)
	_ caddyhttp.MiddlewareHandler = (*Tracing)(nil)
)
