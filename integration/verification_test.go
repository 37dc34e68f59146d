package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// startWith starts a sidecar whose inward site is given in full.
func startWith(t *testing.T, site func(env *testEnv) string) *testEnv {
	t.Helper()
	env := newEnv(t)
	env.run(t, env.withSite(site(env)))
	return env
}

// withSite returns a configuration whose site for DOKU's calls has these directives.
func (env *testEnv) withSite(directives string) string {
	others, _, _ := strings.Cut(env.caddyfile(options{}), env.inward)
	return others + env.inward + " {\n" + directives + "\n}\n"
}

// oddTargets are paths that a proxy on the way may normalise.
var oddTargets = []string{
	"/v1.1/transfer-va/payment",
	"/v1.1/transfer-va/payment/",
	"/v1.1/transfer-va/payment?src=doku&x=%2F&y=a+b",
	"/v1.1/transfer-va/payment?",
	"/v1.1//transfer-va///payment",
	"/v1.1/./transfer-va/../transfer-va/payment",
	"/v1.1/transfer%2Dva/payment",
	"/v1.1/transfer-va/%70ayment%2fx",
	"/v1.1/transfer-va/payment;jsessionid=1;a=%3B",
	"/v1.1/transfer-va/payment/~!$&'()*+,=:@",
	"/v1.1/transfer-va/pay%C3%A9",
}

// front starts a proxy that replaces a prefix of the path, and changes nothing else.
func front(t *testing.T, env *testEnv, prefix, replacement string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		behind, err := net.Dial("tcp", strings.TrimPrefix(env.inward, "http://"))
		if err != nil {
			t.Error(err)
			return
		}
		defer behind.Close()
		fmt.Fprintf(
			behind, "POST %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: %d\r\n",
			replacement+strings.TrimPrefix(r.RequestURI, prefix), r.Host, r.ContentLength,
		)
		_ = r.Header.WriteSubset(behind, map[string]bool{"Content-Length": true, "Connection": true})
		_, _ = io.WriteString(behind, "\r\n")
		_, _ = io.Copy(behind, r.Body)
		resp, err := http.ReadResponse(bufio.NewReader(behind), r)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		rw.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(rw, resp.Body)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestTheTargetIsTheOneThatDOKUHasCalled(t *testing.T) {
	t.Parallel()
	verify := func(options string) func(*testEnv) string {
		return func(env *testEnv) string {
			return "tracing\ndoku_token " + tokenPath +
				"\nroute {\n doku_verify {\n timeout 2m\n service 25\n" + options + "\n}\n reverse_proxy " + env.appAddress + "\n}"
		}
	}
	t.Run("as it arrives", func(t *testing.T) {
		t.Parallel()
		env := startWith(t, verify(""))
		for i, target := range oddTargets {
			env.notify(t, simulator.Outgoing{URL: env.inward + target, Body: payment(fmt.Sprint(i)), ExternalID: fmt.Sprint(i)}).
				expect(t, http.StatusOK, "2002500")
			if got := env.app.seen()[i].target; got != target {
				t.Errorf("%s reached the app as %s", target, got)
			}
		}
	})
	t.Run("behind a proxy that strips a prefix", func(t *testing.T) {
		t.Parallel()
		env := startWith(t, verify("public_prefix /doku"))
		public := front(t, env, "/doku", "")
		for i, target := range oddTargets {
			env.notify(t, simulator.Outgoing{URL: public + "/doku" + target, Body: payment(fmt.Sprint(i)), ExternalID: fmt.Sprint(i)}).
				expect(t, http.StatusOK, "2002500")
		}
		env.notify(t, simulator.Outgoing{URL: env.inward + oddTargets[0]}).expect(t, http.StatusUnauthorized, "4012500")
	})
	t.Run("behind a proxy that calls another path", func(t *testing.T) {
		t.Parallel()
		env := startWith(t, verify("public_target /notify"))
		public := front(t, env, "/notify", "/inside")
		for i, query := range []string{"", "?a=1", "?a=%2F"} {
			env.notify(t, simulator.Outgoing{URL: public + "/notify" + query, Body: payment(fmt.Sprint(i)), ExternalID: fmt.Sprint(i)}).
				expect(t, http.StatusOK, "2002500")
		}
	})
	t.Run("with a rewrite behind it", func(t *testing.T) {
		t.Parallel()
		env := startWith(t, func(env *testEnv) string {
			return "doku_token " + tokenPath + "\nhandle_path /pay/* {\n rewrite * /internal{uri}\n" +
				" doku_verify {\n timeout 2m\n service 25\n}\n reverse_proxy " + env.appAddress + "\n}"
		})
		env.notify(t, simulator.Outgoing{URL: env.inward + "/pay/notify?x=1"}).expect(t, http.StatusOK, "2002500")
		if calls := env.app.seen(); len(calls) != 1 || calls[0].target != "/internal/notify?x=1" {
			t.Errorf("the app saw %v", calls)
		}
	})
}

func TestOtherTokensAndSignatures(t *testing.T) {
	t.Parallel()
	symmetric, tokenless, asymmetric := simulator.Outgoing{}, simulator.Outgoing{Tokenless: true}, simulator.Outgoing{Asymmetric: true}
	theirs := simulator.Outgoing{Bearer: "a.token.of-theirs"}
	another := simulator.Outgoing{Asymmetric: true, Body: []byte(`{"partnerServiceId":"   88899","paymentRequestId":"another-merchants"}`)}
	for _, test := range []struct {
		name, options string
		taken         []simulator.Outgoing
		refused       []simulator.Outgoing
	}{
		{"as usual", "", []simulator.Outgoing{symmetric}, []simulator.Outgoing{tokenless, asymmetric, theirs}},
		{"any token", "token any", []simulator.Outgoing{symmetric, theirs, tokenless}, []simulator.Outgoing{asymmetric}},
		{"no token", "token none", []simulator.Outgoing{tokenless}, []simulator.Outgoing{symmetric, asymmetric, theirs}},
		{"asymmetric", "signature asymmetric", []simulator.Outgoing{asymmetric}, []simulator.Outgoing{symmetric, tokenless, another}},
		{"both", "signature symmetric asymmetric", []simulator.Outgoing{symmetric, asymmetric}, []simulator.Outgoing{tokenless, theirs, another}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			env := start(
				t, options{verify: "" + test.options + "", account: "partner_service_id 19008 " + strings.TrimSpace(partnerServiceID)},
			)
			n := 0
			for _, call := range test.taken {
				n++
				call.Body, call.ExternalID = payment(fmt.Sprint(n)), fmt.Sprint(n)
				env.notify(t, call).expect(t, http.StatusOK, "2002500")
			}
			for _, call := range test.refused {
				n++
				if call.ExternalID = fmt.Sprint(n); call.Body == nil {
					call.Body = payment(fmt.Sprint(n))
				}
				if got := env.notify(t, call); got.status != http.StatusUnauthorized {
					t.Errorf("HTTP %d %s, expected 401", got.status, got.body)
				}
			}
			if calls := len(env.app.seen()); calls != len(test.taken) {
				t.Errorf("the app was called %d times", calls)
			}
			env.awaitMetrics(t, `verified_calls_total{account="default",body="received",signature="`)
		})
	}
}

