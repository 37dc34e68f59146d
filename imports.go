// Package caddydoku adds DOKU's payment protocol to Caddy: it signs the calls that a
// merchant's app makes to DOKU, and proves the calls that DOKU makes to the app.
//
// It is the import path to give to xcaddy, and holds nothing itself:
//
//	xcaddy build v2.11.9 --with github.com/caddy-doku/caddy-doku
//
// The Caddy modules are in [github.com/caddy-doku/caddy-doku/caddymodule]. Without Caddy, as
// plain Go libraries, signing is in [github.com/caddy-doku/caddy-doku/signer] and
// verification in [github.com/caddy-doku/caddy-doku/verifier].
package caddydoku

import (
	_ "github.com/caddy-doku/caddy-doku/caddymodule" // registers the modules with Caddy
)
