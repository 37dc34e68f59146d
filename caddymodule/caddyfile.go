package caddymodule

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/dustin/go-humanize"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("doku", parseApp)
	httpcaddyfile.RegisterDirective("doku_sign", parseSign)
	httpcaddyfile.RegisterHandlerDirective("doku_token", parseToken)
	httpcaddyfile.RegisterHandlerDirective("doku_verify", parseVerify)
	httpcaddyfile.RegisterHandlerDirective("doku_inbox", parseInbox)
	httpcaddyfile.RegisterHandlerDirective("doku_health", parseHealth)
	// Before everything that may hand a request to the app: not only reverse_proxy,
	// but handle, route and whatever else is written beside them.
	httpcaddyfile.RegisterDirectiveOrder("doku_token", httpcaddyfile.Before, "basic_auth")
	httpcaddyfile.RegisterDirectiveOrder("doku_verify", httpcaddyfile.Before, "basic_auth")
	httpcaddyfile.RegisterDirectiveOrder("doku_sign", httpcaddyfile.Before, "reverse_proxy")
	httpcaddyfile.RegisterDirectiveOrder("doku_inbox", httpcaddyfile.Before, "reverse_proxy")
	// Behind whoever asks for a password, before everything that answers.
	httpcaddyfile.RegisterDirectiveOrder("doku_health", httpcaddyfile.Before, "invoke")
}

func parseApp(d *caddyfile.Dispenser, existing any) (any, error) {
	if existing != nil {
		return nil, d.Err("the global option doku is already specified; write all accounts in one block")
	}
	app := new(App)
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "doku", Value: caddyconfig.JSON(app, nil)}, nil
}

// UnmarshalCaddyfile sets up the app from Caddyfile tokens. Syntax:
//
//	doku {
//		environment sandbox|production|<base_url>
//		account [<name>] {
//			environment        sandbox|production|<base_url>
//			client_id          <id>
//			secret_key         <key>|<path> [<other>...]
//			private_key        <path>|<key>
//			passphrase         <passphrase>|<path>
//			doku_public_key    <path>|<key> [<another>...]
//			inbound_client_key <key>
//			inbound_partner_id <id>
//			partner_service_id <id>...
//		}
//		store            memory|redis [...]
//		on_store_error   refuse|continue
//		clock_correction on|off
//	}
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the option's name
	return block(d, func() error {
		switch d.Val() {
		case "environment":
			return once(d, &a.Environment)
		case "account":
			account := new(Account)
			a.Accounts = append(a.Accounts, account)
			return account.UnmarshalCaddyfile(d)
		case "store":
			return a.unmarshalStore(d)
		case "on_store_error":
			return once(d, &a.OnStoreError)
		case "clock_correction":
			return onOff(d, &a.ClockCorrection)
		}
		return unknown(d, "environment", "account", "store", "on_store_error", "clock_correction")
	})
}

// unmarshalStore reads the name of a module in doku.stores, and what it takes.
func (a *App) unmarshalStore(d *caddyfile.Dispenser) error {
	if a.StoreRaw != nil {
		return d.Err("store is already specified")
	}
	if !d.NextArg() {
		return d.ArgErr()
	}
	name := d.Val()
	opener, err := caddyfile.UnmarshalModule(d, "doku.stores."+name)
	if err != nil {
		return err
	}
	a.StoreRaw = caddyconfig.JSONModuleObject(opener, "store", name, nil)
	return nil
}

// UnmarshalCaddyfile sets up the store from Caddyfile tokens. Syntax:
//
//	store memory
func (m *MemoryStore) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the store's name
	return block(d, func() error { return d.Errf("unexpected '%s': the store memory has no options", d.Val()) })
}

// UnmarshalCaddyfile sets up the store from Caddyfile tokens. Syntax:
//
//	store redis <url> {
//		cluster
//		prefix <text>
//	}
func (r *RedisStore) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the store's name
	if !d.NextArg() {
		return d.Err("store redis: expected a URL such as redis://localhost:6379/0")
	}
	r.URL = d.Val()
	return block(d, func() error {
		switch d.Val() {
		case "cluster":
			r.Cluster = true
			if d.NextArg() {
				return d.ArgErr()
			}
			return nil
		case "prefix":
			return once(d, &r.Prefix)
		}
		return unknown(d, "cluster", "prefix")
	})
}

