package site

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/intercept"

	"github.com/caddy-doku/caddy-doku/caddymodule/inbound"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/routes"
	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/verifier"
)

// dokuPaths are paths that DOKU may call.
var dokuPaths = []string{
	defaultTokenPath, "/v1.1/transfer-va/payment", "/v1/transfer-va/payment", "/v1.0/transfer-va/payment", "/v1.1/transfer-va/inquiry",
	"/v1/transfer-va/inquiry", "/v1.0/transfer-va/inquiry", "/v1.0/debit/notify", "/v1/debit/notify",
}

// otherHost and otherPath are names that no configuration has.
const (
	otherHost = "other-host.caddy-doku.invalid"
	otherPath = "/other-path-of-caddy-doku"
)

// methods are those that an app may book a payment for. DOKU's calls are POST.
var methods = []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodGet}

// hosts returns a name for each site that has a handler of DOKU's calls.
func (c *siteCheck) hosts() (all []string) {
	for _, place := range c.ours {
		if len(place.Hosts) == 0 {
			all = append(all, otherHost)
		}
		for _, pattern := range place.Hosts {
			all = append(all, strings.ReplaceAll(pattern, "*", "any"))
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

// followCalls follows calls to one host, as DOKU or a stranger would make them. It returns
// an error if one would reach the app unverified, or if DOKU's would not reach it.
func (c *siteCheck) followCalls(host string) error {
	open := openPaths{site: c.siteOf(host)}
	for _, path := range c.paths() {
		call := routes.Request{Host: host, Method: http.MethodPost, Path: path}
		wanted, complete := c.walker.Wanted(call)
		ends, all := c.walker.Answerers(call)
		if !complete || !all {
			c.warn(open.site, "use fewer matchers, or give DOKU's calls a site of their own with doku_app",
				"the site has too many matchers to check whether calls can reach the app unverified")
			return nil
		}
		first := slices.IndexFunc(wanted, isOurs)
		if known := path == otherPath || slices.Contains(dokuPaths, path); known || first >= 0 {
			open.add(path, ends)
		}
		if first < 0 {
			continue
		}
		if err := c.checkOurs(&open, call, wanted[first:], ends); err != nil {
			return err
		}
	}
	open.warn(c)
	return c.outOfReach(host)
}

// outOfReach returns an error if a handler of ours stands in a block for other paths than
// its own.
func (c *siteCheck) outOfReach(host string) error {
	for _, place := range c.ours {
		if len(place.Hosts) > 0 && !slices.ContainsFunc(place.Hosts, func(pattern string) bool { return routes.MatchHost(pattern, host) }) {
			continue
		}
		reached := func(path string) bool {
			wanted, _ := c.walker.Wanted(routes.Request{Host: host, Method: http.MethodPost, Path: path})
			return slices.ContainsFunc(wanted, func(a routes.Arrival) bool {
				return a.Guessed || slices.ContainsFunc(append(a.Behind, a.Handler), func(h routes.Handler) bool { return h.Value == place.Value })
			})
		}
		if len(place.Paths) > 0 && place.Value != nil && !slices.ContainsFunc(c.paths(), reached) {
			return fmt.Errorf("site %s: %s %s is never reached: it stands in a block for other paths, or behind one that takes its calls; "+
				"write it, or doku_app, outside of the block", c.name(place.Hosts), place.Name, strings.Join(place.Paths, " "))
		}
	}
	return nil
}

// checkOurs checks calls to a path of ours. wanted are the handlers that should get them.
func (c *siteCheck) checkOurs(open *openPaths, call routes.Request, wanted, ends []routes.Arrival) error {
	if err := hidden(open.site, call.Path, wanted, ends); err != nil {
		return err
	}
	for _, end := range ends {
		if err := turnedIntoYes(open.site, call.Path, end); err != nil {
			return err
		}
		if end.Name == routes.Proxy && verifyOf(end) != nil {
			c.apps = append(c.apps, addressesOf(end.Handler)...)
		}
		c.warnOfDelivery(open.site, call.Path, end)
	}
	if !slices.ContainsFunc(wanted, func(a routes.Arrival) bool { return a.Name == dirInbox || verifyOf(a) != nil }) {
		return nil
	}
	for _, method := range methods {
		call.Method = method
		ends, _ := c.walker.Answerers(call)
		for _, end := range ends {
			if err := c.unverified(open, call, end); err != nil {
				return err
			}
		}
	}
	// Many a framework takes these for the same path, and Caddy does not.
	call.Method = http.MethodPost
	for _, alike := range []string{call.Path + "/", call.Path + ".json"} {
		call.Path = alike
		if ends, _ := c.walker.Answerers(call); slices.ContainsFunc(ends, toApp) {
			open.unverified = append(open.unverified, alike)
		}
	}
	return nil
}

// isOurs reports whether an arrival is one of DOKU's calls at a handler of ours, or behind it.
func isOurs(a routes.Arrival) bool {
	return a.Name == dirToken || a.Name == dirInbox || verifyOf(a) != nil
}

// verifyOf returns the doku_verify that a call has come through, or nil.
func verifyOf(a routes.Arrival) *inbound.Verify {
	at := slices.IndexFunc(a.Behind, isNamed(dirVerify))
	if at < 0 {
		return nil
	}
	if verify, ok := a.Behind[at].Value.(*inbound.Verify); ok {
		return verify
	}
	return new(inbound.Verify)
}

func isNamed(names ...string) func(routes.Handler) bool {
	return func(h routes.Handler) bool { return slices.Contains(names, h.Name) }
}

// toApp reports whether an arrival is a proxy that gets calls which nobody has verified. The
// one of doku_sign passes them to DOKU.
func toApp(a routes.Arrival) bool {
	return a.Name == routes.Proxy && verifyOf(a) == nil && !slices.ContainsFunc(a.Behind, isNamed(dirSign))
}

// hidden returns an error if other handlers answer all of DOKU's calls to a path.
func hidden(site, path string, wanted, ends []routes.Arrival) error {
	by, before := "", ""
	for _, end := range ends {
		target := missed(end, wanted)
		if target == "" {
			return nil
		}
		by, before = cmp.Or(by, end.Name), cmp.Or(before, target)
	}
	return fmt.Errorf("site %s: %s answers DOKU's calls to %s before %s, which never gets them; give %[2]s a matcher that leaves DOKU's "+
		"paths out, or write doku_unhandled in its place, at the end of the site", site, asWritten(by), path, before)
}

// missed returns the handler that should get a call in place of the one it ends at, or "" if
// there is none.
func missed(end routes.Arrival, wanted []routes.Arrival) string {
	verified := verifyOf(end) != nil
	switch {
	case end.Guessed, verified && end.Name == routes.Proxy, slices.Contains([]string{"", dirToken, dirInbox, dirUnhandled}, end.Name):
		return ""
	case !verified && verifyOf(wanted[0]) != nil:
		return dirVerify
	case !verified:
		return wanted[0].Name
	}
	behind := slices.IndexFunc(wanted, func(a routes.Arrival) bool {
		return (a.Name == dirInbox || a.Name == routes.Proxy) &&
			slices.ContainsFunc(a.Behind, func(h routes.Handler) bool { return h.Value != nil && h.Value == end.Value })
	})
	if behind < 0 {
		return ""
	}
	return wanted[behind].Name
}

// unverified returns an error if a call reaches the app that doku_verify should have seen,
// and has not.
func (c *siteCheck) unverified(open *openPaths, call routes.Request, end routes.Arrival) error {
	if end.Name == dirInbox && verifyOf(end) == nil {
		return fmt.Errorf("site %s: doku_inbox gets calls to %s that doku_verify has not verified; "+
			"write `doku_verify %s` in the same site, for every path of doku_inbox, or use doku_app",
			open.site, call.Path, c.patternOf(call.Path))
	}
	if !toApp(end) {
		return nil
	}
	const advice = "write `doku_verify` with paths only, or let `doku_unhandled` answer what it leaves out"
	switch {
	case slices.ContainsFunc(end.Into, isNamed(routes.Proxy)) && !slices.ContainsFunc(end.Past, isNamed(dirVerify)):
		c.warn(open.site, "remove this reverse_proxy, or let its matcher leave DOKU's paths out",
			"a matcher leads calls to %s past doku_verify: reverse_proxy passes them to the app unverified", call.Path)
		return nil
	case call.Method != http.MethodPost:
		return fmt.Errorf("site %s: reverse_proxy passes %s calls to %s to the app unverified, since doku_verify gets other methods only; %s",
			open.site, call.Method, call.Path, advice)
	}
	return fmt.Errorf("site %s: reverse_proxy passes calls to %s to the app unverified, if the matcher of doku_verify does not match; %s",
		open.site, call.Path, advice)
}

// turnedIntoYes returns an error if a handler in front of ours makes a 2xx of other answers.
func turnedIntoYes(site, path string, end routes.Arrival) error {
	if !isOurs(end) {
		return nil
	}
	for _, h := range end.Behind {
		if h.Name == dirVerify {
			break
		}
		around, ok := h.Value.(*intercept.Intercept)
		if !ok {
			continue
		}
		for _, response := range around.HandleResponse {
			if mayBe2xx(string(response.StatusCode)) || response.StatusCode == "" && repliesWith2xx(response.Routes, http.StatusOK) {
				return fmt.Errorf("site %s: intercept answers DOKU's calls to %s with a 2xx in place of the sidecar, "+
					"and DOKU takes any 2xx for a success; remove it, or give it a matcher that leaves DOKU's paths out", site, path)
			}
		}
	}
	return nil
}

// mayBe2xx reports whether a status of the configuration is 2xx, or may be.
func mayBe2xx(status string) bool {
	return len(status) == 3 && status[0] == '2' || strings.Contains(status, "{")
}

// repliesWith2xx reports whether a handler in routes answers with a 2xx, or may do so. usual
// is the status of one that says none.
func repliesWith2xx(list caddyhttp.RouteList, usual int) bool {
	reader := routes.New(&caddyhttp.Server{Routes: list}, nil)
	return len(reader.Places(func(h routes.Handler) bool { return replies2xx(h, usual) })) > 0
}

func replies2xx(h routes.Handler, usual int) bool {
	if static, ok := h.Value.(*caddyhttp.StaticResponse); ok {
		return !static.Abort && mayBe2xx(cmp.Or(string(static.StatusCode), strconv.Itoa(usual)))
	}
	return h.Name == "metrics"
}

// patternOf returns the pattern of ours that a path belongs to, or the path.
func (c *siteCheck) patternOf(path string) string {
	for _, place := range c.ours {
		for _, pattern := range place.Paths {
			if place.Name != dirToken && routes.MatchPath(pattern, path) {
				return pattern
			}
		}
	}
	return path
}

// openPaths are paths of a site at which DOKU would take for a success what is none, or a
// stranger would reach the app.
type openPaths struct {
	site                          string
	empty, replied2xx, unverified []string
}

// add adds a path, by where calls to it end.
func (o *openPaths) add(path string, ends []routes.Arrival) {
	for _, end := range ends {
		switch {
		case verifyOf(end) != nil:
		case end.Name == "" && !end.Guessed && !slices.Contains(o.empty, path):
			o.empty = append(o.empty, path)
		case replies2xx(end.Handler, http.StatusOK) && !slices.Contains(o.replied2xx, path):
			o.replied2xx = append(o.replied2xx, path)
		case toApp(end) && path != otherPath && path != defaultTokenPath && !slices.Contains(o.unverified, path):
			o.unverified = append(o.unverified, path)
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
	if len(c.walker.Places(isNamed(dirUnhandled))) == 0 {
		last += " (or use doku_app, which has it)"
	}
	if len(o.empty) > 0 {
		c.warn(o.site, last, "a path that no handler answers gets an empty 200 from Caddy, which DOKU takes for a success: %s", named(o.empty))
	}
	if len(o.replied2xx) > 0 {
		c.warn(o.site, "let it answer 404, or write `doku_unhandled` in its place",
			"respond answers paths that DOKU may call with a 2xx, which DOKU takes for a success: %s", named(o.replied2xx))
	}
	if len(o.unverified) > 0 {
		c.warn(o.site, "write these paths behind doku_verify and doku_inbox too, or, if the app does not serve them, "+
			"for each a block `handle <path> {`, `respond 404`, `}`",
			"reverse_proxy passes calls to the app that doku_verify has not verified, at paths of DOKU's: %s", strings.Join(o.unverified, ", "))
	}
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

// warnOfErrorRoutes warns of a 2xx in place of an error.
func (c *siteCheck) warnOfErrorRoutes() {
	if c.server.Errors != nil && repliesWith2xx(c.server.Errors.Routes, http.StatusInternalServerError) {
		c.warn(c.name(nil), "let it answer with the error's own status: `respond {err.status_code}`",
			"handle_errors answers errors with a 2xx, which DOKU takes for a success")
	}
}

// warnOfTokens warns of tokens that nobody issues, or that the app would not know.
func (c *siteCheck) warnOfTokens(place routes.Place, all []*siteCheck) {
	verify, ok := place.Value.(*inbound.Verify)
	if !ok {
		return
	}
	hasToken := func(p routes.Place) bool { return p.Name == dirToken }
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
	c.warn(c.name(place.Hosts), "add `doku_token "+defaultTokenPath+"`, with the path of the Token URL at DOKU, unless another sidecar has it",
		"doku_verify expects tokens that doku_token has issued, and there is no doku_token: DOKU gets none, and all its calls are refused")
}

// warnOfOtherHosts warns of host names that get a 2xx for nothing.
func (c *siteCheck) warnOfOtherHosts() {
	if !slices.ContainsFunc(c.ours, func(p routes.Place) bool { return len(p.Hosts) > 0 }) {
		return
	}
	ends, _ := c.walker.Answerers(routes.Request{Host: otherHost, Method: http.MethodPost, Path: "/v1.1/transfer-va/payment"})
	for _, end := range ends {
		if isOurs(end) || end.Name != "" && !replies2xx(end.Handler, http.StatusOK) {
			continue
		}
		c.warn(c.name(nil), "add a site for all other names: `"+otherSite(c.server)+" {`, `doku_unhandled`, `}`",
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
