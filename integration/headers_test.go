package integration

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// delivery is a request as the app gets it.
type delivery struct {
	method, host, target, body string
	header, trailer            http.Header
}

// witness is an app that remembers requests whole. Those before open are answered 503.
type witness struct {
	mu      sync.Mutex
	all     []delivery
	closed  bool
	address string
}

func newWitness(t *testing.T) *witness {
	t.Helper()
	w := new(witness)
	server := httptest.NewServer(w)
	t.Cleanup(server.Close)
	w.address = server.Listener.Addr().String()
	return w
}

func (a *witness) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<22))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, delivery{r.Method, r.Host, r.RequestURI, string(body), r.Header.Clone(), r.Trailer.Clone()})
	w.Header().Set("Content-Type", "application/json")
	if a.closed {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	service := "25"
	if strings.HasSuffix(r.URL.Path, "/inquiry") {
		service = "24"
	}
	_, _ = io.WriteString(w, `{"responseCode":"200`+service+`00","responseMessage":"Successful"}`)
}

// setClosed makes the app answer 503, or no longer.
func (a *witness) setClosed(closed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = closed
}

// of returns the requests whose body contains text.
func (a *witness) of(text string) []delivery {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(a.all), func(d delivery) bool { return !strings.Contains(d.body, text) })
}

// forget forgets all requests so far.
func (a *witness) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = nil
}

// nameless returns the Caddyfile with the inbound site at a port, without a name.
func (env *testEnv) nameless(config string) string {
	return strings.Replace(config, "\n"+env.inward+" {\n", "\n:"+env.inward[strings.LastIndex(env.inward, ":")+1:]+" {\n\tbind 127.0.0.1\n", 1)
}

// allowedHeaders are all that the app may get. Via and Accept-Encoding are of Caddy's proxy.
var allowedHeaders = []string{
	"Accept", "Accept-Encoding", "Channel-Id", "Content-Length", "Content-Type", "Doku-Delivery-Attempt", "Idempotency-Key", "Traceparent",
	"User-Agent", "Via", "X-Doku-Account", "X-Doku-Service", "X-Doku-Verified", "X-External-Id", "X-Forwarded-For", "X-Forwarded-Host",
	"X-Forwarded-Proto", "X-Partner-Id", "X-Timestamp",
}

// clean checks that a request has nothing that DOKU has not signed, and that the sidecar
// or Caddy have not set.
func (d delivery) clean(t *testing.T, host string) {
	t.Helper()
	for name := range d.header {
		if !slices.Contains(allowedHeaders, name) {
			t.Errorf("the app saw %s: %q", name, d.header[name])
		}
	}
	for name, want := range map[string]string{
		"Accept": "application/json", "User-Agent": "caddy-doku", "Content-Type": "application/json", "Via": "1.1 Caddy",
		"Content-Length": fmt.Sprint(len(d.body)), "X-Doku-Account": "default", "X-Doku-Verified": "true", "X-Forwarded-For": "127.0.0.1",
		"X-Forwarded-Proto": "http",
	} {
		if got := d.header.Values(name); len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, expected %q once", name, got, want)
		}
	}
	if forwarded := d.header.Get("X-Forwarded-Host"); forwarded != "" && forwarded != host {
		t.Errorf("X-Forwarded-Host is %q", forwarded)
	}
	if d.host != host || d.method != http.MethodPost || d.target != paymentPath || len(d.trailer) > 0 {
		t.Errorf("the app saw %s %s for %s with trailers %v, expected the host %s", d.method, d.target, d.host, d.trailer, host)
	}
	if channel := d.header.Get("Channel-Id"); strings.Contains(channel, "31m") {
		t.Errorf("CHANNEL-ID is %q", channel)
	}
	if key := d.header.Get("Idempotency-Key"); key == "" || key == "spoof" || d.header.Get("X-Doku-Service") != "25" {
		t.Errorf("the headers of the sidecar are %v", d.header)
	}
}

