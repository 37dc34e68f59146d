package inbound

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
)

func init() {
	doku.RegisterPart(func(app *doku.App) doku.Part { return newGuard(app) })
}

// guard bounds what callers cost who have not proved to be DOKU yet. All handlers of a
// configuration share it.
type guard struct {
	log *telemetry.Few

	// DOKU's calls have a share of their own, which strangers cannot use up.
	known, strangers *httpio.Budget
}

func newGuard(app *doku.App) *guard {
	calls, size := app.UnverifiedLimits()
	return &guard{telemetry.NewFew(app.Log()), httpio.NewBudget(calls, size), httpio.NewBudget(calls, size)}
}

// Start implements [doku.Part].
func (g *guard) Start(prometheus.Registerer) error { return nil }

// Run implements [doku.Part].
func (g *guard) Run(context.Context) {}

// Close implements [doku.Part].
func (g *guard) Close() error {
	g.log.Close()
	return nil
}

// share returns the budget for the body of a call that is not verified yet. known says that
// the caller has a token of ours, or DOKU's signature.
func (g *guard) share(known bool) *httpio.Budget {
	if known {
		return g.known
	}
	return g.strangers
}
