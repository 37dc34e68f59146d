package site

import (
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/routes"
)

// apps returns the addresses of the apps that get DOKU's calls, and a path for each kind of
// call that they get.
func apps(all []*siteCheck) (addresses, paths []string) {
	for _, c := range all {
		addresses = append(addresses, c.apps...)
		for _, place := range c.ours {
			if inbox, ok := place.Value.(interface{ Proxies() caddyhttp.RouteList }); ok {
				addresses = append(addresses, proxied(routes.New(&caddyhttp.Server{Routes: inbox.Proxies()}, nil))...)
			}
			for _, pattern := range place.Paths {
				if place.Name != dirToken {
					paths = append(paths, routes.Sample(pattern))
				}
			}
		}
	}
	slices.Sort(paths)
	return addresses, slices.Compact(paths)
}

// proxied returns the addresses of all proxies in routes.
func proxied(walker *routes.Walker) (all []string) {
	for _, place := range walker.Places(isNamed(routes.Proxy)) {
		all = append(all, addressesOf(place.Handler)...)
	}
	return all
}

// addressesOf returns the addresses that a proxy passes requests to, as far as it names them.
func addressesOf(h routes.Handler) (all []string) {
	proxy, ok := h.Value.(*reverseproxy.Handler)
	if !ok {
		return nil
	}
	for _, upstream := range proxy.Upstreams {
		if !strings.Contains(upstream.Dial, "{") {
			all = append(all, strings.Replace(upstream.Dial, "localhost:", "127.0.0.1:", 1))
		}
	}
	return all
}

// warnOfOtherDoors warns of sites that pass DOKU's paths to the same app, for whoever calls.
func (c *siteCheck) warnOfOtherDoors(addresses, paths []string) {
	own := c.hosts()
	var hosts [][]string
	for _, place := range c.walker.Places(isNamed(routes.Proxy)) {
		if !slices.ContainsFunc(hosts, func(other []string) bool { return slices.Equal(other, place.Hosts) }) {
			hosts = append(hosts, place.Hosts)
		}
	}
	for _, names := range hosts {
		host := otherHost
		if len(names) > 0 {
			host = strings.ReplaceAll(names[0], "*", "any")
		}
		if slices.Contains(own, host) {
			continue // followCalls has seen it
		}
		for _, path := range paths {
			ends, _ := c.walker.Answerers(routes.Request{Host: host, Method: http.MethodPost, Path: path})
			for _, end := range ends {
				shared := slices.ContainsFunc(addressesOf(end.Handler), func(address string) bool { return slices.Contains(addresses, address) })
				if toApp(end) && shared {
					c.warn(c.name(names), "write a block `handle "+path+" {`, `respond 404`, `}` in this site, or give the app another port "+
						"for DOKU's calls",
						"reverse_proxy passes calls to %s, whoever makes them, to the app that gets DOKU's: the app cannot tell them apart", path)
				}
			}
		}
	}
}