// unsignedHeaders are headers that a stranger, or a proxy on the way, can add to a
// genuine call.
var unsignedHeaders = [][2]string{
	{"X-HTTP-Method-Override", "DELETE"},
	{"X-HTTP-Method", "PUT"},
	{"X-Method-Override", "PUT"},
	{"X-Original-URL", "/admin"},
	{"X-Rewrite-URL", "/admin"},
	{"X-Original-URI", "/admin"},
	{"X-Accel-Redirect", "/admin"},
	{"X-Sendfile", "/etc/passwd"},
	{"Content-Encoding", "gzip"},
	{"Content-Language", "id"},
	{"Content-Location", "/admin"},
	{"Content-Disposition", "form-data"},
	{"Content-MD5", "AAAA"},
	{"Content-Type", "application/x-www-form-urlencoded"},
	{"Content-Type", "application/json; charset=utf-16"},
	{"Content-Type", "text/json"},
	{"X-Doku-Foo", "x"},
	{"X-Doku-Account", "spoof"},
	{"X-Doku-Verified", "false"},
	{"X-Doku-Replayed", "true"},
	{"Doku-Delivery-Attempt", "7"},
	{"Doku-Foo", "7"},
	{"Idempotency-Key", "spoof"},
	{"X_Doku_Account", "spoof"},
	{"X.Doku.Account", "spoof"},
	{"X_Forwarded_For", "198.51.100.7"},
	{"Idempotency_Key", "spoof"},
	{"Forwarded", "for=198.51.100.7;host=shop.example"},
	{"X-Real-IP", "198.51.100.7"},
	{"X-Client-IP", "198.51.100.7"},
	{"True-Client-IP", "198.51.100.7"},
	{"CF-Connecting-IP", "198.51.100.7"},
	{"X-Forwarded-For", "198.51.100.7"},
	{"X-Forwarded-Proto", "https"},
	{"X-Forwarded-Host", "shop.example"},
	{"X-Forwarded-Port", "1"},
	{"X-Forwarded-Server", "shop.example"},
	{"X-Forwarded-Ssl", "on"},
	{"X-Forwarded-Prefix", "/other"},
	{"X-Forwarded-Path", "/other"},
	{"X-Host", "shop.example"},
	{"Via", "1.0 fred"},
	{"Cookie", "session=abc"},
	{"Authorization-Customer", customer},
	{"Proxy-Authorization", "Basic eDp5"},
	{"Proxy", "http://198.51.100.7"},
	{"Host", "shop.example"},
	{"Accept", "text/html"},
	{"Accept-Language", "id"},
	{"Accept-Encoding", "br"},
	{"User-Agent", "curl"},
	{"Range", "bytes=0-1"},
	{"If-None-Match", "*"},
	{"If-Modified-Since", "Sat, 28 Nov 2026 00:00:00 GMT"},
	{"If-Match", "*"},
	{"Expect", "100-continue"},
	{"Upgrade", "h2c"},
	{"Te", "trailers"},
	{"Connection", "X-Doku-Account, Idempotency-Key, Content-Type, Content-Length, Accept"},
	{"Origin", "https://shop.example"},
	{"Referer", "https://shop.example/"},
	{"X-Requested-With", "XMLHttpRequest"},
	{"X-CSRF-Token", "x"},
	{"Early-Data", "1"},
	{"Incremental", "?1"},
	{"Priority", "u=0"},
	{"Baggage", "user=1"},
	{"Tracestate", "a=1"},
	{"B3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1"},
	{"CHANNEL-ID", "\u009b31m"},
}

// add sets a header on a genuine call.
func add(r *http.Request, header [2]string) {
	if header[0] == "Host" {
		r.Host = header[1]
		return
	}
	name := header[0]
	if !strings.ContainsAny(name, "_.") {
		name = http.CanonicalHeaderKey(name)
	}
	r.Header[name] = []string{header[1]}
}

func TestTheAppSeesNoHeaderThatIsNotSigned(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, inbox string }{
		{"a proxy", ""},
		{"an inbox", "{\n policy after_app\n}"},
		{"an inbox that answers first", "{\n policy durable\n}"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			env, app := newEnv(t), newWitness(t)
			env.run(t, env.nameless(env.caddyfile(options{app: app.address, inbox: test.inbox})))
			for i, header := range unsignedHeaders {
				id := fmt.Sprintf("P-%d.", i)
				out := simulator.Outgoing{Body: payment(id), ExternalID: fmt.Sprint(i), Mutate: func(r *http.Request) { add(r, header) }}
				env.notify(t, out).expect(t, http.StatusOK, "2002500")
				out.Mutate = nil
				env.notify(t, out).expect(t, http.StatusOK, "2002500") // DOKU's own
				doktest.Eventually(t, "the app to have "+id, func() bool { return len(app.of(id)) > 0 })
				got := app.of(id)
				if len(got) != 1 {
					t.Errorf("%v: the app was called %d times", header, len(got))
				}
				got[0].clean(t, app.address)
				if t.Failed() {
					t.Fatalf("with %v", header)
				}
			}
		})
	}
}

