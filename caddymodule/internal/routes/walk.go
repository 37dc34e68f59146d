package routes

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
)

// Kind is what a handler does with a request that comes to it.
type Kind int

const (
	// Unknown is a handler that may answer or call the next one. It is the zero value.
	Unknown Kind = iota

	// Passes is a handler that always calls the next one, or refuses the request.
	Passes

	// Answers is a handler that answers, and never calls the next one.
	Answers
)

// Proxy and Static are handlers of Caddy's that answer.
const (
	Proxy  = "reverse_proxy"
	Static = "static_response"
)

// kinds are those of Caddy's own handlers, for a request with a body to a path of DOKU's.
var kinds = map[string]Kind{
	"copy_response_headers": Passes, "encode": Passes, "headers": Passes, "intercept": Passes, "log_append": Passes, "map": Passes,
	"push": Passes, "request_body": Passes, "templates": Passes, "timeouts": Passes, "tracing": Passes, "vars": Passes,
	"authentication": Passes,
	"error":          Answers, "file_server": Answers, "metrics": Answers, Proxy: Answers, Static: Answers,
}

// Walker follows requests through the routes of a server, as Caddy would. It is not safe
// for concurrent use.
type Walker struct {
	server   *caddyhttp.Server
	kinds    map[string]Kind // of handlers that are not Caddy's own
	matchers map[*caddyhttp.Route][][]any
	handlers map[*caddyhttp.Route][]Handler
	named    map[string]caddyhttp.RouteList
}

// New returns a Walker for a server. others are the kinds of handlers that are not Caddy's
// own; one that is in neither is [Unknown].
func New(server *caddyhttp.Server, others map[string]Kind) *Walker {
	return &Walker{
		server: server, kinds: others, matchers: make(map[*caddyhttp.Route][][]any),
		handlers: make(map[*caddyhttp.Route][]Handler), named: make(map[string]caddyhttp.RouteList),
	}
}

// Arrival is a handler that a request comes to and that answers it. Its zero Handler is the
// end of the routes, where Caddy answers with an empty 200.
type Arrival struct {
	Handler
	Behind  []Handler // that the request has come through
	Guessed bool      // a rewrite has changed the path in a way that is not followed here

	// Into and Past are the handlers that a matcher has led to, or past, of which the
	// configuration does not tell whether it matches.
	Into, Past []Handler
}

// trail is what has happened to a request so far.
type trail struct {
	Request
	Arrival
	facts  []fact
	groups []string // that a route was taken of
}

// mostSteps bounds a walk through many matchers that nobody knows.
const mostSteps = 20_000

// Answerers returns where a request may end: one arrival for each way that the matchers
// allow which the configuration does not tell of. It reports false if there are too many
// ways.
func (w *Walker) Answerers(req Request) (all []Arrival, complete bool) {
	return w.walk(req, false)
}

// Wanted returns the handlers that would get a request if nothing took it before: it passes
// by those that answer, and a sibling takes nothing from it.
func (w *Walker) Wanted(req Request) (all []Arrival, complete bool) {
	return w.walk(req, true)
}

func (w *Walker) walk(req Request, wanted bool) (all []Arrival, complete bool) {
	one := walk{Walker: w, wanted: wanted, report: func(t trail, h Handler) {
		t.Handler = h
		all = append(all, t.Arrival)
	}}
	one.routes(w.server.Routes, trail{Request: req}, 0, func(t trail) { one.report(t, Handler{}) })
	return all, one.steps <= mostSteps
}

