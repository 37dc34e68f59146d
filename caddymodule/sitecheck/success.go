package sitecheck

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/directive"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/routes"
)

// What follows looks for answers that DOKU takes for a success, though no app has taken the
// call: DOKU takes any 2xx for one.

// turnedIntoYes returns an error if a handler in front of ours makes a 2xx of other answers.
func (c *siteCheck) turnedIntoYes(site string, call followed) error {
	for _, end := range call.ends {
		if !isOurs(end) {
			continue
		}
		for _, h := range end.Behind {
			if h.Name == directive.Verify {
				break
			}
			around, ok := h.Value.(*intercept.Intercept)
			if ok &&
				slices.ContainsFunc(
					around.HandleResponse,
					func(r caddyhttp.ResponseHandler) bool { return c.mayAnswer2xx(r, call.Request) },
				) {
				return fmt.Errorf("site %s: intercept may answer DOKU's calls to %s with a 2xx in place of the sidecar, "+
					"and DOKU takes any 2xx for a success; remove it, or give it a matcher that leaves DOKU's paths out", site, call.Path)
			}
		}
	}
	return nil
}

// mayAnswer2xx reports whether what is done in place of an answer can be a 2xx.
func (c *siteCheck) mayAnswer2xx(r caddyhttp.ResponseHandler, of routes.Request) bool {
	if r.StatusCode != "" {
		return mayBe2xx(string(r.StatusCode))
	}
	ends, complete := routes.New(&caddyhttp.Server{Routes: r.Routes, NamedRoutes: c.server.NamedRoutes}, kinds).Answerers(of)
	return !complete || slices.ContainsFunc(ends, func(end routes.Arrival) bool {
		switch end.Name {
		case "", routes.Proxy, "file_server":
			return true
		}
		return replies2xx(end.Handler, http.StatusOK)
	})
}

// checkFailures warns of what error routes do with DOKU's calls.
func (c *siteCheck) checkFailures(site string, call routes.Request, apps []string) {
	ends, _ := c.walker.Failures(call)
	for _, end := range ends {
		switch {
		case replies2xx(end.Handler, http.StatusInternalServerError):
			c.warn(site, "let it answer with the error's own status: `respond {err.status_code}`",
				"handle_errors answers errors with a 2xx, which DOKU takes for a success")
		case end.Name == routes.Proxy && !toApp(end, apps):
			c.warn(
				site,
				"leave DOKU's paths out, or remove it",
				"handle_errors passes calls to a reverse_proxy, whose 2xx DOKU takes for a success",
			)
		}
	}
}

// mayBe2xx reports whether a status of the configuration is 2xx, or may be.
func mayBe2xx(status string) bool {
	return len(status) == 3 && status[0] == '2' || strings.Contains(status, "{")
}

// replies2xx reports whether a handler answers with a 2xx, or may do so. usual is the status
// openPaths are paths of a site at which DOKU would take for a success what is none, or a
// add adds a path, by where calls to it end.
func (o *openPaths) add(path string, ends []routes.Arrival) {
	for _, end := range ends {
		switch {
		case verifyOf(end) != nil:
		case end.Name == "" && !end.Guessed && !slices.Contains(o.empty, path):
			o.empty = append(o.empty, path)
		case replies2xx(end.Handler, http.StatusOK) && !slices.Contains(o.replied2xx, path):
			o.replied2xx = append(o.replied2xx, path)
		}
	}
}

// warn warns of the paths.
func (o *openPaths) warn(c *siteCheck) {
	named := func(paths []string) string {
		if slices.Contains(paths, otherPath) {
			return "all but those that it handles"
		}
		return strings.Join(paths, ", ")
	}
	last := "add a last line to the site, outside of its blocks: `doku_unhandled`"
	if len(c.walker.Places(routes.Named(directive.Unhandled))) == 0 {
		last += " (or use doku_app, which has it)"
	}
	if len(o.empty) > 0 {
		c.warn(
			o.site,
			last,
			"a path that no handler answers gets an empty 200 from Caddy, which DOKU takes for a success: %s",
			named(o.empty),
		)
	}
	if len(o.replied2xx) > 0 {
		c.warn(o.site, "let it answer 404, or write `doku_unhandled` in its place",
			"respond answers paths that DOKU may call with a 2xx, which DOKU takes for a success: %s", named(o.replied2xx))
	}
}

// warnOfOtherHosts warns of host names that get a 2xx for nothing.
func (c *siteCheck) warnOfOtherHosts() {
	others := c.otherHosts()
	for _, host := range others {
		for _, own := range c.hosts() {
			for _, call := range c.calls[own] {
				if !call.ours() {
					continue
				}
				request := call.Request
				request.Host = host
				ends, _ := c.walker.Answerers(request)
				for _, end := range ends {
					switch {
					case isOurs(end) || end.Guessed || end.Name != "" && !replies2xx(end.Handler, http.StatusOK):
					case host == otherHost:
						c.warn(c.name(nil), "add a site for all other names: `"+otherSite(c.server)+" {`, `doku_unhandled`, `}`",
							"a call with another Host than the sites' names gets an empty 200 from Caddy, which DOKU takes for a success")
					default:
						c.warn(
							host+" ("+strings.Join(c.server.Listen, ", ")+")",
							"add a last line to this site: `doku_unhandled`",
							"a call to a path of DOKU's with this Host gets a 2xx, which DOKU takes for a success, and not the site that has doku_verify",
						)
					}
				}
			}
		}
	}
}

// otherHosts returns the names that other sites of the server have, and one that none has.
func (c *siteCheck) otherHosts() (all []string) {
	own := c.hosts()
	for _, pattern := range c.walker.Hosts() {
		all = append(all, routes.SampleHost(pattern))
	}
	if len(own) > 0 {
		all = append(all, otherHost)
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(host string) bool { return slices.Contains(own, host) })
}

// otherSite returns the address of a site for all other names on a server's port.
func otherSite(server *caddyhttp.Server) string {
	_, port, found := strings.Cut(strings.Join(server.Listen[:min(1, len(server.Listen))], ""), ":")
	switch {
	case !found:
		return "http://"
	case len(server.TLSConnPolicies) == 0 && port != "443" && port != "80":
		return "http://:" + port
	}
	return ":" + port
}