func TestEachDeliveryLooksAlike(t *testing.T) {
	t.Parallel()
	env, app, folder := newEnv(t), newWitness(t), t.TempDir()
	env.run(t, env.nameless(env.caddyfile(options{
		app: app.address, inbox: "{\n answer_within 100ms\n folder " + folder + "\n}",
		verify: "pass_headers X-Brand Cookie Authorization-Customer X-Real-IP",
	})))
	app.setClosed(true)
	env.notify(t, simulator.Outgoing{Body: payment("P-1"), Mutate: func(r *http.Request) {
		for _, header := range unsignedHeaders {
			if header[0] != "Connection" && header[0] != "Upgrade" {
				add(r, header)
			}
		}
		r.Header.Set("X-Brand", "kopi")
		r.Header.Set("X-Real-IP", "10.0.0.1")
	}}).expect(t, http.StatusInternalServerError, "5002502")
	checkFolder(t, folder, "P-1", "session=abc", customer)
	doktest.Eventually(t, "another attempt", func() bool { return len(app.of("P-1")) > 2 })
	app.setClosed(false)
	all := app.of("P-1")
	for i, d := range all {
		if d.header.Get("X-Brand") != "kopi" || d.header.Get("X-Real-IP") != "10.0.0.1" {
			t.Errorf("pass_headers: the app saw %v", d.header)
		}
		for _, name := range []string{"X-Brand", "X-Real-IP", "Traceparent", "Doku-Delivery-Attempt"} {
			d.header.Del(name)
		}
		d.header.Set("Doku-Delivery-Attempt", "1")
		d.clean(t, app.address)
		if !maps.EqualFunc(d.header, all[0].header, slices.Equal) {
			t.Errorf("attempt %d has %v, the first %v", i+1, d.header, all[0].header)
		}
	}
}

// checkFolder checks that the files of an inbox have one text and not the others.
func checkFolder(t *testing.T, folder, kept string, unkept ...string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, name := range files {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, content...)
	}
	if !bytes.Contains(all, []byte(kept)) {
		t.Errorf("the inbox does not keep %s", kept)
	}
	for _, text := range unkept {
		if bytes.Contains(all, []byte(text)) {
			t.Errorf("the inbox keeps %s", text)
		}
	}
}

func TestInquiriesHavePassedHeaders(t *testing.T) {
	t.Parallel()
	env, app := newEnv(t), newWitness(t)
	env.run(t, env.nameless(env.caddyfile(options{
		app: app.address, inbox: "{\n policy after_app\n}", verify: "pass_headers Authorization-Customer",
	})))
	env.notify(t, simulator.Outgoing{URL: env.inward + inquiryPath, Body: []byte(`{"inquiryRequestId":"I-1"}`), Mutate: func(r *http.Request) {
		r.Header.Set("Authorization-Customer", customer)
		r.Header.Set("X-HTTP-Method-Override", "DELETE")
	}}).expect(t, http.StatusOK, "2002400")
	got := app.of("I-1")
	if len(got) != 1 || got[0].header.Get("Authorization-Customer") != customer || got[0].header.Get("X-Http-Method-Override") != "" {
		t.Errorf("the app saw %v", got)
	}
}

