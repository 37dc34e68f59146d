//go:build !linux

package sitecheck

import "github.com/caddyserver/caddy/v2"

// knowsListeners reports whether the system tells which sockets listen.
func knowsListeners() bool { return false }

// systemListener is not called here.
func systemListener(caddy.NetworkAddress) (by string, found bool) { return "", false }
