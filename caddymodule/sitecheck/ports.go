package sitecheck

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/directive"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/routes"
)

func init() {
	doku.RegisterFirstPart(func(app *doku.App) doku.Part { return &ports{app: app} })
}

// ports are those of the sites with handlers of ours. Caddy's listeners share their ports
// with other processes, so that two sidecars would serve the same site: the kernel would
// give each call to either of them, and neither would know what the other one has done.
type ports struct {
	app   *doku.App
	sites *caddyhttp.App // or nil
	asked bool           // another process must not have the ports
}

// Start refuses to start if another process listens on a port. A reload of the same process
// passes: its ports are its own. It implements [doku.Part].
func (p *ports) Start(prometheus.Registerer) error {
	if _, err := caddy.ActiveContext().AppIfConfigured("http"); err == nil || p.app.SharePorts || p.sites == nil {
		return nil
	}
	p.asked = true
	if taken := p.taken(context.Background()); taken != "" {
		return fmt.Errorf("%s: expected no other process there, since it would get some of the calls; stop it. "+
			"If it is a sidecar whose end overlaps with this start, write `share_ports` in the global option doku", taken)
	}
	return nil
}

// Run looks again, once this process listens too: of two that have started at the same
// moment, each sees the other one. It implements [doku.Part].
func (p *ports) Run(ctx context.Context) {
	if !p.asked {
		return
	}
	if taken := p.taken(ctx); taken != "" {
		p.app.Log().Error("two processes listen on one port, and each gets some of the calls: stop one of them", "error", taken)
	}
}

// Close implements [doku.Part].
func (p *ports) Close() error { return nil }

// taken says which port another process listens on, or "".
func (p *ports) taken(ctx context.Context) string {
	for _, name := range slices.Sorted(maps.Keys(p.sites.Servers)) {
		server := p.sites.Servers[name]
		if len(routes.New(server, nil).Places(routes.Named(directive.Names...))) == 0 {
			continue
		}
		for _, text := range server.Listen {
			address, err := caddy.ParseNetworkAddress(text)
			if err != nil {
				continue // Caddy reports it
			}
			for _, one := range address.Expand() {
				if by, found := listener(ctx, one); found {
					return fmt.Sprintf("another process%s listens on %s", by, one)
				}
			}
		}
	}
	return ""
}
