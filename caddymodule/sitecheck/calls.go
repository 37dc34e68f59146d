package sitecheck

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-doku/caddy-doku/caddymodule/inbound"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/directive"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/routes"
	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/verifier"
)

// dokuPaths are paths that DOKU may call.
var dokuPaths = []string{
	directive.DefaultTokenPath,
	"/v1.1/transfer-va/payment", "/v1/transfer-va/payment", "/v1.0/transfer-va/payment", "/v1.1/transfer-va/inquiry",
	"/v1/transfer-va/inquiry", "/v1.0/transfer-va/inquiry", "/v1.0/debit/notify", "/v1/debit/notify",
}

// otherHost and otherPath are names that no configuration has.
const (
	otherHost = "other-host.caddy-doku.invalid"
	otherPath = "/other-path-of-caddy-doku"
)

// methods are those that an app may book a payment for. DOKU's calls are POST.
var methods = []string{
	http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodOptions, "ANY",
}

// hosts returns a name for each site that has a handler of DOKU's calls.
func (c *siteCheck) hosts() (all []string) {
	for _, place := range c.ours {
		if len(place.Hosts) == 0 {
			all = append(all, otherHost)
		}
		for _, pattern := range place.Hosts {
			all = append(all, routes.SampleHost(pattern))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// siteOf returns how the user knows the site of a host.
func (c *siteCheck) siteOf(host string) string {
	for _, place := range c.ours {
		if slices.ContainsFunc(place.Hosts, func(pattern string) bool { return routes.MatchHost(pattern, host) }) {
			return c.name(place.Hosts)
		}
	}
	return c.name(nil)
}

// paths returns the paths to follow: DOKU's, and one for each pattern in the server.
func (c *siteCheck) paths() []string {
	all := slices.Clone(dokuPaths)
	for _, place := range c.walker.Places(func(routes.Handler) bool { return true }) {
		for _, pattern := range place.Paths {
			if sample := routes.Sample(pattern); !slices.Contains(all, sample) {
				all = append(all, sample)
			}
		}
	}
	return append(all, otherPath)
}

// followed is a call that was followed through the routes.
type followed struct {
	routes.Request
	wanted []routes.Arrival // the handlers that would get it if nothing took it before
	ends   []routes.Arrival // where it may end
}

// ours reports whether handlers of ours are there for a call.
func (f *followed) ours() bool { return len(f.wanted) > 0 }

// follow follows POST calls to one host. It reports false if there are too many ways.
func (c *siteCheck) follow(host string) (all []followed, complete bool) {
	for _, path := range c.paths() {
		f := followed{Request: routes.Request{Host: host, Method: http.MethodPost, Path: path}}
		wanted, whole := c.walker.Wanted(f.Request)
		ends, also := c.walker.Answerers(f.Request)
		if !whole || !also {
			return all, false
		}
		wanted = slices.DeleteFunc(wanted, func(a routes.Arrival) bool { return a.Guessed })
		if first := slices.IndexFunc(wanted, isOurs); first >= 0 {
			f.wanted = wanted[first:]
		}
		f.ends = ends
		all = append(all, f)
	}
	return all, true
}

// followCalls follows calls to all hosts that have handlers of ours.
func (c *siteCheck) followCalls() {
	c.calls = make(map[string][]followed)
	for _, host := range c.hosts() {
		calls, complete := c.follow(host)
		if !complete {
			c.warn(
				c.siteOf(host),
				"give DOKU's calls a site of their own with doku_app, or write their lines in a `route` before the rewrites",
				"the site has too many matchers to check whether calls can reach the app unverified",
			)
		} else {
			c.calls[host] = calls
		}
		for _, call := range calls {
			for _, end := range call.ends {
				if verifyOf(end) != nil {
					c.addProxy(end.Handler)
				}
			}
		}
	}
	for _, place := range c.ours {
		if inbox, ok := place.Value.(interface{ Proxies() caddyhttp.RouteList }); ok {
			for _, of := range routes.New(&caddyhttp.Server{Routes: inbox.Proxies()}, nil).Places(routes.Named(routes.Proxy)) {
				c.addProxy(of.Handler)
			}
		}
	}
}

// addProxy remembers a handler that gets verified calls, if it is a proxy.
func (c *siteCheck) addProxy(h routes.Handler) {
	if proxy, ok := h.Value.(*reverseproxy.Handler); ok && !slices.Contains(c.proxies, proxy) {
		c.proxies = append(c.proxies, proxy)
	}
}

// checkCalls returns an error if a call would reach one of the apps unverified, or if DOKU's
// calls would not reach theirs.
func (c *siteCheck) checkCalls(apps []string) error {
	hidden := make(map[string]error) // by site
	reached := make(map[string]bool)
	for _, host := range slices.Sorted(maps.Keys(c.calls)) {
		site := c.siteOf(host)
		open := openPaths{site: site}
		var lost error
		for _, call := range c.calls[host] {
			if call.ours() || call.Path == otherPath || slices.Contains(dokuPaths, call.Path) {
				open.add(call.Path, call.ends)
				c.checkFailures(site, call.Request, apps)
			}
			if !call.ours() {
				continue
			}
			if err := c.unverified(site, call, apps); err != nil {
				return err
			}
			if err := c.turnedIntoYes(site, call); err != nil {
				return err
			}
			if lost == nil {
				lost = isHidden(site, call)
			}
			c.warnOfPasswords(site, call)
			for _, end := range call.ends {
				c.warnOfDelivery(site, call.Path, end)
			}
		}
		open.warn(c)
		reached[site] = reached[site] || lost == nil
		if hidden[site] == nil {
			hidden[site] = lost
		}
	}
	for _, site := range slices.Sorted(maps.Keys(hidden)) {
		switch err := hidden[site]; {
		case err == nil:
		case reached[site]: // by another of its names, such as the one without www
			c.warn(site, "set the URLs at DOKU to a name of the site that does not have this", "under one of the site's names, %s",
				strings.TrimPrefix(err.Error(), "site "+site+": "))
		default:
			return err
		}
	}
	return nil
}

// isOutOfReach returns an error if a handler of ours stands in a block for other paths than
// its own.
func (c *siteCheck) isOutOfReach(place routes.Place) error {
	if len(place.Paths) == 0 || len(c.calls) == 0 {
		return nil
	}
	for _, calls := range c.calls {
		for _, call := range calls {
			wanted, _ := c.walker.Wanted(call.Request)
			matches := slices.ContainsFunc(place.Paths, func(pattern string) bool { return routes.MatchPath(pattern, call.Path) })
			if slices.ContainsFunc(wanted, func(a routes.Arrival) bool {
				return a.Guessed || slices.ContainsFunc(append(a.Behind, a.Handler), func(h routes.Handler) bool {
					return h.Value == place.Value || matches && h.Name == place.Name // or another one takes its calls
				})
			}) {
				return nil
			}
		}
	}
	return fmt.Errorf("site %s: %s %s is never reached: it stands in a block for other paths, or behind one that takes its calls; "+
		"write it, or doku_app, outside of the block", c.name(place.Hosts), place.Name, strings.Join(place.Paths, " "))
}

// isOurs reports whether an arrival is one of DOKU's calls at a handler of ours, or behind it.
func isOurs(a routes.Arrival) bool {
	return a.Name == directive.Token || a.Name == directive.Inbox || verifyOf(a) != nil
}

// verifyOf returns the doku_verify that a call has come through, or nil.
func verifyOf(a routes.Arrival) *inbound.Verify {
	at := slices.IndexFunc(a.Behind, routes.Named(directive.Verify))
	if at < 0 {
		return nil
	}
	if verify, ok := a.Behind[at].Value.(*inbound.Verify); ok {
		return verify
	}
	return new(inbound.Verify)
}

// toApp reports whether an arrival is a proxy that passes calls to one of the apps which
// nobody has verified. The one of doku_sign passes them to DOKU.
func toApp(a routes.Arrival, apps []string) bool {
	proxy, ok := a.Value.(*reverseproxy.Handler)
	return ok && verifyOf(a) == nil && !slices.ContainsFunc(a.Behind, routes.Named(directive.Sign)) &&
		slices.ContainsFunc(addressesOf(proxy), func(address string) bool { return slices.Contains(apps, address) })
}

// isHidden returns an error if other handlers answer all of DOKU's calls to a path.
func isHidden(site string, call followed) error {
	by, before := "", ""
	for _, end := range call.ends {
		target := missed(end, call.wanted)
		if target == "" {
			return nil
		}
		by, before = cmp.Or(by, end.Name), cmp.Or(before, target)
	}
	if by == "" {
		return fmt.Errorf(
			"site %s: DOKU's calls to %s get an empty 200 from Caddy, since a block that answers nothing takes them before %s; "+
				"write doku_app, or doku_verify and doku_inbox, in that block",
			site,
			call.Path,
			before,
		)
	}
	return fmt.Errorf("site %s: %s answers DOKU's calls to %s before %s, which never gets them; give %[2]s a matcher that leaves DOKU's "+
		"paths out, or write doku_unhandled in its place, at the end of the site", site, asWritten(by), call.Path, before)
}

// missed returns the handler that should get a call in place of the one it ends at, or "" if
// there is none.
func missed(end routes.Arrival, wanted []routes.Arrival) string {
	verified := verifyOf(end) != nil
	switch {
	case end.Guessed,
		verified && (end.Name == routes.Proxy || end.Name == ""),
		routes.Named(directive.Token, directive.Inbox, directive.Unhandled)(end.Handler):
		return ""
	case !verified && verifyOf(wanted[0]) != nil:
		return directive.Verify
	case !verified:
		return wanted[0].Name
	}
	behind := slices.IndexFunc(wanted, func(a routes.Arrival) bool {
		return (a.Name == directive.Inbox || a.Name == routes.Proxy) &&
			slices.ContainsFunc(a.Behind, func(h routes.Handler) bool { return h.Value != nil && h.Value == end.Value })
	})
	if behind < 0 {
		return ""
	}
	return wanted[behind].Name
}

// unverified returns an error if a call reaches the app that doku_verify should have seen,
// and has not.
func (c *siteCheck) unverified(site string, call followed, apps []string) error {
	if !slices.ContainsFunc(call.wanted, func(a routes.Arrival) bool { return a.Name == directive.Inbox || verifyOf(a) != nil }) {
		return nil
	}
	const advice = "write `doku_verify` with paths only, or let `doku_unhandled` answer what it leaves out"
	for _, method := range methods {
		request := call.Request
		request.Method = method
		ends, _ := c.walker.Answerers(request)
		for _, end := range ends {
			deliberate := slices.ContainsFunc(end.Into, routes.Named(routes.Proxy)) &&
				!slices.ContainsFunc(end.Past, routes.Named(directive.Verify))
			switch {
			case end.Name == directive.Inbox && verifyOf(end) == nil:
				return fmt.Errorf("site %s: doku_inbox gets calls to %s that doku_verify has not verified; "+
					"write `doku_verify %s` in the same site, for every path of doku_inbox, or use doku_app", site, call.Path, c.patternOf(call.Path))
			case !toApp(end, apps):
			case deliberate:
				c.warn(site, "remove this reverse_proxy, or let its matcher leave DOKU's paths out",
					"a matcher leads calls to %s past doku_verify: reverse_proxy passes them to the app unverified", call.Path)
			case method != http.MethodPost:
				return fmt.Errorf(
					"site %s: reverse_proxy passes %s calls to %s to the app unverified, since doku_verify gets other methods only; %s",
					site,
					method,
					call.Path,
					advice,
				)
			default:
				return fmt.Errorf("site %s: reverse_proxy passes calls to %s to the app unverified, before doku_verify or if its matcher "+
					"does not match; %s", site, call.Path, advice)
			}
		}
	}
	return nil
}

// warnOfPasswords warns of a password that DOKU does not have.
func (c *siteCheck) warnOfPasswords(site string, call followed) {
	asked := false
	for _, end := range call.ends {
		if !isOurs(end) && end.Name != routes.Proxy {
			continue
		}
		if !slices.ContainsFunc(end.Behind, routes.Named(routes.Authentication)) {
			return
		}
		asked = true
	}
	if asked {
		c.warn(site, "give basic_auth a matcher that leaves DOKU's paths out, or give DOKU's calls a site of their own",
			"basic_auth, or another authentication, asks for a password: DOKU has none, gets 401, and no payment arrives")
	}
}

// of one that says none.
func replies2xx(h routes.Handler, usual int) bool {
	switch value := h.Value.(type) {
	case *caddyhttp.StaticResponse:
		return !value.Abort && mayBe2xx(cmp.Or(string(value.StatusCode), strconv.Itoa(usual)))
	case *caddyhttp.StaticError:
		return mayBe2xx(string(value.StatusCode))
	case *fileserver.FileServer:
		return value.StatusCode != "" && mayBe2xx(string(value.StatusCode))
	case *reverseproxy.CopyResponseHandler:
		return value.StatusCode != "" && mayBe2xx(string(value.StatusCode))
	}
	return h.Name == "metrics"
}

// patternOf returns the pattern of ours that a path belongs to, or the path.
func (c *siteCheck) patternOf(path string) string {
	for _, place := range c.ours {
		for _, pattern := range place.Paths {
			if place.Name != directive.Token && routes.MatchPath(pattern, path) {
				return pattern
			}
		}
	}
	return path
}

// stranger would reach the app.
type openPaths struct {
	site              string
	empty, replied2xx []string
}

// warnOfDelivery warns of verified calls that nobody answers, or keeps.
func (c *siteCheck) warnOfDelivery(site, path string, end routes.Arrival) {
	verify := verifyOf(end)
	if verify == nil || end.Guessed {
		return
	}
	service := snap.Service(verify.Service)
	if service == "" {
		service, _ = snap.ServiceOf(http.MethodPost, path)
	}
	pattern := c.patternOf(path)
	switch {
	case end.Name == "":
		c.warn(site, "write `doku_inbox "+pattern+" <address of the app>` behind doku_verify",
			"no handler passes the verified calls to %s to the app: DOKU gets 500", pattern)
	case end.Name == routes.Proxy && service.Notification() && verify.Enforce != "report":
		c.warn(site, "write doku_inbox in place of reverse_proxy, with the same path and address",
			"reverse_proxy passes on the notifications to %s, but keeps none that the app does not accept: "+
				"DOKU itself tries three times more, and then never again", pattern)
	}
}

// warnOfTokens warns of tokens that nobody issues, or that the app would not know.
func (c *siteCheck) warnOfTokens(place routes.Place, all []*siteCheck) {
	verify, ok := place.Value.(*inbound.Verify)
	if !ok {
		return
	}
	hasToken := func(p routes.Place) bool { return p.Name == directive.Token }
	if verify.Enforce == "report" {
		if slices.ContainsFunc(c.ours, hasToken) {
			c.warn(c.name(place.Hosts), "while `enforce report` is on, leave DOKU's token requests to the app: remove doku_token",
				"doku_token issues DOKU's tokens while doku_verify only reports: an app that checks tokens itself does not know them")
		}
		return
	}
	if mode := cmp.Or(verify.Token, string(verifier.TokenIssued)); verifier.TokenMode(mode) != verifier.TokenIssued {
		return
	}
	for _, other := range all {
		for _, p := range other.ours {
			token, ok := p.Value.(*inbound.Token)
			if ok && (other == c || token.Account == verify.Account || token.Account == "" || verify.Account == "") {
				return
			}
		}
	}
	c.warn(
		c.name(place.Hosts),
		"add `doku_token "+directive.DefaultTokenPath+"`, with the path of the Token URL at DOKU, unless another sidecar has it",
		"doku_verify expects tokens that doku_token has issued, and there is no doku_token: DOKU gets none, and all its calls are refused",
	)
}
