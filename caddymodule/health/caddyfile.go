package health

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/directive"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("doku_health", parseHealth)
}

func parseHealth(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	health := new(Health)
	return health, health.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	doku_health [<matcher>] {
//		token required|reported
//		store required|reported
//		inbox required|reported
//	}
func (h *Health) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the directive's name
	return directive.Block(d, func() error {
		switch d.Val() {
		case doku.CheckToken:
			return directive.Text(d, &h.Token)
		case doku.CheckStore:
			return directive.Text(d, &h.Store)
		case doku.CheckInbox:
			return directive.Text(d, &h.Inbox)
		}
		return directive.Unknown(d, doku.CheckToken, doku.CheckStore, doku.CheckInbox)
	})
}

var _ caddyfile.Unmarshaler = (*Health)(nil)