// UnmarshalCaddyfile sets up an account from Caddyfile tokens; the syntax is
// part of [App.UnmarshalCaddyfile]'s.
func (a *Account) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		a.Name = d.Val()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch d.Val() {
		case "environment":
			err = once(d, &a.Environment)
		case "client_id":
			err = once(d, &a.ClientID)
		case "secret_key":
			err = several(d, &a.SecretKeys)
		case "private_key":
			err = once(d, &a.PrivateKey)
		case "passphrase":
			err = once(d, &a.Passphrase)
		case "doku_public_key":
			err = several(d, &a.DOKUPublicKeys)
		case "inbound_client_key":
			err = once(d, &a.InboundClientKey)
		case "inbound_partner_id":
			err = once(d, &a.InboundPartnerID)
		case "partner_service_id":
			err = several(d, &a.PartnerServiceIDs)
		default:
			err = unknown(d, "environment", "client_id", "secret_key", "private_key", "passphrase", "doku_public_key", "inbound_client_key", "inbound_partner_id",
				"partner_service_id")
		}
		if err != nil {
			return err
		}
	}
	return nil
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
//		idempotency_header <name>|off
//		timeout            <duration>
//		token_timeout      <duration>
//	}
func (s *Sign) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the directive's name
	if d.NextArg() {
		s.Account = d.Val()
	}
	return block(d, func() error {
		switch d.Val() {
		case "account":
			return once(d, &s.Account)
		case "idempotency_header":
			return once(d, &s.IdempotencyHeader)
		case "token_timeout":
			return duration(d, &s.TokenTimeout)
		case "body":
			return once(d, &s.Body)
		case "max_body":
			return size(d, &s.MaxBody, largestBody)
		case "channel_id":
			return once(d, &s.ChannelID)
		case "timeout":
			return duration(d, &s.Timeout)
		}
		return unknown(d, "account", "body", "max_body", "channel_id", "idempotency_header", "timeout", "token_timeout")
	})
}

func parseToken(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	t := new(Token)
	return t, t.UnmarshalCaddyfile(h.Dispenser)
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
	return block(d, func() error {
		if d.Val() == "account" {
			return once(d, &t.Account)
		}
		return unknown(d, "account")
	})
}

func parseVerify(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	v := new(Verify)
	return v, v.UnmarshalCaddyfile(h.Dispenser)
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
//	}
func (v *Verify) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the directive's name
	if d.NextArg() {
		v.Account = d.Val()
	}
	return block(d, func() error {
		switch d.Val() {
		case "account":
			return once(d, &v.Account)
		case "service":
			return once(d, &v.Service)
		case "token":
			return once(d, &v.Token)
		case "signature":
			return several(d, &v.Signatures)
		case "enforce":
			return once(d, &v.Enforce)
		case "public_prefix":
			return once(d, &v.PublicPrefix)
		case "public_target":
			return once(d, &v.PublicTarget)
		case "body_timeout":
			return duration(d, &v.BodyTimeout)
		case "max_body":
			return size(d, &v.MaxBody, largestBody)
		case "timeout":
			return duration(d, &v.Timeout)
		}
		return unknown(d, "account", "service", "token", "signature", "enforce", "public_prefix", "public_target", "max_body", "body_timeout", "timeout")
	})
}

// parseInbox sets up the handler doku_inbox. Syntax:
//
//	doku_inbox [<matcher>] [<upstreams...>] {
//		policy          after_app|durable
//		name            <name>
//		folder          <path>
//		max_size        <size>
//		answer_within   <duration>
//		attempt_timeout <duration>
//		give_up_after   <duration>
//		concurrency     <number>
//		deliver {
//			<directives...>
//		}
//	}
//
// Upstreams are those of `reverse_proxy`, and stand for `deliver` with it. A body is
// in memory anyway, so it goes to the app in one piece with its header.
func parseInbox(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	i, d := new(Inbox), h.Dispenser
	d.Next() // consume the directive's name
	if upstreams := d.RemainingArgs(); len(upstreams) > 0 {
		for n, upstream := range upstreams {
			upstreams[n] = `"` + strings.ReplaceAll(upstream, `"`, `\"`) + `"`
		}
		above := strings.Repeat("\n", max(d.Line()-2, 0)) // so that errors have the line of the directive
		tokens, err := caddyfile.Tokenize([]byte(above+"deliver {\nreverse_proxy "+strings.Join(upstreams, " ")+" {\nrequest_buffers unlimited\n}\n}\n"), d.File())
		if err != nil {
			return nil, d.WrapErr(err)
		}
		if err := i.unmarshalDeliver(h, caddyfile.NewDispenser(tokens)); err != nil {
			return nil, err
		}
	}
	err := block(d, func() error {
		switch d.Val() {
		case "policy":
			return once(d, &i.Policy)
		case "name":
			return once(d, &i.Name)
		case "folder":
			return once(d, &i.Folder)
		case "max_size":
			return size(d, &i.MaxSize, 1<<40)
		case "answer_within":
			return duration(d, &i.AnswerWithin)
		case "attempt_timeout":
			return duration(d, &i.AttemptTimeout)
		case "give_up_after":
			return duration(d, &i.GiveUpAfter)
		case "concurrency":
			return number(d, &i.Concurrency, largestConcurrency)
		case "deliver":
			return i.unmarshalDeliver(h, d.NewFromNextSegment())
		}
		return unknown(d, "policy", "name", "folder", "max_size", "answer_within", "attempt_timeout", "give_up_after", "concurrency", "deliver")
	})
	if err == nil && i.Deliver == nil {
		err = d.Err("doku_inbox: expected the app's address, such as 127.0.0.1:3000, or a block `deliver` with a reverse_proxy")
	}
	return i, err
}

