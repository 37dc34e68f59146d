package site

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/inbound"
	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/verifier"
)

func init() {
	doku.RegisterCheck(check)
}

// check looks at the sites of a configuration. It returns an error if DOKU's calls would
// reach the app unverified, or not at all, and warns of the rest.
func check(app *doku.App, sites *caddyhttp.App) error {
	if part := doku.PartOf[*ports](app); part != nil {
		part.sites = sites
	}
	checks := make([]*siteCheck, 0, len(sites.Servers))
	for _, name := range slices.Sorted(maps.Keys(sites.Servers)) {
		checks = append(checks, newSiteCheck(sites.Servers[name]))
	}
	for _, c := range checks {
		if err := c.refuse(); err != nil {
			return err
		}
	}
	for _, c := range checks {
		for _, warning := range c.warnings(checks) {
			app.Log().Warn("the configuration of a site is probably wrong",
				slog.String("site", warning.site), slog.String("error", warning.problem), slog.String("hint", warning.hint))
		}
	}
	return nil
}

// siteCheck looks at the routes of one server.
type siteCheck struct {
	server *caddyhttp.Server
	ours   []occurrence // the handlers of DOKU's calls
}

// warning is something that is allowed and probably wrong.
type warning struct{ site, problem, hint string }

func newSiteCheck(server *caddyhttp.Server) *siteCheck {
	c := &siteCheck{server: server}
	for _, o := range occurrences(server) {
		switch o.name {
		case dirToken, dirVerify, dirInbox:
			c.ours = append(c.ours, o)
		}
	}
	return c
}

// having returns the occurrences of a handler.
func (c *siteCheck) having(name string) (all []occurrence) {
	for _, o := range c.ours {
		if o.name == name {
			all = append(all, o)
		}
	}
	return all
}

// dokuPaths are paths that DOKU may call, the most important ones first.
var dokuPaths = []string{
	"/v1.1/transfer-va/payment", "/v1/transfer-va/payment", "/v1.0/transfer-va/payment", "/v1.1/transfer-va/inquiry",
	"/v1/transfer-va/inquiry", "/v1.0/debit/notify", "/v1/debit/notify", defaultTokenPath,
}

// otherHost and otherPath are names that no configuration has.
const (
	otherHost = "other-host.caddy-doku.invalid"
	otherPath = "/other-path-of-caddy-doku"
)

// samples returns requests that come to an occurrence, by what its routes match.
func (o *occurrence) samples() (all []request) {
	host := otherHost
	if len(o.hosts) > 0 {
		host = strings.ReplaceAll(o.hosts[0], "*", "any")
	}
	if len(o.paths) == 0 {
		return []request{{host: host, path: dokuPaths[0]}}
	}
	for _, pattern := range o.paths {
		sample := ""
		for _, known := range dokuPaths {
			if matchPath(pattern, known) == yes {
				sample = known
				break
			}
		}
		if sample == "" {
			sample = strings.ReplaceAll(pattern, "*", "payment")
		}
		if !strings.HasPrefix(sample, "/") {
			sample = path.Join("/", sample)
		}
		all = append(all, request{host: host, path: sample})
	}
	return all
}

// name returns how the user knows the site of an occurrence.
func (c *siteCheck) name(o occurrence) string {
	listens := strings.Join(c.server.Listen, ", ")
	if len(o.hosts) == 0 {
		return listens
	}
	return strings.Join(o.hosts, ", ") + " (" + listens + ")"
}

// refuse returns why the server must not start.
func (c *siteCheck) refuse() error {
	if err := c.unreached(c.server.Routes, 0); err != nil {
		return err
	}
	for _, o := range c.ours {
		for _, sample := range o.samples() {
			for _, a := range from(c.server, sample) {
				switch {
				case a.name == dirInbox && a.verify == nil:
					return fmt.Errorf("site %s: doku_inbox gets calls to %s that doku_verify has not verified; "+
						"write `doku_verify %[2]s` in the same site, for every path of doku_inbox, or use doku_app", c.name(o), pathOf(o, sample))
				case a.shadowed != "" && (a.name == dirVerify || a.name == dirToken || a.name == dirInbox || a.name == proxyName && a.verify != nil):
					return fmt.Errorf("site %s: %s answers DOKU's calls to %s before %s, which never gets them; "+
						"give %[2]s a matcher that leaves DOKU's paths out, or write doku_unhandled in its place, at the end of the site",
						c.name(o), asWritten(a.shadowed), sample.path, a.name)
				}
			}
		}
	}
	return nil
}

// pathOf returns the path pattern of an occurrence, or the path of a request to it.
func pathOf(o occurrence, sample request) string {
	return cmp.Or(strings.Join(o.paths, " "), sample.path)
}

// asWritten returns the name that a handler has in a Caddyfile.
func asWritten(name string) string {
	if name == "static_response" {
		return "respond (or redir, abort)"
	}
	return name
}

// unreached returns an error if something stands behind a handler that answers everything.
func (c *siteCheck) unreached(routes caddyhttp.RouteList, depth int) error {
	if depth > deepest {
		return nil
	}
	for i := range routes {
		r := &routes[i]
		handlers := handlersOf(r)
		for n, h := range handlers {
			if err := c.unreached(nested(c.server, h), depth+1); err != nil {
				return err
			}
			if !c.answersAll(h, depth) {
				continue
			}
			behind := handlers[n+1:]
			if len(behind) == 0 && i+1 < len(routes) && len(matchersOf(r.MatcherSets, r.MatcherSetsRaw)) == 0 {
				behind = handlersOf(&routes[i+1])
			}
			if len(behind) > 0 {
				return fmt.Errorf("site %s: %s is never reached: doku_app, or doku_unhandled, answers every path before it; "+
					"remove it, or write it before them in a block `route`", strings.Join(c.server.Listen, ", "), asWritten(behind[0].name))
			}
		}
	}
	return nil
}

