package sitecheck

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/directive"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/routes"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/upstream"
)

// checkLoops returns an error if the address of an app is that of a site of ours: DOKU's
// call would come back to the sidecar, or go to DOKU, and never reach the app.
func checkLoops(checks []*siteCheck, sites *caddyhttp.App) error {
	for _, c := range checks {
		for _, proxy := range c.proxies {
			if err := upstream.CheckProxy(proxy, true); err != nil {
				return fmt.Errorf("site %s: %w", c.name(nil), err)
			}
			for _, to := range proxy.Upstreams {
				if err := loop(to.Dial, sites); err != nil {
					return fmt.Errorf("site %s: %w", c.name(nil), err)
				}
			}
		}
	}
	return nil
}

// loop returns an error if a server of ours listens at an address.
func loop(dial string, sites *caddyhttp.App) error {
	dial, known, err := upstream.Resolve(dial)
	if err != nil || !known {
		return err
	}
	target, err := caddy.ParseNetworkAddress(dial)
	if err != nil {
		return nil //nolint:nilerr // the check of addresses says it
	}
	for _, name := range slices.Sorted(maps.Keys(sites.Servers)) {
		server := sites.Servers[name]
		places := routes.New(server, kinds).Places(routes.Named(directive.Token, directive.Verify, directive.Inbox, directive.Sign))
		if len(places) == 0 {
			continue
		}
		for _, text := range server.Listen {
			listens, err := caddy.ParseNetworkAddress(text)
			if err != nil || !meets(target, listens, places) {
				continue
			}
			whose := "DOKU's calls"
			if places[0].Name == directive.Sign {
				whose = "the app's calls to DOKU (doku_sign)"
			}
			return fmt.Errorf("expected the app's address, found %q: there the sidecar itself listens (%s), for %s, so the call would "+
				"never reach the app; write the address that your app listens at", dial, text, whose)
		}
	}
	return nil
}

// meets reports whether a connection to target is one to a listener of this process, whose
// handlers stand at places.
func meets(target, listens caddy.NetworkAddress, places []routes.Place) bool {
	if target.IsUnixNetwork() || listens.IsUnixNetwork() {
		path, _, _ := strings.Cut(listens.Host, "|")
		return target.IsUnixNetwork() && listens.IsUnixNetwork() && target.Host == path
	}
	if target.StartPort < listens.StartPort || target.StartPort > listens.EndPort {
		return false
	}
	host := strings.ToLower(strings.TrimSuffix(target.Host, "."))
	named := slices.ContainsFunc(places, func(p routes.Place) bool {
		return slices.ContainsFunc(p.Hosts, func(name string) bool { return strings.EqualFold(name, host) })
	})
	ip, isLocal := localAddress(host)
	switch {
	case named:
		return true
	case !isLocal:
		return false
	}
	at, err := netip.ParseAddr(listens.Host)
	at = at.Unmap()
	loopback := !ip.IsValid() || ip.IsUnspecified()
	switch {
	case listens.Host == "":
		return true
	case err != nil: // a name
		return listens.Host == "localhost" && (loopback || ip.IsLoopback())
	case at.IsUnspecified():
		return true
	case loopback:
		return at.IsLoopback()
	}
	return at == ip
}

// localAddress returns the address of a host of this machine; none if it stands for the
// loopback addresses.
func localAddress(host string) (ip netip.Addr, local bool) {
	if host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return netip.Addr{}, true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}, false
	}
	ip = ip.Unmap()
	if ip.IsLoopback() || ip.IsUnspecified() {
		return ip, true
	}
	addresses, _ := net.InterfaceAddrs() // without them, only the others are known
	return ip, slices.ContainsFunc(addresses, func(a net.Addr) bool {
		network, ok := a.(*net.IPNet)
		if !ok {
			return false
		}
		own, ok := netip.AddrFromSlice(network.IP)
		return ok && own.Unmap() == ip
	})
}
