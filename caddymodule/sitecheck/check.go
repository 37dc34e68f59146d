// Package sitecheck looks at the sites of a configuration as a whole, and at the ports they
// listen on: it sees what no handler sees of its neighbours. It refuses a configuration in
// which calls would reach the app unverified, or DOKU's calls not at all, and warns of what
// is probably wrong.
package sitecheck

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/directive"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/routes"
)

func init() {
	doku.RegisterCheck(check)
}

// check looks at the sites of a configuration. It returns an error if calls would reach the
// app unverified, or DOKU's calls not at all, and warns of the rest.
func check(app *doku.App, sites *caddyhttp.App) error {
	if part := doku.PartOf[*ports](app); part != nil {
		part.sites = sites
	}
	checks := make([]*siteCheck, 0, len(sites.Servers))
	for _, name := range slices.Sorted(maps.Keys(sites.Servers)) {
		checks = append(checks, newSiteCheck(sites.Servers[name]))
	}
	var apps []string
	for _, c := range checks {
		c.followCalls()
		for _, proxy := range c.proxies {
			apps = append(apps, addressesOf(proxy)...)
		}
	}
	for _, c := range checks {
		if err := c.check(checks, apps); err != nil {
			return err
		}
	}
	if err := checkLoops(checks, sites); err != nil {
		return err
	}
	for _, c := range checks {
		for _, warning := range c.found {
			app.Log().Warn("the configuration of a site is probably wrong",
				slog.String("site", warning.site), slog.String("error", warning.problem), slog.String("hint", warning.hint))
		}
	}
	return nil
}

// siteCheck looks at the routes of one server.
type siteCheck struct {
	server  *caddyhttp.Server
	walker  *routes.Walker
	ours    []routes.Place          // of the handlers of DOKU's calls
	calls   map[string][]followed   // by host
	proxies []*reverseproxy.Handler // that get verified calls
	found   []warning
}

// warning is something that is allowed and probably wrong.
type warning struct{ site, problem, hint string }

// kinds are what our handlers do with a request.
var kinds = map[string]routes.Kind{
	directive.UntrustedTrace: routes.Passes, directive.Tracing: routes.Passes,
	directive.Sign: routes.Passes, directive.Health: routes.Passes, directive.Verify: routes.Passes,
	directive.Token: routes.Answers, directive.Inbox: routes.Answers, directive.Unhandled: routes.Answers,
}

func newSiteCheck(server *caddyhttp.Server) *siteCheck {
	walker := routes.New(server, kinds)
	return &siteCheck{server: server, walker: walker, ours: walker.Places(routes.Named(directive.Token, directive.Verify, directive.Inbox))}
}

// check returns why the server must not start, and collects warnings. all are the checks of
// all servers, apps the addresses that they pass DOKU's calls to.
func (c *siteCheck) check(all []*siteCheck, apps []string) error {
	if err := c.unreached(c.server.Routes, 0); err != nil {
		return err
	}
	if err := c.checkCalls(apps); err != nil {
		return err
	}
	for _, place := range c.ours {
		if err := c.isOutOfReach(place); err != nil {
			return err
		}
		c.warnOfTokens(place, all)
	}
	c.warnOfOtherHosts()
	c.warnOfOtherDoors(apps)
	return nil
}

// warn collects a warning, once.
func (c *siteCheck) warn(site, hint, format string, args ...any) {
	w := warning{site, fmt.Sprintf(format, args...), hint}
	if !slices.Contains(c.found, w) {
		c.found = append(c.found, w)
	}
}

// name returns how the user knows a site, by its hosts.
func (c *siteCheck) name(hosts []string) string {
	listens := strings.Join(c.server.Listen, ", ")
	if len(hosts) == 0 {
		return listens
	}
	return strings.Join(hosts, ", ") + " (" + listens + ")"
}

// asWritten returns the name that a handler has in a Caddyfile.
func asWritten(name string) string {
	if name == routes.Static {
		return "respond (or redir, abort)"
	}
	return name
}

// unreached returns an error if something stands behind a handler that answers everything.
func (c *siteCheck) unreached(list caddyhttp.RouteList, depth int) error {
	if depth > routes.Deepest {
		return nil
	}
	for i := range list {
		handlers := c.walker.Handlers(&list[i])
		for n, h := range handlers {
			if err := c.unreached(c.walker.Nested(h), depth+1); err != nil {
				return err
			}
			if !c.answersAll(h, depth) {
				continue
			}
			behind := handlers[n+1:]
			if len(behind) == 0 && i+1 < len(list) && !routes.HasMatcher(&list[i]) {
				behind = c.walker.Handlers(&list[i+1])
			}
			if len(behind) > 0 {
				return fmt.Errorf("site %s: %s is never reached: doku_app, or doku_unhandled, answers every path before it; "+
					"remove it, or write it before them in a block `route`", c.name(nil), asWritten(behind[0].Name))
			}
		}
	}
	return nil
}

// answersAll reports whether a handler answers every request with doku_unhandled at last.
func (c *siteCheck) answersAll(h routes.Handler, depth int) bool {
	if h.Name == directive.Unhandled {
		return true
	}
	nested := c.walker.Nested(h)
	for i := range nested {
		if depth > routes.Deepest || routes.HasMatcher(&nested[i]) {
			continue
		}
		if slices.ContainsFunc(c.walker.Handlers(&nested[i]), func(h routes.Handler) bool { return c.answersAll(h, depth+1) }) {
			return true
		}
	}
	return false
}
