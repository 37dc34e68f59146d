// Package routes reads the routes of a Caddy server, and follows requests through them as
// far as the configuration tells: the checks of whole sites, and hints that name a line of
// the Caddyfile, ask it.
//
// It reads a configuration while Caddy provisions it: in whatever order the apps come, some
// routes have their modules already, and others have only their JSON. It changes nothing.
package routes

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
)

// Handler is a handler of a route, and what it is set to.
type Handler struct {
	Name  string // of its module, without "http.handlers."
	Value any    // the module, which may not be provisioned; or nil
}

// Named returns a test for handlers of some names.
func Named(names ...string) func(Handler) bool {
	return func(h Handler) bool { return slices.Contains(names, h.Name) }
}

// Handlers returns the handlers of a route.
func (w *Walker) Handlers(r *caddyhttp.Route) []Handler {
	all, known := w.handlers[r]
	if !known {
		all = handlersOf(r)
		w.handlers[r] = all
	}
	return all
}

func handlersOf(r *caddyhttp.Route) []Handler {
	all := make([]Handler, 0, len(r.Handlers)+len(r.HandlersRaw))
	if len(r.HandlersRaw) == 0 {
		for _, module := range r.Handlers {
			h := Handler{Value: module}
			if m, ok := module.(caddy.Module); ok {
				h.Name = m.CaddyModule().ID.Name()
			}
			all = append(all, h)
		}
		return all
	}
	for _, raw := range r.HandlersRaw {
		var named struct {
			Handler string `json:"handler"`
		}
		if json.Unmarshal(raw, &named) != nil {
			continue // Caddy finds it
		}
		all = append(all, Handler{named.Handler, decoded("http.handlers."+named.Handler, raw)})
	}
	return all
}

// decoded returns a module with its settings, or nil. Mistakes in them are found when Caddy
// loads the module.
func decoded(id string, raw json.RawMessage) any {
	info, err := caddy.GetModule(id)
	if err != nil {
		return nil
	}
	module := info.New()
	if json.Unmarshal(raw, module) != nil {
		return nil
	}
	return module
}

// Deepest is how many routes may be nested; named routes can invoke each other for ever.
const Deepest = 32

// Nested returns the routes within a handler, or none.
func (w *Walker) Nested(h Handler) caddyhttp.RouteList {
	switch value := h.Value.(type) {
	case *caddyhttp.Subroute:
		return value.Routes
	case *caddyhttp.Invoke:
		if route := w.server.NamedRoutes[value.Name]; route != nil && w.named[value.Name] == nil {
			w.named[value.Name] = caddyhttp.RouteList{*route}
		}
		return w.named[value.Name]
	}
	return nil
}

// Place is where a handler stands.
type Place struct {
	Handler
	Hosts []string // of its routes, or none: any host
	Paths []string // as a caller writes them, or none: any path
}

// Places returns the places of the handlers that wanted wants, in their order.
func (w *Walker) Places(wanted func(Handler) bool) (all []Place) {
	w.collect(w.server.Routes, Place{}, "", 0, func(p Place) {
		if wanted(p.Handler) {
			all = append(all, p)
		}
	})
	return all
}

func (w *Walker) collect(routes caddyhttp.RouteList, within Place, prefix string, depth int, visit func(Place)) {
	if depth > Deepest {
		return
	}
	for i := range routes {
		in, stripped := within, prefix
		hosts, paths := w.wordsOf(&routes[i])
		if len(hosts) > 0 {
			in.Hosts = hosts
		}
		if len(paths) > 0 {
			in.Paths = nil
			for _, pattern := range paths {
				in.Paths = append(in.Paths, prefix+pattern)
			}
		}
		for _, h := range w.Handlers(&routes[i]) {
			if rewriter, ok := h.Value.(*rewrite.Rewrite); ok {
				stripped += rewriter.StripPathPrefix
			}
			w.collect(w.Nested(h), in, stripped, depth+1, visit)
			in.Handler = h
			visit(in)
		}
		if !HasMatcher(&routes[i]) {
			prefix = stripped // handle_path strips in a route of its own
		}
	}
}

// Hosts returns the patterns of all hosts that the routes name.
func (w *Walker) Hosts() []string {
	var all []string
	w.eachRoute(w.server.Routes, 0, func(r *caddyhttp.Route) {
		hosts, _ := w.wordsOf(r)
		all = append(all, hosts...)
	})
	slices.Sort(all)
	return slices.Compact(all)
}

// eachRoute visits routes, and those in them.
func (w *Walker) eachRoute(list caddyhttp.RouteList, depth int, visit func(*caddyhttp.Route)) {
	for i := range list {
		visit(&list[i])
		for _, h := range w.Handlers(&list[i]) {
			if depth < Deepest {
				w.eachRoute(w.Nested(h), depth+1, visit)
			}
		}
	}
}

// wordsOf returns the hosts and path patterns that a route names.
func (w *Walker) wordsOf(r *caddyhttp.Route) (hosts, paths []string) {
	for _, set := range w.matchersOf(r) {
		for _, matcher := range set {
			switch m := plain(matcher).(type) {
			case caddyhttp.MatchPath:
				paths = append(paths, m...)
			case caddyhttp.MatchHost:
				hosts = append(hosts, m...)
			}
		}
	}
	return hosts, paths
}

// namesHost reports whether a route is one of a site: it matches hosts.
func (w *Walker) namesHost(r *caddyhttp.Route) bool {
	hosts, _ := w.wordsOf(r)
	return len(hosts) > 0
}

// matchersOf returns the sets of matchers of a route, of which one must match as a whole.
func (w *Walker) matchersOf(r *caddyhttp.Route) [][]any {
	all, known := w.matchers[r]
	if !known {
		all = matchersOf(r.MatcherSets, r.MatcherSetsRaw)
		w.matchers[r] = all
	}
	return all
}

// HasMatcher reports whether a route matches some requests only.
func HasMatcher(r *caddyhttp.Route) bool {
	return len(r.MatcherSets)+len(r.MatcherSetsRaw) > 0
}

// SampleHost returns a name that Caddy's host pattern matches.
func SampleHost(pattern string) string { return strings.ReplaceAll(pattern, "*", "any") }

// anyOne stands for the parts of a pattern that match any text.
var anyOne = regexp.MustCompile(`\*|\?|\[[^^\]][^\]]*\]`)

// Sample returns a path that Caddy's path pattern matches.
func Sample(pattern string) string {
	sample := anyOne.ReplaceAllStringFunc(pattern, func(part string) string {
		switch part[0] {
		case '*':
			return "payment"
		case '?':
			return "x"
		}
		return part[1:2]
	})
	if !strings.HasPrefix(sample, "/") {
		sample = "/" + sample
	}
	return sample
}
