package inbound

import (
	"fmt"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/directive"
	"github.com/caddy-doku/caddy-doku/snap"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("doku_token", parseToken)
	httpcaddyfile.RegisterHandlerDirective("doku_verify", parseVerify)
}

func parseToken(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	t := new(Token)
	if err := t.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return t, doku.CheckAccount(h, t.Account)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	doku_token [<matcher>] [<account>] {
//		account <name>
//	}
func (t *Token) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the directive's name
	if d.NextArg() {
		t.Account = d.Val()
	}
	return directive.Block(d, func() error {
		if d.Val() == "account" {
			return directive.Text(d, &t.Account)
		}
		return directive.Unknown(d, "account")
	})
}

func parseVerify(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	v := new(Verify)
	if err := v.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return v, doku.CheckAccount(h, v.Account)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	doku_verify [<matcher>] [<account>] {
//		account       <name>
//		service       <code>
//		token         issued|any|none
//		signature     symmetric|asymmetric...
//		enforce       on|report
//		public_prefix <path>
//		public_target <path>
//		max_body      <size>
//		body_timeout  <duration>
//		timeout       <duration>
//		app_answers   strict|loose
//		app_host      <host>
//		pass_headers  <names...>
//	}
func (v *Verify) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the directive's name
	if d.NextArg() {
		v.Account = d.Val()
	}
	return directive.Block(d, func() error {
		switch d.Val() {
		case "account":
			return directive.Text(d, &v.Account)
		case "service":
			if err := directive.Text(d, &v.Service); err != nil {
				return err
			}
			if err := checkService(v.Service); err != nil {
				return d.WrapErr(err)
			}
			return nil
		case "token":
			return directive.Text(d, &v.Token)
		case "signature":
			return directive.Texts(d, &v.Signatures)
		case "enforce":
			return directive.Text(d, &v.Enforce)
		case "public_prefix":
			return directive.Text(d, &v.PublicPrefix)
		case "public_target":
			return directive.Text(d, &v.PublicTarget)
		case "app_answers":
			return directive.Text(d, &v.AppAnswers)
		case "body_timeout":
			return directive.Duration(d, &v.BodyTimeout)
		case "max_body":
			return directive.Size(d, &v.MaxBody, directive.MaxBodyLimit)
		case "timeout":
			return directive.Duration(d, &v.Timeout)
		case "app_host":
			return directive.Text(d, &v.AppHost)
		case "pass_headers":
			return directive.Texts(d, &v.PassHeaders)
		}
		return directive.Unknown(d, "account", "service", "token", "signature", "enforce", "public_prefix", "public_target", "max_body",
			"body_timeout", "timeout", "app_answers", "app_host", "pass_headers")
	})
}

// checkService returns an error, with the option's name, for a service that DOKU does not
// call the merchant for.
func checkService(service string) error {
	if err := snap.Service(service).CheckInbound(); err != nil {
		return fmt.Errorf("service: %w", err)
	}
	return nil
}

var (
	_ caddyfile.Unmarshaler = (*Token)(nil)
	_ caddyfile.Unmarshaler = (*Verify)(nil)
)