func TestHostIsWhatTheConfigurationSays(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, site, verify, inbox string
		sent, want                string // "" is the app's address
	}{
		{"the app's address", "", "", "", "shop.example", ""},
		{"the site's name", "http://pay.example:PORT", "", "", "pay.example:PORT", "pay.example"},
		{
			"the site's first name", "http://*.example:PORT, http://pay.example:PORT, http://shop.example:PORT", "", "", "shop.example",
			"pay.example",
		},
		{"only names that are whole", "http://*.example:PORT", "", "", "shop.example", ""},
		{"the option", "http://pay.example:PORT", "app_host app.example:81", "", "pay.example", "app.example:81"},
		{"DOKU's, if the option says so", "", "app_host {http.request.host}", "", "shop.example", "shop.example"},
		{"behind an inbox", "", "", "{\n policy durable\n}", "shop.example", ""},
		{"behind an inbox, the site's name", "http://pay.example:PORT", "", "{\n policy after_app\n}", "pay.example:PORT", "pay.example"},
		{"behind an inbox, the option", "", "app_host app.example", "{\n policy durable\n}", "shop.example", "app.example"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			env, app := newEnv(t), newWitness(t)
			port := env.inward[strings.LastIndex(env.inward, ":")+1:]
			config := env.nameless(env.caddyfile(options{app: app.address, inbox: test.inbox, verify: test.verify}))
			if test.site != "" {
				config = strings.Replace(config, "\n:"+port+" {", "\n"+strings.ReplaceAll(test.site, "PORT", port)+" {", 1)
			}
			env.run(t, config)
			setHost := func(r *http.Request) { r.Host = strings.ReplaceAll(test.sent, "PORT", port) }
			granted, err := env.doku.RequestToken(t.Context(), setHost)
			if err != nil || granted.Status != http.StatusOK {
				t.Fatalf("HTTP %d %s, %v", granted.Status, granted.Body, err)
			}
			token := accessToken.FindSubmatch(granted.Body)[1]
			env.notify(t, simulator.Outgoing{Bearer: string(token), Mutate: setHost}).expect(t, http.StatusOK, "2002500")
			doktest.Eventually(t, "the app to have it", func() bool { return len(app.of("P-1")) > 0 })
			want := test.want
			if want == "" {
				want = app.address
			}
			app.of("P-1")[0].clean(t, want)
		})
	}
}

func TestATrustedProxyIsBelieved(t *testing.T) {
	t.Parallel()
	for _, inbox := range []string{"", "{\n policy durable\n}"} {
		env, app := newEnv(t), newWitness(t)
		config := env.nameless(env.caddyfile(options{app: app.address, inbox: inbox}))
		env.run(t, strings.Replace(config, "\tmetrics\n", "\tmetrics\n\tservers {\n\t\ttrusted_proxies static 127.0.0.0/8\n\t}\n", 1))
		env.notify(t, simulator.Outgoing{Mutate: func(r *http.Request) {
			r.Header.Set("X-Forwarded-For", "203.0.113.9")
			r.Header.Set("X-Forwarded-Proto", "https")
			r.Header.Set("X-Forwarded-Host", "pay.example")
			r.Header.Set("X-Forwarded-Port", "1")
		}}).expect(t, http.StatusOK, "2002500")
		doktest.Eventually(t, "the app to have it", func() bool { return len(app.of("P-1")) > 0 })
		h := app.of("P-1")[0].header
		if h.Get("X-Forwarded-For") != "203.0.113.9, 127.0.0.1" || h.Get("X-Forwarded-Proto") != "https" ||
			h.Get("X-Forwarded-Host") != "pay.example" || h.Get("X-Forwarded-Port") != "" {
			t.Errorf("the app saw %v", h)
		}
	}
}

func TestAShadowPassesHeadersButNotTheSidecars(t *testing.T) {
	t.Parallel()
	env, app := newEnv(t), newWitness(t)
	env.run(t, env.nameless(env.caddyfile(options{app: app.address, verify: "enforce report"})))
	env.notify(t, simulator.Outgoing{Mutate: func(r *http.Request) {
		for _, header := range [][2]string{
			{"X-Doku-Foo", "x"},
			{"X_Doku_Account", "spoof"},
			{"X.Doku.Account", "spoof"},
			{"Doku-Foo", "x"},
			{"Idempotency_Key", "spoof"},
			{"X-Brand", "kopi"},
			{"Content-Encoding", "br"},
		} {
			add(r, header)
		}
	}}).expect(t, http.StatusOK, "2002500")
	got := app.of("P-1")
	if len(got) != 1 {
		t.Fatalf("the app was called %d times", len(got))
	}
	h := got[0].header
	if h.Get("X-Brand") != "kopi" || h.Get("Content-Encoding") != "br" || h.Get("X-Signature") == "" || h.Get("X-Doku-Account") != "default" {
		t.Errorf("the app saw %v", h)
	}
	for name := range h {
		if strings.Contains(name, "Foo") || strings.ContainsAny(name, "_.") {
			t.Errorf("the app saw %s", name)
		}
	}
}
