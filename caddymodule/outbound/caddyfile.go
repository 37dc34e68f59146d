package outbound

import (
	"encoding/json"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/directive"
)

func init() {
	httpcaddyfile.RegisterDirective("doku_sign", parseSign)
}

// parseSign sets up the handler doku_sign and, behind it, the proxy to DOKU:
//
//	doku_sign [<matcher>] { … }
//
// is the same as
//
//	reverse_proxy [<matcher>] {
//		dynamic doku
//		transport doku
//	}
//
// with the handler doku_sign in front.
func parseSign(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	if !h.Next() {
		return nil, h.ArgErr()
	}
	matcher, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	sign := new(Sign)
	if err := sign.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	if err := doku.CheckAccount(h, sign.Account); err != nil {
		return nil, err
	}
	proxy := &reverseproxy.Handler{
		TransportRaw:        caddyconfig.JSONModuleObject(struct{}{}, "protocol", "doku", nil),
		DynamicUpstreamsRaw: caddyconfig.JSONModuleObject(struct{}{}, "source", "doku", nil),
	}
	route := caddyhttp.Route{
		HandlersRaw: []json.RawMessage{
			caddyconfig.JSONModuleObject(sign, "handler", "doku_sign", nil),
			caddyconfig.JSONModuleObject(proxy, "handler", "reverse_proxy", nil),
		},
	}
	if matcher != nil {
		route.MatcherSetsRaw = []caddy.ModuleMap{matcher}
	}
	return []httpcaddyfile.ConfigValue{{Class: "route", Value: route}}, nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	doku_sign [<matcher>] [<account>] {
//		account            <name>
//		body               canonical|strict|minify
//		max_body           <size>
//		channel_id         <id>
//		allow_hosts        <name...>
//		not_snap           <path...>
//		idempotency_header <name>|off
//		timeout            <duration>
//		token_timeout      <duration>
//	}
func (s *Sign) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the directive's name
	if d.NextArg() {
		s.Account = d.Val()
	}
	return directive.Block(d, func() error {
		switch d.Val() {
		case "account":
			return directive.Text(d, &s.Account)
		case "idempotency_header":
			return directive.Text(d, &s.IdempotencyHeader)
		case "token_timeout":
			return directive.Duration(d, &s.TokenTimeout)
		case "body":
			return directive.Text(d, &s.Body)
		case "max_body":
			return directive.Size(d, &s.MaxBody, directive.MaxBodyLimit)
		case "channel_id":
			return directive.Text(d, &s.ChannelID)
		case "allow_hosts":
			return directive.Texts(d, &s.AllowHosts)
		case "not_snap":
			return directive.Texts(d, &s.NotSNAP)
		case "timeout":
			return directive.Duration(d, &s.Timeout)
		}
		return directive.Unknown(d, "account", "body", "max_body", "channel_id", "allow_hosts", "not_snap", "idempotency_header", "timeout",
			"token_timeout")
	})
}

// UnmarshalCaddyfile sets up the transport from Caddyfile tokens: the
// subdirectives of the http transport. Syntax:
//
//	transport doku {
//		<options of the http transport...>
//	}
func (t *Transport) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return t.HTTPTransport.UnmarshalCaddyfile(d)
}

// UnmarshalCaddyfile sets up the upstream source from Caddyfile tokens. Syntax:
//
//	dynamic doku
func (u *Upstreams) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the source's name
	if d.NextArg() {
		return d.ArgErr()
	}
	if d.NextBlock(0) {
		return d.Errf("unexpected '%s': dynamic doku has no options", d.Val())
	}
	return nil
}

var (
	_ caddyfile.Unmarshaler = (*Sign)(nil)
	_ caddyfile.Unmarshaler = (*Transport)(nil)
	_ caddyfile.Unmarshaler = (*Upstreams)(nil)
)
