package integration

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// signedOver signs a request anew, over other bytes, another path or another token.
func signedOver(r *http.Request, path string, body []byte, token string) {
	sum := sha256.Sum256(body)
	mac := hmac.New(sha512.New, []byte(secretKey))
	fmt.Fprintf(mac, "POST:%s:%s:%s:%s", path, token, hex.EncodeToString(sum[:]), r.Header.Get("X-TIMESTAMP"))
	r.Header.Set("X-SIGNATURE", base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

func bearerOf(r *http.Request) string {
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
}

func gzipped(t *testing.T, body []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestHintsSayWhatTheEvidenceSays(t *testing.T) {
	t.Parallel()
	plain := []byte(`{"paymentRequestId":"P-1","name":"Café","amount":11500.00,"url":"a/b"}`)
	replaced := func(old, replacement string) []byte { return bytes.Replace(plain, []byte(old), []byte(replacement), 1) }
	for _, test := range []struct {
		name     string
		sent     []byte
		path     string // that is signed; empty: as called
		signed   []byte
		token    string // that is signed; "-" is none, empty as sent
		encoding string
		code     string
		hint     string
	}{
		{name: "escaped", sent: plain, signed: replaced("é", `\u00e9`), code: "4012500", hint: `the body with escapes such as \\u00e9`},
		{name: "escaped in capitals", sent: plain, signed: replaced("é", `\u00E9`), code: "4012500", hint: `escapes such as \\u00E9`},
		{name: "slashes escaped", sent: plain, signed: replaced("a/b", `a\/b`), code: "4012500", hint: `the body with slashes escaped`},
		{name: "a shorter number", sent: plain, signed: replaced("11500.00", "11500.0"), code: "4012500", hint: "numbers such as 11500.0;"},
		{name: "a whole number", sent: plain, signed: replaced("11500.00", "11500"), code: "4012500", hint: "numbers such as 11500;"},
		{
			name: "PHP", sent: plain, signed: []byte(`{"paymentRequestId":"P-1","name":"Caf\u00e9","amount":11500.0,"url":"a\/b"}`), code: "4012500",
			hint: "numbers such as 11500.0;",
		},
		{
			name: "sorted", sent: plain, signed: []byte(`{"amount":11500.00,"name":"Café","paymentRequestId":"P-1","url":"a/b"}`), code: "4012500",
			hint: "its keys sorted",
		},
		{name: "a mark", sent: append([]byte("\ufeff"), plain...), signed: plain, code: "4012500", hint: "without its byte order mark"},
		{
			name: "a signed mark", sent: append([]byte("\ufeff"), plain...), signed: append([]byte("\ufeff"), plain...), code: "4002500",
			hint: "begins with a byte order mark",
		},
		{name: "compressed", sent: gzipped(t, plain), signed: plain, encoding: "gzip", code: "4012500", hint: "Content-Encoding"},
		{
			name: "compressed and signed", sent: gzipped(t, plain), signed: gzipped(t, plain), encoding: "br", code: "4002500",
			hint: "Content-Encoding",
		},
		{
			name: "another version in the path", sent: plain, signed: plain, path: "/v1/transfer-va/payment", code: "4012500",
			hint: "the path \\\"/v1/transfer-va/payment",
		},
		{name: "a slash at the end", sent: plain, signed: plain, path: paymentPath + "/", code: "4012500", hint: "public_target"},
		{name: "no token", sent: plain, signed: plain, token: "-", code: "4012500", hint: "token none"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			env := start(t, options{})
			env.notify(t, simulator.Outgoing{Body: test.sent, Mutate: func(r *http.Request) {
				token := bearerOf(r)
				if test.token == "-" {
					token = ""
				}
				path := test.path
				if path == "" {
					path = paymentPath
				}
				signedOver(r, path, test.signed, token)
				if test.encoding != "" {
					r.Header.Set("Content-Encoding", test.encoding)
				}
			}}).expect(t, map[string]int{"4012500": 401, "4002500": 400}[test.code], test.code)
			env.awaitLine(t, `"response_code":"`+test.code+`"`, `"hint":`, test.hint)
			if len(env.app.seen()) != 0 {
				t.Error("the app was called")
			}
		})
	}
}

func TestASpelledOutPathIsTheSamePath(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	env.notify(t, simulator.Outgoing{URL: env.inward + "/v1.1/transfer-va/%70ayment"}).expect(t, http.StatusOK, "2002500")
	if calls := env.app.seen(); len(calls) != 1 || calls[0].header.Get("X-Doku-Service") != "25" {
		t.Errorf("the app saw %v", calls)
	}
	for _, path := range []string{"/v1.1/transfer-va/payment;x=1", "/V1.1/Transfer-VA/Payment", "/v1.1/transfer-va/PAYMENT"} {
		env.notify(t, simulator.Outgoing{URL: env.inward + path}).expect(t, http.StatusNotFound, "4040000")
		env.awaitLine(t, path, "spelt otherwise", "service 25")
	}
	env.notify(t, simulator.Outgoing{URL: env.inward + "/v1.1/transfer-va%2Fpayment"}).expect(t, http.StatusNotFound, "4040000")
	if calls := env.app.seen(); len(calls) != 1 {
		t.Errorf("the app saw %v", calls)
	}
}

func TestBlanksBeforeATokenDoNotMatter(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	for i, blanks := range []string{" ", "  ", "     "} {
		env.notify(t, simulator.Outgoing{Body: payment(fmt.Sprint("P-", i)), Mutate: func(r *http.Request) {
			r.Header.Set("Authorization", "bearer"+blanks+bearerOf(r))
		}}).expect(t, http.StatusOK, "2002500")
	}
	for _, wrong := range []string{"\t", ""} {
		env.notify(t, simulator.Outgoing{Mutate: func(r *http.Request) {
			r.Header.Set("Authorization", "Bearer"+wrong+bearerOf(r))
		}}).expect(t, http.StatusUnauthorized, "4012501")
	}
}

func TestStrangersDoNotLearnWhoIsAClient(t *testing.T) {
	t.Parallel()
	second := "\naccount kopi {\nclient_id BRN-9\nsecret_key SK-of-another-0123456789\nprivate_key {env.DOKU_PRIVATE_KEY}\n" +
		"doku_public_key {env.DOKU_PUBLIC_KEY}\n}"
	for name, o := range map[string]options{
		"one account": {}, "two accounts": {global: second}, "no token": {verify: "token none"}, "two accounts, no token": {global: second, verify: "token any"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := newEnv(t)
			config := env.caddyfile(o)
			if o.global != "" {
				config = strings.Replace(config, "\tdoku_sign {", "\tdoku_sign default {", 1)
				config = strings.Replace(config, "\t\taccount {", "\t\taccount default {", 1)
			}
			env.run(t, config)
			for what, change := range map[string]func(r *http.Request){
				"a wrong token and signature": func(r *http.Request) {
					r.Header.Set("Authorization", "Bearer x")
					r.Header.Set("X-SIGNATURE", base64.StdEncoding.EncodeToString(make([]byte, 64)))
				},
				"no token and a wrong signature": func(r *http.Request) {
					r.Header.Del("Authorization")
					r.Header.Set("X-SIGNATURE", base64.StdEncoding.EncodeToString(make([]byte, 64)))
				},
				"no token and no signature": func(r *http.Request) {
					r.Header.Del("Authorization")
					r.Header.Set("X-SIGNATURE", "?")
				},
				"an old time": func(r *http.Request) { r.Header.Set("X-TIMESTAMP", "2024-03-26T16:01:41+07:00") },
				"no time":     func(r *http.Request) { r.Header.Del("X-TIMESTAMP") },
			} {
				ask := func(id string) answer {
					return env.notify(t, simulator.Outgoing{Bearer: "x", Mutate: func(r *http.Request) {
						change(r)
						r.Header.Set("X-PARTNER-ID", id)
					}})
				}
				alike(t, what, ask(clientID), ask("BRN-UNKNOWN"))
			}
			tokenOf := func(id string) answer {
				a, err := env.doku.RequestToken(t.Context(), func(r *http.Request) {
					r.Header.Set("X-CLIENT-KEY", id)
					r.Header.Set("X-SIGNATURE", base64.StdEncoding.EncodeToString(make([]byte, 256)))
				})
				if err != nil {
					t.Fatal(err)
				}
				return answer{a.Status, a.Header, string(a.Body)}
			}
			alike(t, "a token request", tokenOf(clientID), tokenOf("BRN-UNKNOWN"))
			env.awaitLine(t, `"reason":"client_unknown"`) // the log knows
		})
	}
}

// alike checks that two answers do not differ.
func alike(t *testing.T, what string, known, unknown answer) {
	t.Helper()
	if known.status != unknown.status || known.body != unknown.body || known.status < 400 ||
		known.header.Get("X-Doku-Error") != unknown.header.Get("X-Doku-Error") {
		t.Errorf("%s: a client gets %d %s %s, a stranger %d %s %s", what, known.status, known.header.Get("X-Doku-Error"), known.body,
			unknown.status, unknown.header.Get("X-Doku-Error"), unknown.body)
	}
}

func TestTheConnectionClosesAfterAChunkedCall(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	body := payment("P-1")
	var head bytes.Buffer
	env.notify(t, simulator.Outgoing{Body: payment("P-0"), Mutate: func(r *http.Request) {
		signedOver(r, paymentPath, body, bearerOf(r))
		_ = r.Header.Write(&head)
	}}).expect(t, http.StatusUnauthorized, "4012500")
	host := " HTTP/1.1\r\nHost: " + strings.TrimPrefix(env.inward, "http://") + "\r\n"
	call := func(framing string) string { return "POST " + paymentPath + host + head.String() + framing }
	chunked := fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	for name, first := range map[string]string{
		"with a length":      call(fmt.Sprintf("Content-Length: %d\r\n", len(body)) + chunked),
		"with a wrong one":   call("Content-Length: 5\r\n" + chunked),
		"refused":            "POST " + paymentPath + host + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"a token request":    "POST " + tokenPath + host + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
		"without any length": call(chunked),
	} {
		answers, closed := env.exchangeInward(t, 2, first+"POST /smuggled HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
		if len(answers) != 1 || !closed || answers[0].header.Get("Connection") == "keep-alive" {
			t.Errorf("%s: %d answers, closed %v", name, len(answers), closed)
		}
	}
	whole := call(fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body))
	answers, _ := env.exchangeInward(t, 2, whole+whole)
	if len(answers) != 2 || answers[0].status != 200 || answers[1].status != 200 {
		t.Errorf("two calls with a length on one connection got %v", answers)
	}
}

func TestNobodyWritesToATerminal(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	config := env.caddyfile(options{inbox: "{\n answer_within 100ms\n}"})
	env.run(t, config[:strings.LastIndex(config, "}")]+"\tdoku_unhandled\n}\n")
	odd := "\u009b31m\u202e\u2066\u2028\u2029\u200b\x9b"
	for _, name := range append([]string{"X-EXTERNAL-ID", "Content-Encoding", "User-Agent"}, signedNames...) {
		env.notify(t, simulator.Outgoing{Mutate: func(r *http.Request) {
			r.Header.Set("X-SIGNATURE", base64.StdEncoding.EncodeToString(make([]byte, 64)))
			r.Header.Set(name, "Bearer "+odd)
		}})
	}
	env.notify(t, simulator.Outgoing{Mutate: func(r *http.Request) { r.URL.RawQuery = "a=" + odd }})
	_, err := env.doku.RequestToken(t.Context(), func(r *http.Request) { r.Header.Set("X-CLIENT-KEY", odd) })
	if err != nil {
		t.Fatal(err)
	}
	for _, site := range []string{env.inward, env.outward} { // what neither DOKU nor the app would call
		conn := connect(t, site)
		fmt.Fprintf(conn, "POST /elsewhere%s HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: %s\r\nOrigin: http://%[1]s\r\nContent-Length: 0\r\n\r\n",
			url.PathEscape(odd), odd)
		if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
			t.Error(err)
		}
		conn.Close()
	}
	// What DOKU itself has signed is kept, shown and traced.
	env.app.setAnswer(answering(http.StatusServiceUnavailable))
	body := []byte(strings.Replace(string(payment("P-1")), `"T-1"`, `"T-`+strings.ToValidUTF8(odd, "")+`"`, 1))
	env.notify(t, simulator.Outgoing{Body: body}).expect(t, http.StatusInternalServerError, "5002502")
	env.awaitLine(t, `"reason":"header_format"`, `\\u009b31m`)
	env.sidecar.Stop()
	for _, r := range env.log.String() {
		if r >= 0x80 && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x2028 || r == 0x2029 || r == 0x200b {
			i := strings.IndexRune(env.log.String(), r)
			t.Fatalf("the log has %U: %.400q", r, env.log.String()[max(0, i-200):])
		}
	}
}

