package sitecheck

import (
	"context"
	"errors"
	"net"
	"strings"
	"syscall"

	"github.com/caddyserver/caddy/v2"
)

// listener reports whether another process listens on an address, and says which one as far
// as this process may know, such as " (process 4711, caddy-doku)". Sockets that were handed
// over belong to whoever has handed them over.
func listener(ctx context.Context, address caddy.NetworkAddress) (by string, found bool) {
	switch {
	case address.IsFdNetwork():
		return "", false
	case knowsListeners():
		return systemListener(address)
	case address.StartPort == 0, !strings.HasPrefix(address.Network, "tcp"),
		caddy.ListenerUsage(address.Network, address.JoinHostPort(0)) > 0: // this process listens already
		return "", false
	}
	// A socket that does not share its port cannot be opened while another one is open.
	ln, err := new(net.ListenConfig).Listen(ctx, address.Network, address.JoinHostPort(0))
	if err == nil {
		ln.Close()
	}
	return "", errors.Is(err, syscall.EADDRINUSE)
}