// walk is one of a Walker's.
type walk struct {
	*Walker
	wanted bool
	report func(trail, Handler)
	steps  int
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
	if r.Group != "" && !w.wanted && slices.Contains(t.groups, r.Group) {
		rest(t)
		return
	}
	if !w.matters(r, depth) {
		rest(t)
		return
	}
	sets := w.matchersOf(r)
	q := question{trail: t}
	found := q.anyOf(sets)
	if found == maybe {
		// What has been assumed of the matcher before holds here, too.
		q = question{trail: t, assumed: t.facts}
		switch found = q.anyOf(sets); found {
		case yes:
			t.Into = append(slices.Clone(t.Into), w.within(r, depth)...)
		case no:
			t.Past = append(slices.Clone(t.Past), w.within(r, depth)...)
		case maybe:
			for _, holds := range []bool{true, false} {
				assumed := t
				assumed.facts = append(slices.Clone(t.facts), fact{q.unknown, holds})
				w.routes(routes, assumed, depth, next)
			}
			return
		}
	}
	if found == no {
		rest(t)
		return
	}
	w.take(r, t, depth, rest)
}

// take follows a request into a route that it matches.
func (w *walk) take(r *caddyhttp.Route, t trail, depth int, rest func(trail)) {
	if r.Group != "" {
		t.groups = append(slices.Clone(t.groups), r.Group)
	}
	w.through(w.Handlers(r), t, depth, func(t trail) {
		if r.Terminal && (!w.wanted || w.namesHost(r)) {
			w.report(t, Handler{})
			return
		}
		rest(t)
	})
}

// matters reports whether it makes a difference whether a request comes through a route.
func (w *walk) matters(r *caddyhttp.Route, depth int) bool {
	return slices.ContainsFunc(w.within(r, depth), func(h Handler) bool {
		_, others := w.kinds[h.Name]
		return others || h.Name == "rewrite" || h.Name == "intercept" || w.kind(h) == Answers
	})
}

// within returns all handlers in a route.
func (w *walk) within(r *caddyhttp.Route, depth int) (all []Handler) {
	if depth > deepest {
		return nil
	}
	for _, h := range w.Handlers(r) {
		all = append(all, h)
		inner := w.Nested(h)
		for i := range inner {
			all = append(all, w.within(&inner[i], depth+1)...)
		}
	}
	return all
}

func (w *walk) through(handlers []Handler, t trail, depth int, next func(trail)) {
	if len(handlers) == 0 {
		next(t)
		return
	}
	h := handlers[0]
	rest := func(t trail) { w.through(handlers[1:], t, depth, next) }
	behind := t
	behind.Behind = append(slices.Clone(t.Behind), h)
	switch kind := w.kind(h); {
	case h.Name == "subroute", h.Name == "invoke":
		w.routes(w.Nested(h), t, depth+1, rest)
	case h.Name == "rewrite":
		rest(rewritten(h, t))
	case kind != Answers:
		rest(behind)
	default:
		w.report(t, h)
		if w.wanted {
			rest(behind)
		}
	}
}

// kind returns what a handler does.
func (w *Walker) kind(h Handler) Kind {
	if kind, ok := w.kinds[h.Name]; ok {
		return kind
	}
	// forward_auth asks somebody with a GET, and then calls the next handler.
	if proxy, ok := h.Value.(*reverseproxy.Handler); ok && proxy.Rewrite != nil && len(proxy.HandleResponse) > 0 {
		return Passes
	}
	return kinds[h.Name]
}

// rewritten returns the trail behind a handler rewrite.
func rewritten(h Handler, t trail) trail {
	r, ok := h.Value.(*rewrite.Rewrite)
	if !ok || r.StripPathSuffix != "" || len(r.URISubstring)+len(r.PathRegexp) > 0 {
		t.Guessed = true
		return t
	}
	if r.Method != "" {
		t.Method = r.Method
	}
	if uri, _, _ := strings.Cut(r.URI, "?"); uri != "" {
		t.Path = strings.NewReplacer("{http.request.uri}", t.Path, "{http.request.uri.path}", t.Path).Replace(uri)
		if t.Guessed = strings.Contains(t.Path, "{"); !strings.HasPrefix(t.Path, "/") {
			t.Path = "/" + t.Path
		}
	}
	if strings.HasPrefix(strings.ToLower(t.Path), strings.ToLower(r.StripPathPrefix)) {
		t.Path = t.Path[len(r.StripPathPrefix):]
	}
	return t
}