func TestRefusalsHaveTheCodeOfTheirService(t *testing.T) {
	t.Parallel()
	env := startWith(t, func(env *testEnv) string {
		return "log {\n output stderr\n format filter {\n request>headers>X-Signature delete\n}\n}\n" +
			"log_append doku_reason {http.doku.reason}\ndoku_token " + tokenPath +
			"\nroute /odd/* {\n doku_verify {\n service 56\n}\n}\nroute {\n doku_verify\n reverse_proxy " + env.appAddress + "\n}"
	})
	forged := func(r *http.Request) { r.Header.Set("X-SIGNATURE", strings.Repeat("A", 86)+"==") }
	for path, service := range map[string]string{
		inquiryPath: "24", paymentPath: "25", "/v1/transfer-va/payment": "25", "/v1.0/debit/notify": "56",
		"/odd/path": "56", "/what/is/this": "00",
	} {
		env.notify(t, simulator.Outgoing{URL: env.inward + path, Mutate: forged}).expect(t, http.StatusUnauthorized, "401"+service+"00")
		env.notify(t, simulator.Outgoing{URL: env.inward + path, Mutate: func(r *http.Request) { r.Header.Del("X-TIMESTAMP") }}).
			expect(t, http.StatusBadRequest, "400"+service+"02")
		env.notify(t, simulator.Outgoing{URL: env.inward + path, Bearer: "x"}).expect(t, http.StatusUnauthorized, "401"+service+"01")
		env.notify(t, simulator.Outgoing{URL: env.inward + path, Timestamp: "2024-01-01T00:00:00+07:00"}).
			expect(t, http.StatusBadRequest, "400"+service+"01")
	}
	// The service of a genuine call must be known, or its repeats could not be found.
	env.notify(t, simulator.Outgoing{URL: env.inward + "/what/is/this"}).expect(t, http.StatusNotFound, "4040000")
	env.log.Await(t, `"reason":"service_unknown"`, 1)
	if n := len(env.app.seen()); n != 0 {
		t.Errorf("the app was called %d times", n)
	}
	// The reason is in our log line, in the access log by the placeholder, in the
	// counter, and in an event, which Caddy logs.
	env.log.Await(t, `"reason":"timestamp_old"`, 1)
	env.log.Await(t, `"doku_reason":"timestamp_old"`, 1)
	env.log.Await(t, `"name":"doku_call_refused"`, 24)
	env.awaitMetrics(t, `calls_total{account="default",direction="inbound",outcome="timestamp_old",service="25"} 2`)
}

