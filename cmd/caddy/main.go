// Command caddy is Caddy with the DOKU modules, for a plain go build and for debuggers. The
// program to run is the one that xcaddy.sh builds.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-doku/caddy-doku/caddymodule"
)

func main() {
	caddycmd.Main()
}
