package site

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"

	"github.com/caddy-doku/caddy-doku/caddymodule/inbound"
)

// walk follows a POST request through the routes of a server, as Caddy would, and reports
// what it comes to.
type walk struct {
	server *caddyhttp.Server
	report func(arrival)
	steps  int
}

// arrival is a handler that a request comes to, or the end of the routes.
type arrival struct {
	name string // or "": nothing has answered
	trail
}

// trail is what has happened to a request so far.
type trail struct {
	request
	groups   []string        // that a route was taken of
	verify   *inbound.Verify // that has seen it, or nil
	shadowed string          // a handler of another module that has answered already, or ""
	doubtful bool            // a matcher or handler that nobody knows has decided
}

// mostSteps bounds a walk through many matchers that nobody knows.
const mostSteps = 20_000

// from walks with a request, and reports all that it certainly comes to.
func from(server *caddyhttp.Server, req request) (all []arrival) {
	w := walk{server: server, report: func(a arrival) {
		if !a.doubtful {
			all = append(all, a)
		}
	}}
	w.routes(server.Routes, trail{request: req}, 0, func(t trail) { w.report(arrival{"", t}) })
	if w.steps > mostSteps {
		return nil
	}
	return all
}

func (w *walk) routes(routes caddyhttp.RouteList, t trail, depth int, next func(trail)) {
	w.steps++
	if w.steps > mostSteps || depth > deepest {
		return
	}
	if len(routes) == 0 {
		next(t)
		return
	}
	r := &routes[0]
	rest := func(t trail) { w.routes(routes[1:], t, depth, next) }
	if r.Group != "" && slices.Contains(t.groups, r.Group) {
		rest(t)
		return
	}
	handlers := handlersOf(r)
	found := matches(r, t.request)
	// Of a matcher that nobody knows, what is DOKU's call may be: it comes to our handlers,
	// and passes by what others put in the way of strangers.
	ours := slices.ContainsFunc(handlers, func(h handler) bool { return w.isOurs(h, depth) })
	if found != yes {
		skipped := t
		skipped.doubtful = t.doubtful || found == maybe && ours
		rest(skipped)
	}
	if found == no {
		return
	}
	t.doubtful = t.doubtful || found == maybe && !ours
	if r.Group != "" {
		t.groups = append(slices.Clone(t.groups), r.Group)
	}
	w.handlers(handlers, t, depth, func(t trail) {
		if r.Terminal {
			w.report(arrival{"", t})
			return
		}
		rest(t)
	})
}

// isOurs reports whether a handler is ours, or has one of ours in it.
func (w *walk) isOurs(h handler, depth int) bool {
	if strings.HasPrefix(h.name, "doku_") && h.name != dirTracing && h.name != dirUntrustedTrace {
		return true
	}
	if depth > deepest {
		return false
	}
	routes := nested(w.server, h)
	for i := range routes {
		if slices.ContainsFunc(handlersOf(&routes[i]), func(h handler) bool { return w.isOurs(h, depth+1) }) {
			return true
		}
	}
	return false
}

// passing are the handlers of Caddy that always call the next one.
var passing = []string{
	"copy_response_headers", "encode", "headers", "intercept", "log_append", "map", "push", "request_body", "templates", "timeouts",
	"tracing", "vars", dirUntrustedTrace, dirTracing, dirSign, dirHealth,
}

// answering are those that never do, as far as a POST request for DOKU's paths goes.
var answering = []string{"error", "file_server", "metrics", proxyName, "static_response"}

// proxyName is the handler that passes a request to the app.
const proxyName = "reverse_proxy"

func (w *walk) handlers(handlers []handler, t trail, depth int, next func(trail)) {
	if len(handlers) == 0 {
		next(t)
		return
	}
	h := handlers[0]
	rest := func(t trail) { w.handlers(handlers[1:], t, depth, next) }
	switch {
	case h.name == "subroute", h.name == "invoke":
		w.routes(nested(w.server, h), t, depth+1, rest)
	case h.name == "rewrite":
		rest(rewrittenBy(h, t))
	case h.name == dirVerify:
		w.report(arrival{h.name, t})
		if t.verify, _ = h.value.(*inbound.Verify); t.verify == nil {
			t.verify = new(inbound.Verify)
		}
		rest(t)
	case h.name == dirToken, h.name == dirInbox, h.name == dirUnhandled:
		w.report(arrival{h.name, t})
	case slices.Contains(answering, h.name):
		w.report(arrival{h.name, t})
		if t.shadowed == "" {
			t.shadowed = h.name
		}
		rest(t) // for what it hides
	case slices.Contains(passing, h.name):
		rest(t)
	default:
		t.doubtful = true
		rest(t)
	}
}

// rewrittenBy returns the trail behind a handler rewrite.
func rewrittenBy(h handler, t trail) trail {
	rewriter, ok := h.value.(*rewrite.Rewrite)
	if !ok || rewriter.URI != "" || rewriter.Method != "" || rewriter.StripPathSuffix != "" || rewriter.Query != nil ||
		len(rewriter.URISubstring)+len(rewriter.PathRegexp) > 0 {
		t.rewritten = true
		return t
	}
	if strings.HasPrefix(strings.ToLower(t.path), strings.ToLower(rewriter.StripPathPrefix)) {
		t.path = t.path[len(rewriter.StripPathPrefix):]
	}
	return t
}
