package sitecheck

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/routes"
)

// addressesOf returns the addresses that a proxy passes requests to, in one form for all
// that mean the same.
func addressesOf(proxy *reverseproxy.Handler) (all []string) {
	for _, upstream := range proxy.Upstreams {
		all = append(all, oneAddress(upstream.Dial))
	}
	raw := proxy.DynamicUpstreamsRaw
	if proxy.DynamicUpstreams != nil { // it is provisioned
		if settings, err := json.Marshal(proxy.DynamicUpstreams); err == nil {
			raw = settings
		}
	}
	if len(raw) > 0 {
		var of struct{ Name, Port string }
		if json.Unmarshal(raw, &of) == nil && of.Name != "" {
			all = append(all, oneAddress(net.JoinHostPort(of.Name, of.Port)))
		} else {
			all = append(all, string(raw))
		}
	}
	return all
}

// oneAddress returns one text for all addresses that mean this machine.
func oneAddress(dial string) string {
	host, port, err := net.SplitHostPort(dial)
	if err != nil {
		return dial
	}
	if ip := net.ParseIP(host); host == "" || host == "localhost" || ip != nil && (ip.IsLoopback() || ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// warnOfOtherDoors warns of sites that pass calls to one of the apps which nobody has
// verified. There, no list of paths is ever complete: each framework reads paths its own way.
func (c *siteCheck) warnOfOtherDoors(apps []string) {
	if len(apps) == 0 {
		return
	}
	paths := c.paths()
	hosts := slices.Concat(c.otherHosts(), c.hosts(), []string{otherHost})
	slices.Sort(hosts)
	for _, host := range slices.Compact(hosts) {
		if c.doorFor(host, paths, apps) {
			site := c.siteOf(host)
			if !slices.Contains(c.hosts(), host) && host != otherHost {
				site = host + " (" + strings.Join(c.server.Listen, ", ") + ")"
			}
			c.warn(site, fmt.Sprintf("write `header_up -%s` in this reverse_proxy, and let the app require the header for DOKU's calls; "+
				"or give DOKU's calls a port of the app's own", httpio.HeaderVerified),
				"reverse_proxy passes calls that nobody has verified to the app that gets DOKU's calls: "+
					"whoever makes them can write `%s: true` too", httpio.HeaderVerified)
		}
	}
}

// doorFor reports whether calls to a host reach one of the apps unverified.
func (c *siteCheck) doorFor(host string, paths, apps []string) bool {
	for _, path := range paths {
		call := routes.Request{Host: host, Method: http.MethodPost, Path: path}
		ends, _ := c.walker.Answerers(call)
		failures, _ := c.walker.Failures(call)
		if slices.ContainsFunc(append(ends, failures...), func(end routes.Arrival) bool { return toApp(end, apps) && !unmarks(end) }) {
			return true
		}
	}
	return false
}

// unmarks reports whether calls lose the header by which the app knows verified ones.
func unmarks(end routes.Arrival) bool {
	for _, h := range append(end.Behind, end.Handler) {
		var ops *headers.HeaderOps
		switch value := h.Value.(type) {
		case *headers.Handler:
			ops = value.Request
		case *reverseproxy.Handler:
			if value.Headers != nil {
				ops = value.Headers.Request
			}
		}
		if ops == nil {
			continue
		}
		if ops.Set.Get(httpio.HeaderVerified) != "" || slices.ContainsFunc(ops.Delete, func(name string) bool {
			return routes.MatchPath(name, httpio.HeaderVerified)
		}) {
			return true
		}
	}
	return false
}
