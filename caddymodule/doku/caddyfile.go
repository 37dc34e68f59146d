package doku

import (
	"encoding/json"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/credential"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/directive"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/environment"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("doku", parseApp)
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
//		share_ports      [on|off]
//		unverified_calls <number>
//		unverified_size  <size>
//	}
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the option's name
	return directive.Block(d, func() error {
		switch d.Val() {
		case "environment":
			return environment.Read(d, &a.Environment)
		case "account":
			account := new(Account)
			a.Accounts = append(a.Accounts, account)
			return account.UnmarshalCaddyfile(d)
		case "store":
			return a.unmarshalStore(d)
		case "on_store_error":
			return directive.Text(d, &a.OnStoreError)
		case "clock_correction":
			return directive.OnOff(d, &a.ClockCorrection)
		case "share_ports":
			a.SharePorts = true
			if d.CountRemainingArgs() == 0 {
				return nil
			}
			return directive.OnOff(d, &a.SharePorts)
		case "unverified_calls":
			return directive.Number(d, &a.UnverifiedCalls, 1_000_000)
		case "unverified_size":
			return directive.Size(d, &a.UnverifiedSize, 1<<40)
		}
		return directive.Unknown(d, "environment", "account", "store", "on_store_error", "clock_correction", "share_ports",
			"unverified_calls", "unverified_size")
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
	return directive.Block(d, func() error { return d.Errf("unexpected '%s': the store memory has no options", d.Val()) })
}

// UnmarshalCaddyfile sets up the store from Caddyfile tokens. Syntax:
//
//	store redis <url> {
//		cluster
//		prefix <text>
//	}
func (r *RedisStore) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the store's name
	if !d.NextArg() || d.Val() == "" {
		return d.Err("store redis: expected a URL such as redis://localhost:6379/0; is {$…} set? write {env.NAME}")
	}
	r.URL = d.Val()
	if u, err := url.Parse(r.URL); err == nil && u.User != nil {
		password, _ := u.User.Password()
		warnLiteral(d, d.Line(), "the password of store redis", isLiteral(password))
	}
	return directive.Block(d, func() error {
		switch d.Val() {
		case "cluster":
			r.Cluster = true
			if d.NextArg() {
				return d.ArgErr()
			}
			return nil
		case "prefix":
			return directive.Text(d, &r.Prefix)
		}
		return directive.Unknown(d, "cluster", "prefix")
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
		line := d.Line()
		switch d.Val() {
		case "environment":
			err = environment.Read(d, &a.Environment)
		case "client_id":
			err = directive.Setting(d, &a.ClientID)
		case "secret_key":
			err = directive.Settings(d, &a.SecretKeys)
			for _, value := range a.SecretKeys {
				warnLiteral(d, line, "secret_key", isLiteral(value))
			}
		case "private_key":
			err = directive.Setting(d, &a.PrivateKey)
			warnLiteral(d, line, "private_key", credential.IsKey(a.PrivateKey) && isLiteral(a.PrivateKey))
		case "passphrase":
			err = directive.Setting(d, &a.Passphrase)
			warnLiteral(d, line, "passphrase", isLiteral(a.Passphrase))
		case "doku_public_key":
			err = directive.Settings(d, &a.DOKUPublicKeys)
		case "inbound_client_key":
			err = directive.Setting(d, &a.InboundClientKey)
		case "inbound_partner_id":
			err = directive.Setting(d, &a.InboundPartnerID)
		case "partner_service_id":
			err = directive.Settings(d, &a.PartnerServiceIDs)
		default:
			err = directive.Unknown(d, "environment", "client_id", "secret_key", "private_key", "passphrase", "doku_public_key",
				"inbound_client_key", "inbound_partner_id", "partner_service_id")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isLiteral reports whether a value is a secret itself, not where it is.
func isLiteral(value string) bool {
	_, isPath := credential.Path(value)
	return value != "" && !isPath && !strings.Contains(value, "{")
}

// warnLiteral warns of a secret in the Caddyfile, as the adapter does, which takes no
// warnings from global options. A value of {$NAME} is written into the configuration, too.
func warnLiteral(d *caddyfile.Dispenser, line int, name string, literal bool) {
	if literal {
		caddy.Log().Named("caddyfile").Sugar().Warnw(
			name+" is written in the Caddyfile: whoever sees it, the output of `adapt` or the admin API has it; "+
				"write the path of a file, or {env.NAME} (not {$NAME})", "file", d.File(), "line", line)
	}
}

// CheckAccount returns an error, with the place in the Caddyfile, if a directive names an
// account that the global option doku does not have.
func CheckAccount(h httpcaddyfile.Helper, name string) error {
	option, ok := h.Option("doku").(httpcaddyfile.App)
	if !ok || name == "" || strings.Contains(name, "{") {
		return nil
	}
	app := new(App)
	if err := json.Unmarshal(option.Value, app); err != nil {
		return err
	}
	for _, account := range app.Accounts {
		account.setName()
	}
	if _, err := app.Account(name); err != nil {
		h.Reset() // to the directive, whose place the error gets
		h.Next()
		return h.WrapErr(err)
	}
	return nil
}

var (
	_ caddyfile.Unmarshaler = (*App)(nil)
	_ caddyfile.Unmarshaler = (*Account)(nil)
	_ caddyfile.Unmarshaler = (*MemoryStore)(nil)
	_ caddyfile.Unmarshaler = (*RedisStore)(nil)
)
