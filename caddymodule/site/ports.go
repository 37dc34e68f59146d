package site

import (
	"context"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
)

func init() {
	doku.RegisterPart(func(app *doku.App) doku.Part { return &ports{app: app} })
}

// ports are those of the sites with handlers of ours.
type ports struct {
	app   *doku.App
	sites *caddyhttp.App // or nil
}

// Start implements [doku.Part].
func (p *ports) Start(prometheus.Registerer) error { return nil }

// Run implements [doku.Part].
func (p *ports) Run(context.Context) {}

// Close implements [doku.Part].
func (p *ports) Close() error { return nil }