// unmarshalDeliver reads the handlers that bring a call to the app.
func (i *Inbox) unmarshalDeliver(h httpcaddyfile.Helper, segment *caddyfile.Dispenser) error {
	if i.Deliver != nil {
		return h.Err("deliver: expected either upstreams behind doku_inbox or one block `deliver`, found more")
	}
	route, err := httpcaddyfile.ParseSegmentAsSubroute(h.WithDispenser(segment))
	if err != nil {
		return err
	}
	i.Deliver = route.(*caddyhttp.Subroute)
	return nil
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
	return block(d, func() error {
		switch d.Val() {
		case checkToken:
			return once(d, &h.Token)
		case checkStore:
			return once(d, &h.Store)
		case checkInbox:
			return once(d, &h.Inbox)
		}
		return unknown(d, checkToken, checkStore, checkInbox)
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

// largestBody is the most that max_body may be: bodies are in memory as a whole.
const largestBody = 1 << 30

// block reads the rest of a directive, which has no arguments left, and calls
// option for each of its subdirectives.
func block(d *caddyfile.Dispenser, option func() error) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := option(); err != nil {
			return err
		}
	}
	return nil
}

// once reads the only argument of a subdirective that may be given once.
func once(d *caddyfile.Dispenser, into *string) error {
	name := d.Val()
	if *into != "" {
		return d.Errf("%s is already specified", name)
	}
	if !d.AllArgs(into) {
		return d.ArgErr()
	}
	return nil
}

// several reads one or more arguments; the subdirective may be repeated.
func several(d *caddyfile.Dispenser, into *[]string) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.ArgErr()
	}
	*into = append(*into, args...)
	return nil
}

func onOff(d *caddyfile.Dispenser, into *bool) error {
	name, text := d.Val(), ""
	if err := once(d, &text); err != nil {
		return err
	}
	if text != "on" && text != "off" {
		return d.Errf("%s: expected on or off, found '%s'", name, text)
	}
	*into = text == "on"
	return nil
}

func number(d *caddyfile.Dispenser, into *int, largest int) error {
	name, text := d.Val(), ""
	if err := once(d, &text); err != nil {
		return err
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > largest {
		return d.Errf("%s: expected a number from 1 to %d, found '%s'", name, largest, text)
	}
	*into = n
	return nil
}

func size(d *caddyfile.Dispenser, into *int64, largest uint64) error {
	name, text := d.Val(), ""
	if err := once(d, &text); err != nil {
		return err
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n == 0 || n > largest {
		return d.Errf("%s: expected a size such as 1MiB, at most %dGiB, found '%s'", name, largest>>30, text)
	}
	*into = int64(n) //nolint:gosec // at most largest
	return nil
}

func duration(d *caddyfile.Dispenser, into *caddy.Duration) error {
	name, text := d.Val(), ""
	if err := once(d, &text); err != nil {
		return err
	}
	parsed, err := caddy.ParseDuration(text)
	if err != nil || parsed <= 0 {
		return d.Errf("%s: expected a duration such as 20s, found '%s'", name, text)
	}
	*into = caddy.Duration(parsed)
	return nil
}

func unknown(d *caddyfile.Dispenser, allowed ...string) error {
	return d.Errf("unrecognized subdirective '%s'; expected one of: %s", d.Val(), strings.Join(allowed, ", "))
}

var (
	_ caddyfile.Unmarshaler = (*App)(nil)
	_ caddyfile.Unmarshaler = (*Account)(nil)
	_ caddyfile.Unmarshaler = (*MemoryStore)(nil)
	_ caddyfile.Unmarshaler = (*RedisStore)(nil)
	_ caddyfile.Unmarshaler = (*Sign)(nil)
	_ caddyfile.Unmarshaler = (*Token)(nil)
	_ caddyfile.Unmarshaler = (*Verify)(nil)
	_ caddyfile.Unmarshaler = (*Health)(nil)
	_ caddyfile.Unmarshaler = (*Transport)(nil)
	_ caddyfile.Unmarshaler = (*Upstreams)(nil)
)