// answersAll reports whether a handler answers every request with doku_unhandled at last.
func (c *siteCheck) answersAll(h handler, depth int) bool {
	if h.name == dirUnhandled {
		return true
	}
	routes := nested(c.server, h)
	for i := range routes {
		if depth > deepest || len(matchersOf(routes[i].MatcherSets, routes[i].MatcherSetsRaw)) > 0 {
			continue
		}
		if slices.ContainsFunc(handlersOf(&routes[i]), func(h handler) bool { return c.answersAll(h, depth+1) }) {
			return true
		}
	}
	return false
}

// warnings returns what is probably wrong. all are the checks of all servers.
func (c *siteCheck) warnings(all []*siteCheck) (found []warning) {
	add := func(o occurrence, hint, format string, args ...any) {
		w := warning{c.name(o), fmt.Sprintf(format, args...), hint}
		if !slices.Contains(found, w) {
			found = append(found, w)
		}
	}
	named := false
	for _, o := range c.ours {
		named = named || len(o.hosts) > 0
		c.warnOfFallthrough(o, add)
		if o.name != dirVerify {
			continue
		}
		verify, ok := o.value.(*inbound.Verify)
		if !ok {
			continue
		}
		c.warnOfDelivery(o, verify, add)
		c.warnOfTokens(o, verify, all, add)
	}
	if named {
		c.warnOfOtherHosts(add)
	}
	return found
}

type addWarning func(o occurrence, hint, format string, args ...any)

// warnOfFallthrough warns of paths that get Caddy's empty 200.
func (c *siteCheck) warnOfFallthrough(o occurrence, add addWarning) {
	host := o.samples()[0].host
	var paths []string
	for _, path := range append(slices.Clone(dokuPaths), otherPath) {
		for _, a := range from(c.server, request{host: host, path: path}) {
			if a.name == "" && a.shadowed == "" && a.verify == nil {
				paths = append(paths, path)
			}
		}
	}
	if len(paths) == 0 {
		return
	}
	text := "all but those that it handles"
	if !slices.Contains(paths, otherPath) {
		text = strings.Join(paths, ", ")
	}
	add(o, "add a last line to the site: `doku_unhandled` (or use doku_app, which has it)",
		"a path that no handler answers gets an empty 200 from Caddy, which DOKU takes for a success: %s", text)
}

// warnOfDelivery warns of verified calls that nobody answers, or keeps.
func (c *siteCheck) warnOfDelivery(o occurrence, verify *inbound.Verify, add addWarning) {
	for _, sample := range o.samples() {
		service := snap.Service(verify.Service)
		if service == "" {
			service, _ = snap.ServiceOf(http.MethodPost, sample.path)
		}
		for _, a := range from(c.server, sample) {
			switch {
			case a.shadowed != "" || a.verify == nil:
			case a.name == "":
				add(o, "write `doku_inbox "+pathOf(o, sample)+" <address of the app>` behind doku_verify",
					"no handler passes the verified calls to %s to the app: DOKU gets 500", pathOf(o, sample))
			case a.name == proxyName && service.Notification() && verify.Enforce != "report":
				add(o, "write doku_inbox in place of reverse_proxy, with the same path and address",
					"reverse_proxy passes on the notifications to %s, but keeps none that the app does not accept: "+
						"DOKU itself tries three times more, and then never again", pathOf(o, sample))
			}
		}
	}
}

// warnOfTokens warns of tokens that nobody issues, or that the app would not know.
func (c *siteCheck) warnOfTokens(o occurrence, verify *inbound.Verify, all []*siteCheck, add addWarning) {
	if verify.Enforce == "report" {
		if len(c.having(dirToken)) > 0 {
			add(o, "while `enforce report` is on, leave DOKU's token requests to the app: remove doku_token",
				"doku_token issues DOKU's tokens while doku_verify only reports: an app that checks tokens itself does not know them")
		}
		return
	}
	if mode := cmp.Or(verify.Token, string(verifier.TokenIssued)); verifier.TokenMode(mode) != verifier.TokenIssued {
		return
	}
	for _, other := range all {
		for _, t := range other.having(dirToken) {
			token, ok := t.value.(*inbound.Token)
			if ok && (other == c || token.Account == verify.Account || token.Account == "" || verify.Account == "") {
				return
			}
		}
	}
	add(o, "add `doku_token "+defaultTokenPath+"`, with the path of the Token URL at DOKU, unless another sidecar has it",
		"doku_verify expects tokens that doku_token has issued, and there is no doku_token: DOKU gets none, and all its calls are refused")
}

// warnOfOtherHosts warns of host names that get Caddy's empty 200.
func (c *siteCheck) warnOfOtherHosts(add addWarning) {
	for _, a := range from(c.server, request{host: otherHost, path: dokuPaths[0]}) {
		if a.name != "" || a.shadowed != "" || a.verify != nil {
			continue
		}
		add(occurrence{}, "add a site for all other names: `"+otherSite(c.server)+" {`, `doku_unhandled`, `}`",
			"a call with another Host than the sites' names gets an empty 200 from Caddy, which DOKU takes for a success")
	}
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
