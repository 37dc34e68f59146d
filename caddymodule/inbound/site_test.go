package inbound

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy/fastcgi"
)

// siteRoutes returns routes as the Caddyfile's adapter makes them.
func siteRoutes(hosts []string, handlers ...caddyhttp.MiddlewareHandler) caddyhttp.RouteList {
	route := caddyhttp.Route{Handlers: []caddyhttp.MiddlewareHandler{&caddyhttp.Subroute{Routes: caddyhttp.RouteList{{Handlers: handlers}}}}}
	if hosts != nil {
		match := caddyhttp.MatchHost(hosts)
		route.MatcherSets = caddyhttp.MatcherSets{{&match}}
	}
	return caddyhttp.RouteList{
		{Handlers: []caddyhttp.MiddlewareHandler{new(Verify)}, MatcherSets: caddyhttp.MatcherSets{{caddyhttp.MatchHost{"another.example"}}}},
		route,
	}
}

func TestTheNameForTheAppIsTheSites(t *testing.T) {
	t.Parallel()
	tcp := &reverseproxy.Handler{Transport: new(reverseproxy.HTTPTransport), Upstreams: reverseproxy.UpstreamPool{{Dial: "127.0.0.1:3000"}}}
	socket := &reverseproxy.Handler{
		Transport: new(reverseproxy.HTTPTransport), Upstreams: reverseproxy.UpstreamPool{{Dial: "unix//run/app.sock"}},
	}
	php := &reverseproxy.Handler{Transport: new(fastcgi.Transport), Upstreams: reverseproxy.UpstreamPool{{Dial: "127.0.0.1:9000"}}}
	for _, test := range []struct {
		name  string
		hosts []string
		proxy *reverseproxy.Handler
		want  string
	}{
		{"a name", []string{"pay.example"}, tcp, "pay.example"},
		{"the first whole name", []string{"*.example", "{env.HOST}", "pay.example", "shop.example"}, tcp, "pay.example"},
		{"an address", []string{"10.0.0.7"}, tcp, "10.0.0.7"},
		{"an address with colons", []string{"::1"}, tcp, "[::1]"},
		{"no name", nil, tcp, ""},
		{"no name, and an app without an address", nil, socket, "localhost"},
		{"no name, and PHP", nil, php, "localhost"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			v := new(Verify)
			server := &caddyhttp.Server{Routes: siteRoutes(test.hosts, v, test.proxy)}
			found := findSite(server, v)
			if found.name != test.want || len(found.verifies) != 1 || found.verifies[0] != v {
				t.Errorf("found %+v, expected %q", found, test.want)
			}
		})
	}
	if found := findSite(&caddyhttp.Server{}, new(Verify)); found.name != "" || found.verifies != nil {
		t.Errorf("found %+v in a server without routes", found)
	}
}

func TestKeptCallsAreSentAsTheConfigurationSays(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, appHost, kept, want string
		hosts                     []string
	}{
		{"the Host of a stranger, kept by the version before", "", "evil.example", "", nil},
		{"the Host of a stranger, where the site has a name", "", "evil.example", "pay.example", []string{"pay.example"}},
		{"another Host than the option's", "app.example", "evil.example", "app.example", nil},
		{"the option's", "app.example", "app.example", "app.example", nil},
		{"what a placeholder gave", "{http.request.host}", "shop.example", "shop.example", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			v := &Verify{AppHost: test.appHost, PassHeaders: []string{"X-Brand", "Cookie"}}
			r := &http.Request{Host: test.kept, Header: http.Header{
				"X-Brand": {"kopi"}, "Cookie": {"a=b"}, "X-Http-Method-Override": {"DELETE"}, "Content-Type": {"text/plain"},
				"Idempotency-Key": {"key"}, "X-Doku-Account": {"default"}, "User-Agent": {"curl"}, "X-Doku-Foo": {"x"},
			}}
			KeptAt(&caddyhttp.Server{Routes: siteRoutes(test.hosts, v)}, v).Prepare(r)
			if r.Host != test.want {
				t.Errorf("Host %q, expected %q", r.Host, test.want)
			}
			for name, want := range map[string]string{
				"X-Brand": "kopi", "Cookie": "", "X-Http-Method-Override": "", "Content-Type": "application/json", "Idempotency-Key": "key",
				"X-Doku-Account": "default", "User-Agent": "caddy-doku", "Accept": "application/json", "X-Doku-Foo": "",
			} {
				if got := r.Header.Get(name); got != want {
					t.Errorf("%s: %q, expected %q", name, got, want)
				}
			}
		})
	}
}

func TestOptionsAboutHeadersAreChecked(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		host   string
		passed string
		want   string // part of the error
	}{
		{"shop.example", "X-Brand Cookie Authorization-Customer X-Real-IP Forwarded", ""},
		{"{http.request.host}", "", ""},
		{"[::1]:3000", "", ""},
		{"https://shop.example", "", "app_host"},
		{"shop.example/pay", "", "app_host"},
		{"two names", "", "app_host"},
		{"", "Host", "app_host"},
		{"", "*", "name those"},
		{"", "X_Brand", "letters, digits"},
		{"", "X-Bränd", "letters, digits"},
		{"", "x-doku-account", "handle itself"},
		{"", "Idempotency-Key", "handle itself"},
		{"", "connection", "handle itself"},
		{"", "content-encoding", "handle itself"},
		{"", "Authorization", "handle itself"},
		{"", "traceparent", "handle itself"},
	} {
		v := &Verify{AppHost: test.host, PassHeaders: strings.Fields(test.passed)}
		if err := v.checkForwarding(); (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("app_host %q, pass_headers %s: %v", test.host, test.passed, err)
		}
	}
}

func TestOnlyTrueContentTypesReachTheApp(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"application/json":                  "application/json",
		"application/json; charset=utf-8":   "application/json; charset=utf-8",
		`application/json;charset="UTF-8"`:  `application/json;charset="UTF-8"`,
		"Application/JSON":                  "Application/JSON",
		"application/json; charset=utf-16":  "application/json",
		"application/json; boundary=x":      "application/json",
		"text/plain":                        "application/json",
		"application/x-www-form-urlencoded": "application/json",
		"application/ json":                 "application/json", // as DOKU's sample prints it
		"":                                  "application/json",
	} {
		h := http.Header{"Content-Type": {value}}
		allow(nil).filter(h)
		if got := h.Get("Content-Type"); got != want {
			t.Errorf("%q became %q", value, got)
		}
	}
	h := http.Header{"Content-Type": {"application/json", "text/html"}}
	if allow(nil).filter(h); len(h["Content-Type"]) != 1 {
		t.Errorf("the app gets %q", h["Content-Type"])
	}
}
