package inbound

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"golang.org/x/net/http/httpguts"
)

// site is what the configuration says about the site block of a handler.
type site struct {
	name     string                      // that the site block states; "localhost" or "" if it states none
	verifies []*Verify                   // in it
	tracing  caddyhttp.MiddlewareHandler // the first in it that begins spans, or nil
}

// findSite finds the site block of a handler among the routes of its server, which must
// be provisioned. A handler that is not found, such as one in a named route, has no site.
func findSite(server *caddyhttp.Server, handler caddyhttp.MiddlewareHandler) site {
	if server == nil {
		return site{}
	}
	for _, route := range server.Routes {
		var found site
		here, addressless := false, false
		eachHandler(route.Handlers, func(h caddyhttp.MiddlewareHandler) {
			here = here || h == handler
			if found.tracing == nil && isTracing(h) {
				found.tracing = h
			}
			switch h := h.(type) {
			case *Verify:
				found.verifies = append(found.verifies, h)
			case *reverseproxy.Handler:
				addressless = addressless || !hasAddress(h)
			}
		})
		if !here {
			continue
		}
		if found.name = statedName(route.MatcherSets); found.name == "" && addressless {
			found.name = "localhost"
		}
		return found
	}
	return site{}
}

// proxies is a handler that has others which pass calls to the app.
type proxies interface{ Proxies() caddyhttp.RouteList }

// eachHandler visits handlers, and those in them.
func eachHandler(handlers []caddyhttp.MiddlewareHandler, visit func(caddyhttp.MiddlewareHandler)) {
	for _, h := range handlers {
		visit(h)
		var inner caddyhttp.RouteList
		switch h := h.(type) {
		case *caddyhttp.Subroute:
			inner = h.Routes
		case proxies:
			inner = h.Proxies()
		}
		for _, route := range inner {
			eachHandler(route.Handlers, visit)
		}
	}
}

// hasAddress reports whether the app behind a proxy has an address that can be a Host:
// a FastCGI app and a socket have none.
func hasAddress(h *reverseproxy.Handler) bool {
	if _, ok := h.Transport.(*reverseproxy.HTTPTransport); !ok {
		return false
	}
	return !slices.ContainsFunc(h.Upstreams, func(u *reverseproxy.Upstream) bool { return strings.HasPrefix(u.Dial, "unix") })
}

// statedName returns the first whole name of a route's host matchers.
func statedName(sets caddyhttp.MatcherSets) string {
	for _, set := range sets {
		for _, matcher := range set {
			var hosts []string
			switch m := matcher.(type) {
			case caddyhttp.MatchHost:
				hosts = m
			case *caddyhttp.MatchHost:
				hosts = *m
			}
			for _, host := range hosts {
				if net.ParseIP(host) != nil && strings.Contains(host, ":") {
					host = "[" + host + "]"
				}
				if validHost(host) && !strings.ContainsAny(host, "*{") {
					return host
				}
			}
		}
	}
	return ""
}

// validHost reports whether text can be a Host: a name or address, with or without a
// port.
func validHost(text string) bool {
	return text != "" && len(text) <= 255 && !strings.ContainsAny(text, "/@, ") && httpguts.ValidHostHeader(text)
}

// Kept prepares requests of kept calls for the app, by the configuration in use: the
// one that kept them may have let more through.
type Kept struct {
	site    site
	allowed allowed
}

// KeptAt returns how to prepare the kept calls of a handler behind doku_verify.
func KeptAt(server *caddyhttp.Server, handler caddyhttp.MiddlewareHandler) Kept {
	k := Kept{site: findSite(server, handler)}
	var passed []string
	for _, v := range k.site.verifies {
		passed = append(passed, v.PassHeaders...)
	}
	k.allowed = union(allow(passed), ownHeaders)
	return k
}

// Prepare removes the headers that do not reach the app, and sets Host.
func (k Kept) Prepare(r *http.Request) {
	k.allowed.filter(r.Header)
	Unkept(r.Header)
	introduce(r.Header)
	setHost(r, k.host(r.Host))
}

// host returns the Host for a call that was kept with this one. Only a Host that the
// configuration states stays.
func (k Kept) host(kept string) string {
	for _, v := range k.site.verifies {
		switch {
		case strings.Contains(v.AppHost, "{"), v.AppHost == kept && kept != "":
			return kept
		case v.AppHost == "" && kept == k.site.name:
			return kept
		}
	}
	if len(k.site.verifies) > 0 && k.site.verifies[0].AppHost != "" {
		return k.site.verifies[0].AppHost
	}
	return k.site.name
}

// Unkept removes the headers that no inbox keeps: they let somebody act as a customer.
func Unkept(h http.Header) {
	delete(h, "Cookie")
	delete(h, "Authorization-Customer")
}

// checkForwarding checks the options app_host and pass_headers.
func (v *Verify) checkForwarding() error {
	if v.AppHost != "" && !strings.Contains(v.AppHost, "{") && !validHost(v.AppHost) {
		return fmt.Errorf("app_host: expected a name or address such as shop.example or 127.0.0.1:3000, found %q", v.AppHost)
	}
	for _, name := range v.PassHeaders {
		switch canonical := http.CanonicalHeaderKey(name); {
		case name == "*":
			return errors.New("pass_headers: expected names, found *: DOKU's signature does not cover headers, so name those that the app needs")
		case !httpguts.ValidHeaderFieldName(name) || strings.ContainsAny(name, "_."):
			return fmt.Errorf("pass_headers: expected the name of a header, of letters, digits and -, found %q", name)
		case canonical == "Host":
			return errors.New("pass_headers: expected no Host; write `app_host`")
		case neverPassed[canonical] || isOurs(name):
			return fmt.Errorf("pass_headers: expected a header that the sidecar does not handle itself, found %q; remove it", name)
		}
	}
	return nil
}
