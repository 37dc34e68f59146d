// Command caddy is Caddy with the DOKU modules, for a plain `go build ./cmd/caddy` or a
// debugger. Releases are built by xcaddy.sh, which gives the same program.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-doku/caddy-doku/caddymodule"
)

func main() {
	caddycmd.Main()
}
