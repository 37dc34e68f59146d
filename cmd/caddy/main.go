// Command caddy is Caddy with this module, for `go build` and debuggers.
// Releases are built by xcaddy.sh.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-doku/caddy-doku/caddymodule"
)

func main() {
	caddycmd.Main()
}
