package site

import (
	"encoding/json"
	"path"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
)

// The checks read the routes of a server while Caddy provisions it: in whatever order the
// apps come, some routes have their modules already, and others have only their JSON.

// handler is a handler of a route, and what it is set to.
type handler struct {
	name  string
	value any // the module, which may not be provisioned; or nil
}

// handlersOf returns the handlers of a route.
func handlersOf(r *caddyhttp.Route) []handler {
	all := make([]handler, 0, len(r.Handlers)+len(r.HandlersRaw))
	if len(r.HandlersRaw) == 0 {
		for _, module := range r.Handlers {
			h := handler{value: module}
			if m, ok := module.(caddy.Module); ok {
				h.name = m.CaddyModule().ID.Name()
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
		all = append(all, handler{named.Handler, decoded("http.handlers."+named.Handler, raw)})
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

// matchersOf returns the sets of matchers, of which one must match as a whole.
func matchersOf(sets caddyhttp.MatcherSets, raw []caddy.ModuleMap) (all [][]any) {
	if len(raw) == 0 {
		for _, set := range sets {
			all = append(all, set)
		}
		return all
	}
	for _, set := range raw {
		var matchers []any
		for name, text := range set {
			matchers = append(matchers, decoded("http.matchers."+name, text))
		}
		all = append(all, matchers)
	}
	return all
}

// truth is whether something matches, as far as the configuration tells.
type truth int

const (
	no truth = iota
	maybe
	yes
)

// request is one that a route is looked up for.
type request struct {
	host, path string
	rewritten  bool // the path is not known
}

// matches reports whether a route matches a request.
func matches(r *caddyhttp.Route, req request) truth {
	return anyMatches(matchersOf(r.MatcherSets, r.MatcherSetsRaw), req)
}

func anyMatches(sets [][]any, req request) truth {
	if len(sets) == 0 {
		return yes
	}
	result := no
	for _, set := range sets {
		whole := yes
		for _, matcher := range set {
			whole = min(whole, matchesOne(matcher, req))
		}
		result = max(result, whole)
	}
	return result
}

func matchesOne(matcher any, req request) truth {
	switch m := matcher.(type) {
	case *caddyhttp.MatchPath:
		return matchesPath(*m, req)
	case caddyhttp.MatchPath:
		return matchesPath(m, req)
	case *caddyhttp.MatchHost:
		return matchesHost(*m, req.host)
	case caddyhttp.MatchHost:
		return matchesHost(m, req.host)
	case *caddyhttp.MatchMethod:
		return matchesMethod(*m)
	case caddyhttp.MatchMethod:
		return matchesMethod(m)
	case *caddyhttp.MatchNot:
		return yes - anyMatches(setsOfNot(m), req)
	}
	return maybe
}

// setsOfNot returns the sets of which none must match.
func setsOfNot(m *caddyhttp.MatchNot) (all [][]any) {
	if len(m.MatcherSets) > 0 || len(m.MatcherSetsRaw) == 0 {
		return matchersOf(m.MatcherSets, nil)
	}
	return matchersOf(nil, m.MatcherSetsRaw)
}

func matchesMethod(methods caddyhttp.MatchMethod) truth {
	for _, method := range methods {
		if strings.Contains(method, "{") {
			return maybe
		}
		if strings.EqualFold(method, "POST") {
			return yes
		}
	}
	return no
}

func matchesHost(hosts caddyhttp.MatchHost, host string) truth {
	result := no
	for _, pattern := range hosts {
		switch {
		case strings.EqualFold(pattern, host):
			return yes
		case strings.Contains(pattern, "{"):
			result = maybe
		case strings.Contains(pattern, "*") && sameLabels(pattern, host):
			return yes
		}
	}
	return result
}

// sameLabels reports whether a host name is one of a pattern in which labels may be *.
func sameLabels(pattern, host string) bool {
	want, have := strings.Split(strings.ToLower(pattern), "."), strings.Split(strings.ToLower(host), ".")
	return slices.EqualFunc(want, have, func(w, h string) bool { return w == "*" || w == h })
}

func matchesPath(patterns caddyhttp.MatchPath, req request) truth {
	result := no
	for _, pattern := range patterns {
		found := matchPath(pattern, req.path)
		if req.rewritten && pattern != "*" && pattern != "/*" {
			found = maybe
		}
		result = max(result, found)
	}
	return result
}

// matchPath reports whether Caddy's path pattern matches a path.
func matchPath(pattern, of string) truth {
	pattern, of = strings.ToLower(pattern), strings.ToLower(of)
	inner := strings.TrimSuffix(strings.TrimPrefix(pattern, "*"), "*")
	var found bool
	switch {
	case strings.ContainsAny(pattern, "{%"):
		return maybe
	case strings.ContainsAny(inner, "*?[\\"):
		found, _ = path.Match(pattern, of)
	case pattern == "*":
		found = true
	case strings.HasPrefix(pattern, "*") && strings.HasSuffix(pattern, "*"):
		found = strings.Contains(of, inner)
	case strings.HasPrefix(pattern, "*"):
		found = strings.HasSuffix(of, inner)
	case strings.HasSuffix(pattern, "*"):
		found = strings.HasPrefix(of, inner)
	default:
		found = pattern == of
	}
	if found {
		return yes
	}
	return no
}

// occurrence is a place in which a handler of ours stands.
type occurrence struct {
	handler
	hosts []string // or none: any host
	paths []string // or none: any path
}

// occurrences returns the places of our handlers in a server's routes.
func occurrences(server *caddyhttp.Server) (all []occurrence) {
	c := collector{server: server}
	c.routes(server.Routes, occurrence{}, "", 0)
	return c.found
}

type collector struct {
	server *caddyhttp.Server
	found  []occurrence
}

// deepest is how many routes may be nested; named routes can invoke each other for ever.
const deepest = 32

func (c *collector) routes(routes caddyhttp.RouteList, within occurrence, prefix string, depth int) {
	if depth > deepest {
		return
	}
	for i := range routes {
		in, stripped := within, prefix
		hosts, paths := wordsOf(&routes[i])
		if len(hosts) > 0 {
			in.hosts = hosts
		}
		if len(paths) > 0 {
			in.paths = nil
			for _, pattern := range paths {
				in.paths = append(in.paths, prefix+pattern)
			}
		}
		for _, h := range handlersOf(&routes[i]) {
			if rewriter, ok := h.value.(*rewrite.Rewrite); ok {
				stripped += rewriter.StripPathPrefix
			}
			c.routes(nested(c.server, h), in, stripped, depth+1)
			if strings.HasPrefix(h.name, "doku_") {
				in.handler = h
				c.found = append(c.found, in)
			}
		}
	}
}

// nested returns the routes within a handler, or none.
func nested(server *caddyhttp.Server, h handler) caddyhttp.RouteList {
	switch value := h.value.(type) {
	case *caddyhttp.Subroute:
		return value.Routes
	case *caddyhttp.Invoke:
		if named := server.NamedRoutes[value.Name]; named != nil {
			return caddyhttp.RouteList{*named}
		}
	}
	return nil
}

// wordsOf returns the hosts and path patterns that a route names.
func wordsOf(r *caddyhttp.Route) (hosts, paths []string) {
	for _, set := range matchersOf(r.MatcherSets, r.MatcherSetsRaw) {
		for _, matcher := range set {
			switch m := matcher.(type) {
			case *caddyhttp.MatchPath:
				paths = append(paths, *m...)
			case caddyhttp.MatchPath:
				paths = append(paths, m...)
			case *caddyhttp.MatchHost:
				hosts = append(hosts, *m...)
			case caddyhttp.MatchHost:
				hosts = append(hosts, m...)
			}
		}
	}
	return hosts, paths
}
