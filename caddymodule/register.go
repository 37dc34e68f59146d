// Package caddymodule makes signer and verifier usable from Caddy. The rooms below it
// have the modules: doku the app with the accounts, outbound the calls to DOKU, inbound
// and inboxes the calls from DOKU, health the answers to probes, site what concerns a
// site as a whole, status the admin API.
// Only these packages know Caddy.
package caddymodule

import (
	"runtime/debug"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	// The rooms register their modules and directives.
	_ "github.com/caddy-doku/caddy-doku/caddymodule/health"
	_ "github.com/caddy-doku/caddy-doku/caddymodule/inbound"
	_ "github.com/caddy-doku/caddy-doku/caddymodule/inboxes"
	_ "github.com/caddy-doku/caddy-doku/caddymodule/outbound"
	_ "github.com/caddy-doku/caddy-doku/caddymodule/site"
	_ "github.com/caddy-doku/caddy-doku/caddymodule/sitecheck"
)

// The places of the directives in a site without `route`. They stand here, because the
// order of these calls matters.
func init() {
	httpcaddyfile.RegisterDirectiveOrder("doku_untrusted_trace", httpcaddyfile.Before, "tracing")
	// Before everything that may send a request to the app: not only reverse_proxy, but
	// handle, route and every other directive beside them.
	httpcaddyfile.RegisterDirectiveOrder("doku_tracing", httpcaddyfile.After, "tracing")
	httpcaddyfile.RegisterDirectiveOrder("doku_app", httpcaddyfile.Before, "basic_auth")
	httpcaddyfile.RegisterDirectiveOrder("doku_token", httpcaddyfile.Before, "basic_auth")
	httpcaddyfile.RegisterDirectiveOrder("doku_verify", httpcaddyfile.Before, "basic_auth")
	httpcaddyfile.RegisterDirectiveOrder("doku_sign", httpcaddyfile.Before, "reverse_proxy")
	httpcaddyfile.RegisterDirectiveOrder("doku_inbox", httpcaddyfile.Before, "reverse_proxy")
	// Behind the directives that ask for a password, before all that answer.
	httpcaddyfile.RegisterDirectiveOrder("doku_health", httpcaddyfile.Before, "invoke")
	// The last word.
	httpcaddyfile.RegisterDirectiveOrder("doku_unhandled", httpcaddyfile.After, "acme_server")
}

// So that `version` says both versions: Caddy puts this in front of its own. Whoever packs
// Caddy with a version of their own keeps it.
func init() {
	if caddy.CustomVersion == "" {
		caddy.CustomVersion = "caddy-doku " + version() + ", Caddy"
	}
}

// version returns the version of this module in the program.
func version() string {
	const module = "github.com/caddy-doku/caddy-doku"
	info, known := debug.ReadBuildInfo()
	if !known {
		return "(unknown)"
	}
	for _, dependency := range info.Deps {
		if dependency.Path == module {
			return dependency.Version
		}
	}
	return info.Main.Version
}
