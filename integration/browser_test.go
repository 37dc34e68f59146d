package integration

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/simulator"
)

// startForAnyHost starts a sidecar whose site for the app has no name, as the one of
// Caddyfile.example: it answers requests with any Host.
func startForAnyHost(t *testing.T, sign string) *testEnv {
	t.Helper()
	env := newEnv(t)
	_, port, _ := strings.Cut(strings.TrimPrefix(env.outward, "http://"), ":")
	env.run(t, strings.Replace(env.caddyfile(options{sign: sign}), "\n"+env.outward+" {\n",
		"\nhttp://:"+port+" {\n\tbind 127.0.0.1\n", 1))
	return env
}

// raw sends a request as it stands, with Content-Length and Connection added, and returns
// the answer.
func (env *testEnv) raw(t *testing.T, requestLine string, header []string, body string) answer {
	t.Helper()
	address := strings.TrimPrefix(env.outward, "http://")
	conn := connect(t, env.outward)
	defer conn.Close()
	if !slices.ContainsFunc(header, func(line string) bool { return strings.HasPrefix(strings.ToLower(line), "host:") }) {
		header = append([]string{"Host: " + address}, header...)
	}
	if body != "" {
		header = append(header, fmt.Sprint("Content-Length: ", len(body)))
	}
	header = append(header, "Connection: close")
	if _, err := io.WriteString(conn, requestLine+" HTTP/1.1\r\n"+strings.Join(header, "\r\n")+"\r\n\r\n"+body); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(requestLine, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil && method != http.MethodConnect {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}

// sent returns how many calls DOKU has received, tokens aside.
func (env *testEnv) sent() (n int) {
	for _, e := range env.doku.Exchanges() {
		if e.Target != tokenPath {
			n++
		}
	}
	return n
}

const anyBill = `{"trxId":"WEB","totalAmount":{"value":"1.00","currency":"IDR"}}`

func TestOnlyTheAppDrivesTheAppsPort(t *testing.T) {
	t.Parallel()
	env := startForAnyHost(t, "")
	page := []string{
		"Origin: https://shop.example", "Referer: https://shop.example/", "User-Agent: Mozilla/5.0",
		"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: empty",
	}
	tests := []struct {
		name    string
		request string // default: POST to create-va
		header  []string
		body    string
		reason  string // of the refusal; empty: it is sent
	}{
		{name: "a plain app", header: []string{"Content-Type: application/json"}},
		{name: "curl -d", header: []string{"User-Agent: curl/8.5.0", "Content-Type: application/x-www-form-urlencoded"}},
		{name: "Node's fetch", header: []string{"sec-fetch-mode: cors", "accept-language: *", "user-agent: node"}},
		{name: "axios with its fetch adapter", header: []string{
			"sec-fetch-mode: cors", "accept: application/json, text/plain, */*", "accept-encoding: br, gzip, deflate",
		}},
		{name: "axios with its http adapter", header: []string{
			"User-Agent: axios/1.7.9", "accept: application/json, text/plain, */*", "Accept-Encoding: gzip, compress, deflate, br",
		}},
		{name: "PHP's Guzzle", header: []string{"User-Agent: GuzzleHttp/7", "Accept-Encoding:"}},
		{
			name:   "Java's HttpClient",
			header: []string{"User-Agent: Java-http-client/21.0.1", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"},
		},
		{name: "SNAP's own header ORIGIN, a bare domain", header: []string{"ORIGIN: www.shop.example"}},
		{name: "ORIGIN with a port", header: []string{"Origin: shop.example:8443"}},
		{name: "a browser's User-Agent alone", header: []string{"User-Agent: Mozilla/5.0 (X11; Linux x86_64)"}},
		{name: "a session of the app", header: []string{"Cookie: session=1", "X-Requested-With: XMLHttpRequest", "Accept-Language: id"}},

		{name: "fetch without a preflight", header: append(slices.Clone(page), "Content-Type: text/plain;charset=UTF-8"), reason: "browser"},
		{name: "an older browser, with Origin only", header: []string{"Origin: https://shop.example"}, reason: "browser"},
		{name: "an app of a phone", header: []string{"Origin: capacitor://localhost"}, reason: "browser"},
		{name: "a file", header: []string{"Origin: file://"}, reason: "browser"},
		{name: "an extension", header: []string{"Origin: chrome-extension://abcdef"}, reason: "browser"},
		{name: "a sandboxed frame", header: []string{"Origin: null"}, reason: "browser"},
		{name: "a bare domain and an Origin", header: []string{"Origin: shop.example", "Origin: https://shop.example"}, reason: "browser"},
		{name: "a form", header: []string{
			"Origin: https://shop.example", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document", "Content-Type: text/plain",
		}, body: `{"trxId":"F","x":"=y"}`, reason: "browser"},
		{name: "a page on another port", header: []string{"Origin: http://localhost:3000", "Sec-Fetch-Site: same-site"}, reason: "browser"},
		{name: "Sec-Fetch-Site alone, of any value", header: []string{"sec-fetch-site: x"}, reason: "browser"},
		{name: "Sec-Fetch-Site without a value", header: []string{"Sec-Fetch-Site:"}, reason: "browser"},
		{name: "Sec-Fetch-Dest alone", header: []string{"SEC-FETCH-DEST: empty"}, reason: "browser"},
		{name: "an image", request: "GET " + statusPath, header: []string{"Sec-Fetch-Dest: image"}, reason: "browser"},
		{name: "an address typed in", request: "GET " + statusPath, header: []string{
			"Sec-Fetch-Site: none", "Sec-Fetch-User: ?1", "Upgrade-Insecure-Requests: 1",
		}, reason: "browser"},
		{name: "a browser that sends no Sec-Fetch-Site to plain HTTP", request: "GET " + statusPath, header: []string{
			"Upgrade-Insecure-Requests: 1", "User-Agent: Mozilla/5.0",
		}, reason: "browser"},
		{name: "client hints", header: []string{`Sec-CH-UA: "Chromium";v="130"`}, reason: "browser"},
		{name: "a preflight", request: "OPTIONS " + deletePath, header: append(slices.Clone(page), "Access-Control-Request-Method: DELETE",
			"Access-Control-Request-Private-Network: true"), reason: "browser"},
		{name: "a websocket", request: "GET " + createPath, header: []string{
			"Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
		}, reason: "browser"},

		{name: "OPTIONS", request: "OPTIONS " + deletePath, reason: "method"},
		{name: "TRACE", request: "TRACE " + createPath, reason: "method"},
		{name: "HEAD", request: "HEAD " + statusPath, reason: "method"},
		{name: "a tunnel", request: "CONNECT api-sandbox.doku.com:443", header: []string{"Host: api-sandbox.doku.com:443"}, reason: "method"},
		{name: "CONNECT with a path", request: "CONNECT /some/path", reason: "method"},
		{name: "a method in lower case", request: "post " + createPath, reason: "method"},
		{name: "a method of WebDAV", request: "PROPFIND " + createPath, reason: "method"},

		{name: "localhost", header: []string{"Host: localhost:9180"}},
		{name: "LOCALHOST with a dot", header: []string{"Host: LocalHost."}},
		{name: "a name below localhost", header: []string{"Host: pay.localhost:9180"}},
		{name: "another address of this machine", header: []string{"Host: 127.8.9.1"}},
		{name: "IPv6", header: []string{"Host: [::1]:9180"}},
		{name: "a page's own name with this machine's address", header: []string{"Host: evil.example:9180"}, reason: "host"},
		{name: "a name that begins like this machine's", header: []string{"Host: localhost.evil.example"}, reason: "host"},
		{name: "a name that ends like it", header: []string{"Host: evillocalhost"}, reason: "host"},
		{name: "an address in a name", header: []string{"Host: 127.0.0.1.evil.example"}, reason: "host"},
		{name: "any address", header: []string{"Host: 0.0.0.0:9180"}, reason: "host"},
		{name: "an address of the network", header: []string{"Host: 192.168.1.5"}, reason: "host"},
		{name: "an absolute target with another host", request: "POST http://evil.example" + createPath, reason: "host"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.request = cmp.Or(test.request, "POST "+createPath)
			if !strings.HasPrefix(test.request, "GET ") && !strings.HasPrefix(test.request, "CONNECT ") {
				test.body = cmp.Or(test.body, anyBill)
			}
			before := env.sent()
			got := env.raw(t, test.request, test.header, test.body)
			if reason := got.header.Get("X-Doku-Error"); reason != test.reason {
				t.Errorf("HTTP %d %q %s, expected %q", got.status, reason, got.body, test.reason)
			}
			want := map[string]int{"browser": http.StatusForbidden, "host": http.StatusForbidden, "method": http.StatusMethodNotAllowed}[test.reason]
			if want != 0 && got.status != want {
				t.Errorf("HTTP %d, expected %d", got.status, want)
			}
			if allow := got.header.Get("Allow"); (allow == "GET, POST, PUT, PATCH, DELETE") != (test.reason == "method") {
				t.Errorf("Allow: %q", allow)
			}
			if sent := env.sent() - before; (sent == 1) != (test.reason == "") || sent > 1 {
				t.Errorf("DOKU received %d calls", sent)
			}
		})
	}
	env.awaitLine(t, `"level":"warn"`, "call not made", `"reason":"browser"`, "Sec-Fetch-Site", "hands on the headers of a visitor's browser")
	env.awaitLine(t, `"level":"warn"`, `"reason":"host"`, "allow_hosts evil.example")
	env.awaitMetrics(t, `calls_total{account="default",direction="outbound",outcome="browser",service="27"}`,
		`calls_total{account="default",direction="outbound",outcome="host",service="27"}`,
		`calls_total{account="default",direction="outbound",outcome="method",service="31"}`)
}

func TestARefusedHostIsToldTheLineThatAllowsIt(t *testing.T) {
	t.Parallel()
	env := startForAnyHost(t, "")
	got := env.raw(t, "POST "+createPath, []string{"Host: Host.Docker.Internal:9180"}, anyBill)
	const line = "allow_hosts host.docker.internal"
	if got.status != http.StatusForbidden || !strings.Contains(got.body, line) {
		t.Fatalf("HTTP %d %s, expected the line %q", got.status, got.body, line)
	}
	allowed := startForAnyHost(t, line+" sidecar.test.")
	for _, host := range []string{"host.docker.internal", "HOST.docker.internal.:9180", "sidecar.test", "localhost"} {
		if got := allowed.raw(t, "POST "+createPath, []string{"Host: " + host}, anyBill); got.header.Get("X-Doku-Error") != "" {
			t.Errorf("%s: HTTP %d %s", host, got.status, got.body)
		}
	}
	for _, host := range []string{"evil.example", "x.host.docker.internal"} {
		if got := allowed.raw(t, "POST "+createPath, []string{"Host: " + host}, anyBill); got.header.Get("X-Doku-Error") != "host" {
			t.Errorf("%s: HTTP %d %s", host, got.status, got.body)
		}
	}
}

func TestAListenerForAllAddressesChecksTheHostOnLoopback(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	_, port, _ := strings.Cut(strings.TrimPrefix(env.outward, "http://"), ":")
	env.run(t, strings.Replace(env.caddyfile(options{}), "\n"+env.outward+" {\n", "\n:"+port+" {\n", 1))
	got := env.raw(t, "POST "+createPath, []string{"Host: evil.example"}, anyBill)
	if got.status != http.StatusForbidden || got.header.Get("X-Doku-Error") != "host" {
		t.Errorf("HTTP %d %s", got.status, got.body)
	}
}

func TestDOKUsPermitsForWebPagesAreNotPassedOn(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	env.doku.SetFault(createPath, &simulator.Fault{Status: http.StatusOK, Body: `{"responseCode":"2002700"}`, Header: http.Header{
		"Access-Control-Allow-Origin": {"*"}, "Access-Control-Allow-Private-Network": {"true"}, "Access-Control-Expose-Headers": {"*"},
		"X-Other": {"stays"},
	}})
	for range 2 { // the second is a replay
		got := env.call(t, http.MethodPost, createPath, anyBill, "Idempotency-Key", "INV-1")
		got.expect(t, http.StatusOK, "2002700")
		for name := range got.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("the app got %s", name)
			}
		}
		if got.header.Get("X-Other") != "stays" {
			t.Errorf("the app got %v", got.header)
		}
	}
}
