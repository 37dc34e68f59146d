package routes

import (
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	maphandler "github.com/caddyserver/caddy/v2/modules/caddyhttp/map"
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

// Handlers of Caddy's.
const (
	Proxy          = "reverse_proxy"
	Static         = "static_response"
	Authentication = "authentication" // basic_auth, and others that ask for a password or token
)

// kinds are those of Caddy's own handlers, for a request with a body to a path of DOKU's.
var kinds = map[string]Kind{
	"copy_response_headers": Passes, "encode": Passes, "headers": Passes, "intercept": Passes, "log_append": Passes, "map": Passes,
	"push": Passes, "request_body": Passes, "templates": Passes, "timeouts": Passes, "tracing": Passes, "vars": Passes,
	Authentication:  Passes,
	"copy_response": Answers, "error": Answers, "file_server": Answers, "metrics": Answers, Proxy: Answers, Static: Answers,
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
	facts   []fact
	groups  []string // that a route was taken of
	file    string   // that the route's matcher has found
	inError bool     // it follows the routes of an error
}

// mostSteps bounds a walk through many matchers that nobody knows.
const mostSteps = 50_000

// follow is which arrivals a walk reports.
type follow int

const (
	answerers follow = iota
	wanted
	failures
)

// Answerers returns where a request may end: one arrival for each way that the matchers
// allow which the configuration does not tell of. It reports false if there are too many
// ways.
func (w *Walker) Answerers(req Request) (all []Arrival, complete bool) {
	return w.walk(req, answerers)
}

// Wanted returns the handlers that would get a request if nothing took it before: it passes
// by those that answer, and a sibling takes nothing from it.
func (w *Walker) Wanted(req Request) (all []Arrival, complete bool) { return w.walk(req, wanted) }

// Failures returns where a request may end once a handler on its way has failed: in the
// error routes of the server and of its parts.
func (w *Walker) Failures(req Request) (all []Arrival, complete bool) { return w.walk(req, failures) }

func (w *Walker) walk(req Request, what follow) (all []Arrival, complete bool) {
	one := walk{Walker: w, what: what, report: func(t trail, h Handler) {
		if what == failures && !t.inError {
			return
		}
		t.Handler = h
		all = append(all, t.Arrival)
	}}
	start := trail{Request: req}
	one.routes(w.server.Routes, start, 0, func(t trail) { one.report(t, Handler{}) })
	if what == failures && w.server.Errors != nil {
		start.inError = true
		one.routes(w.server.Errors.Routes, start, 0, func(t trail) { one.report(t, Handler{}) })
	}
	return all, one.steps <= mostSteps
}

// walk is one of a Walker's.
type walk struct {
	*Walker
	what   follow
	report func(trail, Handler)
	steps  int
}

func (w *walk) routes(routes caddyhttp.RouteList, t trail, depth int, next func(trail)) {
	w.steps++
	if w.steps > mostSteps || depth > Deepest {
		return
	}
	if len(routes) == 0 {
		next(t)
		return
	}
	r := &routes[0]
	rest := func(t trail) { w.routes(routes[1:], t, depth, next) }
	if r.Group != "" && w.what == answerers && slices.Contains(t.groups, r.Group) || !w.matters(r, depth) {
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
	t.file = w.fileOf(r, t)
	if strings.HasPrefix(t.file, "=") { // try_files … =404
		w.report(t, Handler{Name: "error"})
		return
	}
	w.through(w.Handlers(r), t, depth, func(t trail) {
		if r.Terminal && (w.what == answerers || w.namesHost(r)) {
			w.report(t, Handler{})
			return
		}
		rest(t)
	})
}

// fileOf returns the file that a route's matcher finds for a request, or "" if there is no
// such matcher.
func (w *walk) fileOf(r *caddyhttp.Route, t trail) string {
	for _, set := range w.matchersOf(r) {
		for _, matcher := range set {
			if m, ok := matcher.(*fileserver.MatchFile); ok {
				if file, found := fallback(m); found {
					return file
				}
				return t.Request.Path
			}
		}
	}
	return ""
}

// matters reports whether it makes a difference whether a request comes through a route.
func (w *walk) matters(r *caddyhttp.Route, depth int) bool {
	return r.Group != "" || r.Terminal || slices.ContainsFunc(w.within(r, depth), func(h Handler) bool {
		_, others := w.kinds[h.Name]
		return others || h.Name == "rewrite" || h.Name == "intercept" || h.Name == Authentication || len(changes(h)) > 0 ||
			w.kind(h) == Answers
	})
}

// within returns all handlers in a route.
func (w *walk) within(r *caddyhttp.Route, depth int) (all []Handler) {
	if depth > Deepest {
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
	behind.facts = forget(t.facts, h)
	switch kind := w.kind(h); {
	case h.Name == "subroute", h.Name == "invoke":
		if sub, ok := h.Value.(*caddyhttp.Subroute); ok && sub.Errors != nil && w.what == failures {
			failed := t
			failed.inError = true
			w.routes(sub.Errors.Routes, failed, depth+1, func(t trail) { w.report(t, Handler{}) })
		}
		w.routes(w.Nested(h), t, depth+1, rest)
	case h.Name == "rewrite":
		rest(rewritten(h, t))
	case kind != Answers:
		w.responses(h, behind, depth)
		rest(behind)
	default:
		w.report(t, h)
		w.responses(h, behind, depth)
		if w.what != answerers {
			rest(behind)
		}
	}
}

// responses follows a request into what a proxy does with the answers that it gets.
func (w *walk) responses(h Handler, t trail, depth int) {
	proxy, ok := h.Value.(*reverseproxy.Handler)
	if !ok {
		return
	}
	for i := range proxy.HandleResponse {
		// At the end of these routes, the answer of the proxy, or nothing, is what is left.
		w.routes(proxy.HandleResponse[i].Routes, t, depth+1, func(trail) {})
	}
}

// kind returns what a handler does.
func (w *Walker) kind(h Handler) Kind {
	if kind, ok := w.kinds[h.Name]; ok {
		return kind
	}
	switch value := h.Value.(type) {
	case *reverseproxy.Handler:
		// forward_auth asks somebody with a GET, and then calls the next handler.
		if value.Rewrite != nil && value.Rewrite.Method == http.MethodGet && len(value.HandleResponse) > 0 {
			return Passes
		}
	case *fileserver.FileServer:
		if value.PassThru {
			return Passes
		}
	}
	return kinds[h.Name]
}

// changes returns the names of what a handler changes about a request that matchers may ask
// for, without its path.
func changes(h Handler) (names []string) {
	switch value := h.Value.(type) {
	case *headers.Handler:
		if ops := value.Request; ops != nil {
			names = slices.Concat(ops.Delete, slices.Collect(maps.Keys(ops.Add)), slices.Collect(maps.Keys(ops.Set)),
				slices.Collect(maps.Keys(ops.Replace)))
		}
	case *caddyhttp.VarsMiddleware:
		names = slices.Collect(maps.Keys(*value))
	case caddyhttp.VarsMiddleware:
		names = slices.Collect(maps.Keys(value))
	case *maphandler.Handler:
		names = value.Destinations
	}
	return names
}

// forget returns the facts without those about matchers that ask for what a handler
// changes.
func forget(facts []fact, h Handler) []fact {
	names := changes(h)
	if len(names) == 0 {
		return facts
	}
	return slices.DeleteFunc(slices.Clone(facts), func(f fact) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			return strings.Contains(strings.ToLower(f.matcher), strings.ToLower(strings.Trim(name, "{}*")))
		})
	})
}