func TestReportOnly(t *testing.T) {
	t.Parallel()
	env := start(t, options{verify: "enforce report\n max_body 2KB"})
	large := payment(strings.Repeat("9", 5000))
	for i, test := range []struct {
		name     string
		call     simulator.Outgoing
		verified string
	}{
		{"genuine", simulator.Outgoing{}, "true"},
		{"genuine again: the ledger is not asked", simulator.Outgoing{}, "true"},
		{"forged", simulator.Outgoing{Mutate: func(r *http.Request) { r.Header.Set("X-SIGNATURE", "forged") }}, "false"},
		{"of a stranger", simulator.Outgoing{Mutate: func(r *http.Request) {
			r.Header.Del("X-PARTNER-ID")
			r.Header.Set("X-Doku-Verified", "true")
		}}, "false"},
		{"not JSON", simulator.Outgoing{Body: []byte("hello")}, "false"},
		{"too large", simulator.Outgoing{Body: large}, "false"},
		{"too large, without a length", simulator.Outgoing{Body: large, Mutate: func(r *http.Request) { r.ContentLength = -1 }}, "false"},
		{"another method", simulator.Outgoing{Mutate: func(r *http.Request) { r.Method = http.MethodPut }}, "false"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.call.Body == nil {
				test.call.Body = payment("P-1")
			}
			test.call.ExternalID = "E-1"
			env.notify(t, test.call).expect(t, http.StatusOK, "2002500")
			calls := env.app.seen()
			if len(calls) != i+1 {
				t.Fatalf("the app was called %d times", len(calls))
			}
			call := calls[i]
			if call.body != string(test.call.Body) ||
				len(call.header.Values("X-Doku-Verified")) != 1 || call.header.Get("X-Doku-Verified") != test.verified ||
				call.header.Get("X-Signature") == "" || call.header.Get("Authorization") == "" ||
				call.header.Get("X-Doku-Service") != "25" {
				t.Errorf("the app saw %v %d bytes", call.header, len(call.body))
			}
		})
	}
	calls := `calls_total{account="default",direction="inbound",outcome="reported_`
	env.awaitMetrics(t, calls+"signature_format", calls+"verified")
}

// endlessBody sends a body that does not end to the sidecar, until the sidecar hangs up or
// stop is closed, and reports whether the sidecar hung up.
func endlessBody(t *testing.T, address string, header http.Header, stop <-chan struct{}) (ended bool) {
	t.Helper()
	return endlessBodyTo(t, address, paymentPath, header, stop)
}

