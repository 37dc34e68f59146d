package routes_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/routes"
)

func TestPathPatternsMatchAsCaddyMatchesThem(t *testing.T) {
	patterns := []string{
		"*", "/*", "/pay", "/Pay/*", "*/payment", "*trans*", "/a*b", "/pay?", "/[ab]/x", "/*/x", "/pay*",
		"/v1.1/*/payment", "/pay/*/x*",
	}
	paths := []string{
		"/", "/pay", "/PAY", "/pay/", "/pay/x", "/payx", "/a/x", "/aXb", "/v1.1/transfer-va/payment", "/pay/1/xyz", "/x/transfer",
	}
	for _, pattern := range patterns {
		matcher := caddyhttp.MatchPath{pattern}
		if err := matcher.Provision(caddy.Context{}); err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			r := caddyhttp.PrepareRequest(httptest.NewRequest(http.MethodPost, path, http.NoBody), caddy.NewReplacer(), nil, nil)
			want, err := matcher.MatchWithError(r)
			if err != nil {
				t.Fatal(err)
			}
			if got := routes.MatchPath(pattern, path); got != want {
				t.Errorf("%s, %s: got %v, Caddy has %v", pattern, path, got, want)
			}
		}
	}
}

func TestASampleMatchesItsPattern(t *testing.T) {
	for _, pattern := range []string{"*", "/*", "/pay", "/pay/*", "*/payment", "*trans*", "/a*b", "/pay?", "/v1.1/*/payment"} {
		if sample := routes.Sample(pattern); !routes.MatchPath(pattern, sample) {
			t.Errorf("%s does not match %s", pattern, sample)
		}
	}
}

// route returns a route with a matcher in JSON, or "", and handlers by name.
func route(match, group string, handlers ...string) caddyhttp.Route {
	r := caddyhttp.Route{Group: group}
	if name, settings, found := strings.Cut(match, " "); found {
		r.MatcherSetsRaw = caddyhttp.RawMatcherSets{caddy.ModuleMap{name: []byte(settings)}}
	}
	for _, name := range handlers {
		r.HandlersRaw = append(r.HandlersRaw, caddyconfig.JSONModuleObject(struct{}{}, "handler", name, nil))
	}
	return r
}

func TestARequestEndsWhereCaddyLeadsIt(t *testing.T) {
	const header, payments = `header {"X-A":["b"]}`, `path ["/pay*"]`
	for name, test := range map[string]struct {
		routes caddyhttp.RouteList
		ends   string // of the ways that are possible
		wanted string
	}{
		"no route":            {nil, "end", "end"},
		"the first answer":    {caddyhttp.RouteList{route("", "", "encode", "static_response"), route("", "", "reverse_proxy")}, "static_response", "static_response reverse_proxy end"},
		"another path":        {caddyhttp.RouteList{route(`path ["/x"]`, "", "static_response"), route("", "", "reverse_proxy")}, "reverse_proxy", "reverse_proxy end"},
		"a sibling":           {caddyhttp.RouteList{route(payments, "g", "static_response"), route("", "g", "reverse_proxy")}, "static_response", "static_response reverse_proxy end"},
		"an unknown matcher":  {caddyhttp.RouteList{route(header, "", "static_response"), route("", "", "reverse_proxy")}, "static_response reverse_proxy", "static_response reverse_proxy end reverse_proxy end"},
		"the same one twice":  {caddyhttp.RouteList{route(header, "", "rewrite"), route(header, "", "static_response"), route("", "", "reverse_proxy")}, "static_response reverse_proxy", "static_response reverse_proxy end reverse_proxy end"},
		"its contrary":        {caddyhttp.RouteList{route(`not [{"header":{"X-A":["b"]}}]`, "", "static_response"), route(header, "", "reverse_proxy")}, "reverse_proxy static_response", "reverse_proxy end static_response end"},
		"another method":      {caddyhttp.RouteList{route(`method ["GET"]`, "", "static_response")}, "end", "end"},
		"what changes little": {caddyhttp.RouteList{route(header, "", "headers"), route("", "", "reverse_proxy")}, "reverse_proxy", "reverse_proxy end"},
	} {
		t.Run(name, func(t *testing.T) {
			walker := routes.New(&caddyhttp.Server{Routes: test.routes}, nil)
			named := func(arrivals []routes.Arrival, complete bool) string {
				if !complete {
					t.Error("the walk was not complete")
				}
				var names []string
				for _, a := range arrivals {
					if a.Name == "" {
						a.Name = "end"
					}
					names = append(names, a.Name)
				}
				return strings.Join(names, " ")
			}
			call := routes.Request{Host: "a.example", Method: "POST", Path: "/payments"}
			if got := named(walker.Answerers(call)); got != test.ends {
				t.Errorf("it ends at %s, expected %s", got, test.ends)
			}
			if got := named(walker.Wanted(call)); got != test.wanted {
				t.Errorf("wanted by %s, expected %s", got, test.wanted)
			}
		})
	}
}

func TestTooManyWaysAreNotWalkedForEver(t *testing.T) {
	var list caddyhttp.RouteList
	for letter := range strings.SplitSeq("abcdefghijklmnopqrstuvwxyz", "") {
		list = append(list, route(`header {"X-`+letter+`":["b"]}`, "", "rewrite"))
	}
	walker := routes.New(&caddyhttp.Server{Routes: slices.Concat(list, list)}, nil)
	if _, complete := walker.Answerers(routes.Request{Method: "POST", Path: "/"}); complete {
		t.Error("the walk says that it is complete")
	}
}