// rewritten returns the trail behind a handler rewrite.
func rewritten(h Handler, t trail) trail {
	r, ok := h.Value.(*rewrite.Rewrite)
	if !ok {
		t.Guessed = true
		return t
	}
	if r.Method != "" {
		t.Method = r.Method
	}
	of := t.Request.Path
	if uri, _, _ := strings.Cut(r.URI, "?"); uri != "" {
		of = strings.NewReplacer("{http.request.uri}", of, "{http.request.uri.path}", of, "{http.matchers.file.relative}", t.file).Replace(uri)
		t.Guessed = strings.Contains(of, "{")
	}
	if !strings.HasPrefix(of, "/") {
		of = "/" + of
	}
	if strings.HasPrefix(strings.ToLower(of), strings.ToLower(r.StripPathPrefix)) {
		of = of[len(r.StripPathPrefix):]
	}
	of = strings.TrimSuffix(of, r.StripPathSuffix)
	for _, part := range r.URISubstring {
		if t.Guessed = t.Guessed || strings.Contains(part.Find+part.Replace, "{"); part.Find != "" {
			of = strings.ReplaceAll(of, part.Find, part.Replace)
		}
	}
	for _, part := range r.PathRegexp {
		expression, err := regexp.Compile(part.Find)
		if t.Guessed = t.Guessed || err != nil || strings.Contains(part.Replace, "{"); err == nil {
			of = expression.ReplaceAllString(of, part.Replace)
		}
	}
	t.Request.Path = of
	return t
}