// endlessBodyTo is endlessBody to a path.
func endlessBodyTo(t *testing.T, address, target string, header http.Header, stop <-chan struct{}) (ended bool) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Error(err)
		return false
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n", target, address)
	_ = header.Write(conn)
	_, _ = io.WriteString(conn, "\r\n")
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, conn) // until the sidecar has answered and hung up
	}()
	for {
		if _, err := io.WriteString(conn, "1\r\n{\r\n"); err != nil {
			return true
		}
		select {
		case <-gone:
			return true
		case <-stop:
			return false
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// endlessBodies opens 200 connections with endless bodies, half of them with the headers
// of a genuine call. wait waits for all of them, and returns how many the sidecar ended.
func (env *testEnv) endlessBodies(t *testing.T, stop <-chan struct{}) (wait func() int32) {
	t.Helper()
	var genuine http.Header
	env.notify(t, simulator.Outgoing{Body: payment("P-0"), ExternalID: "E-0", Mutate: func(r *http.Request) {
		genuine = r.Header.Clone()
	}}).expect(t, 200, "2002500")
	var wg sync.WaitGroup
	var ended atomic.Int32
	for i := range 200 {
		header := genuine
		if i%2 == 1 {
			header = nil
		}
		wg.Go(func() {
			if endlessBody(t, strings.TrimPrefix(env.inward, "http://"), header, stop) {
				ended.Add(1)
			}
		})
	}
	return func() int32 {
		wg.Wait()
		return ended.Load()
	}
}

func TestSlowAndEndlessBodiesKeepNobodyWaiting(t *testing.T) {
	t.Parallel()
	t.Run("genuine calls are answered meanwhile", func(t *testing.T) {
		t.Parallel()
		env := start(t, options{verify: "body_timeout 1h"})
		token := env.token(t)
		stop := make(chan struct{})
		wait := env.endlessBodies(t, stop)
		env.awaitInFlight(t, 100) // those without a genuine header are refused before their body is read
		for i := 1; i <= 50; i++ {
			call := simulator.Outgoing{Body: payment(fmt.Sprint("P-", i)), ExternalID: fmt.Sprint("E-", i), Bearer: token}
			env.notify(t, call).expect(t, 200, "2002500")
		}
		env.awaitInFlight(t, 100)
		if n := len(env.app.seen()); n != 51 {
			t.Errorf("the app was called %d times", n)
		}
		close(stop)
		if ended := wait(); ended > 100 {
			t.Errorf("%d of the endless bodies were ended, expected that those with a genuine header go on", ended)
		}
	})
	t.Run("and they end", func(t *testing.T) {
		t.Parallel()
		env := start(t, options{verify: "body_timeout 2s"})
		stop := make(chan struct{})
		deadline := time.AfterFunc(doktest.Patience, func() { close(stop) })
		defer deadline.Stop()
		if ended := env.endlessBodies(t, stop)(); ended != 200 {
			t.Errorf("only %d of the endless bodies were ended", ended)
		}
		if n := len(env.app.seen()); n != 1 {
			t.Errorf("the app was called %d times", n)
		}
	})
}

func TestARepeatOutlivesTheSidecarThatHadTheFirst(t *testing.T) {
	t.Parallel()
	all, redis := startReplicas(t, 2, options{})
	entered := make(chan struct{}, 10)
	release := make(chan struct{})
	all[0].app.setAnswer(func(appCall) (int, string) {
		entered <- struct{}{}
		<-release
		return 200, `{"responseCode":"2002500"}`
	})
	token := all[0].token(t)
	out := simulator.Outgoing{URL: all[0].inward + paymentPath, Body: payment("P-1"), ExternalID: "E-1", Bearer: token}
	lost := make(chan error, 1)
	go func() {
		_, err := all[0].doku.Call(t.Context(), out)
		lost <- err
	}()
	<-entered
	all[0].sidecar.Kill()
	if err := <-lost; err == nil {
		t.Error("DOKU got an answer from a dead sidecar")
	}
	close(release)
	checkLeases(t, redis, 10*time.Second)
	out.URL = all[1].inward + paymentPath
	all[1].notify(t, out).expect(t, 200, "2002500")
	calls := all[0].app.seen()
	if len(calls) != 2 || calls[0].header.Get("Idempotency-Key") != calls[1].header.Get("Idempotency-Key") {
		t.Errorf("the app saw %d calls, expected two with the same Idempotency-Key", len(calls))
	}
}

func TestAChangedNotificationIsHandedOverWithAWarning(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	body := string(payment("P-1"))
	env.notify(t, simulator.Outgoing{Body: []byte(body), ExternalID: "E-1"}).expect(t, 200, "2002500")
	env.notify(t, simulator.Outgoing{Body: []byte(strings.Replace(body, "11500.00", "11600.00", 1)), ExternalID: "E-2"}).
		expect(t, 200, "2002500")
	calls := env.app.seen()
	if len(calls) != 2 || calls[0].header.Get("Idempotency-Key") == calls[1].header.Get("Idempotency-Key") {
		t.Errorf("the app saw %d calls, expected two with keys of their own", len(calls))
	}
	env.awaitMetrics(t, `changed_payments_total{account="default"} 1`)
}