func TestBothPortsSpeakHTTP2WithoutTLS(t *testing.T) {
	t.Parallel()
	env, app := newEnv(t), newWitness(t)
	env.run(t, env.nameless(env.caddyfile(options{app: app.address})))
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: protocols}, Timeout: doktest.Patience}
	t.Cleanup(client.CloseIdleConnections)
	var again *http.Request
	env.notify(t, simulator.Outgoing{Body: payment("P-0"), Mutate: func(r *http.Request) {
		signedOver(r, paymentPath, payment("P-1"), bearerOf(r))
		again = r.Clone(t.Context())
	}})
	again.Body, again.ContentLength = io.NopCloser(bytes.NewReader(payment("P-1"))), -1 // without a length
	resp, err := client.Do(again)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.StatusCode != http.StatusOK {
		t.Errorf("HTTP/%d, status %d", resp.ProtoMajor, resp.StatusCode)
	}
	if got := app.of("P-1"); len(got) != 1 {
		t.Errorf("the app was called %d times", len(got))
	} else {
		got[0].clean(t, app.address)
	}
}

func TestTheHintTellsTheSecretFromThePath(t *testing.T) {
	t.Parallel()
	wrong := func(r *http.Request) { signedOver(r, "/pay"+paymentPath, payment("P-9"), bearerOf(r)) }
	env := start(t, options{})
	env.notify(t, simulator.Outgoing{Body: payment("P-9"), Mutate: wrong}).expect(t, http.StatusUnauthorized, "4012500")
	env.awaitLine(t, `"reason":"signature"`, "no other call has shown yet")
	env.notify(t, simulator.Outgoing{}).expect(t, http.StatusOK, "2002500")
	env.notify(t, simulator.Outgoing{Body: payment("P-9"), Mutate: wrong})
	env.awaitLine(t, `"reason":"signature"`, "other calls from DOKU match this secret")
	env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	env.notify(t, simulator.Outgoing{Body: payment("P-9"), Mutate: wrong})
	env.awaitLine(t, `"reason":"signature"`, "DOKU takes outbound calls with this secret")

	other := newEnv(t) // whose secret was changed at DOKU
	other.doku = newDOKU(t, clientID, "SK-the-new-one-0123456789", new(atomic.Int64))
	doku := httptest.NewServer(other.doku)
	t.Cleanup(doku.Close)
	other.dokuURL = doku.URL
	other.chooseAddresses(t)
	other.run(t, other.caddyfile(options{}))
	other.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", ""))
	other.notify(t, simulator.Outgoing{}).expect(t, http.StatusUnauthorized, "4012500")
	other.awaitLine(t, `"reason":"signature"`, "DOKU also refuses outbound calls", "compare secret_key")
}

// exchangeInward sends bytes to the sidecar's inbound site, and returns its answers until it closes
// the connection or n have come.
func (env *testEnv) exchangeInward(t *testing.T, n int, text string) (answers []answer, closed bool) {
	t.Helper()
	conn := connect(t, env.inward)
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	for len(answers) < n {
		resp, err := http.ReadResponse(reader, nil)
		if err != nil {
			return answers, true
		}
		body, _ := io.ReadAll(resp.Body)
		answers = append(answers, answer{resp.StatusCode, resp.Header, string(body)})
	}
	return answers, false
}
