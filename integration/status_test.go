package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// withHealth starts a testEnv with a site for doku_health, and returns the base URL of it.
func withHealth(t *testing.T, health string, o options) (*testEnv, string) {
	t.Helper()
	env := newEnv(t)
	site := "http://" + doktest.FreeAddress(t)
	env.run(t, env.caddyfile(o)+fmt.Sprintf("\n%s {\n tracing\n doku_health %s\n respond 404\n}\n", site, health), site)
	return env, site
}

// get returns the answer to a request without a body.
func get(t testing.TB, method, url string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Timeout: time.Minute}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// is checks an answer's HTTP status, and that its body says something.
func (a answer) is(t testing.TB, status int, says ...string) {
	t.Helper()
	for _, text := range append([]string{""}, says...) {
		if a.status != status || !strings.Contains(a.body, text) {
			t.Errorf("found HTTP %d %s, expected HTTP %d with %s", a.status, a.body, status, text)
		}
	}
}

func TestHealthOfASidecar(t *testing.T) {
	t.Parallel()
	env, site := withHealth(t, "", options{})
	ready := get(t, http.MethodGet, site+"/readyz")
	ready.is(t, http.StatusOK, `{"status":"ready","accounts":{"default":{"keys":"ok","store":"ok","token":"ok"}}}`)
	if ready.header.Get("Cache-Control") != "no-store" || ready.header.Get("Content-Type") != "application/json" {
		t.Errorf("header %v", ready.header)
	}
	if head := get(t, http.MethodHead, site+"/readyz"); head.status != http.StatusOK || head.body != "" || head.header.Get("Content-Length") != ready.header.Get("Content-Length") {
		t.Errorf("HEAD: HTTP %d %q", head.status, head.body)
	}
	get(t, http.MethodGet, site+"/livez").is(t, http.StatusOK, `{"status":"alive"}`)
	get(t, http.MethodPost, site+"/readyz").is(t, http.StatusMethodNotAllowed)
	get(t, http.MethodGet, site+"/elsewhere").is(t, http.StatusNotFound)

	// Being asked has a token fetched, once however often.
	each(200, func(int) { get(t, http.MethodGet, site+"/readyz").is(t, http.StatusOK) })
	env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	if n := env.doku.Tokens(); n != 1 {
		t.Errorf("DOKU issued %d tokens", n)
	}
}

func TestASidecarWithoutATokenIsReadyUnlessToldOtherwise(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"required", "reported"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			env := newEnv(t)
			site := "http://" + doktest.FreeAddress(t)
			// DOKU knows another key of the merchant's.
			config := strings.Replace(env.caddyfile(options{}), "{env.DOKU_PRIVATE_KEY}", testdata(t, "test-doku-private.pem"), 1)
			config = strings.Replace(config, "doku_public_key {env.DOKU_PUBLIC_KEY}\n", "", 1)
			config, _, _ = strings.Cut(config, env.inward+" {")
			config += fmt.Sprintf("%s {\n respond 404\n}\n%s {\n doku_health {\n token %s\n }\n}\n", env.inward, site, mode)
			env.run(t, config, site)
			want := http.StatusOK
			if mode == "required" {
				want = http.StatusServiceUnavailable
			}
			get(t, http.MethodGet, site+"/readyz").is(t, want, `"token":"refused"`)
			get(t, http.MethodGet, site+"/livez").is(t, http.StatusOK)
			each(100, func(int) { get(t, http.MethodGet, site+"/readyz").is(t, want) })
			asked := 0
			for _, e := range env.doku.Exchanges() {
				if e.Target == tokenPath {
					asked++
				}
			}
			if asked > 4 {
				t.Errorf("DOKU was asked %d times", asked)
			}
			refused := get(t, http.MethodPost, env.admin+"/doku/accounts/default/token")
			refused.is(t, http.StatusBadGateway, "DOKU refused the token request", "check client_id")
		})
	}
}

func TestASidecarWhoseInboxCannotBeWrittenIsNotReady(t *testing.T) {
	t.Parallel()
	t.Run("a file", func(t *testing.T) {
		t.Parallel()
		env, site := withHealth(t, "", options{inbox: "{\n policy durable\n max_size 256KiB\n}"})
		env.app.setAnswer(answering(http.StatusServiceUnavailable))
		get(t, http.MethodGet, site+"/readyz").is(t, http.StatusOK, `"inbox":"ok"`)
		get(t, http.MethodGet, env.admin+"/doku/accounts").is(t, http.StatusOK, `"inbox": "ok"`)
		var last answer
		n := 0
		env.eventually(t, func() answer { // when it is full to the brim
			for range 20 {
				n++
				env.notify(t, simulator.Outgoing{Body: paymentTo(fmt.Sprint(n), fmt.Sprint("P-", n, strings.Repeat("x", 2000)))})
			}
			last = get(t, http.MethodGet, site+"/readyz")
			return last
		}, `"inbox":"not_ready"`)
		last.is(t, http.StatusServiceUnavailable, `"store":"ok"`)
		env.awaitLog(t, `"check":"inbox"`, 1)
	})
	t.Run("Redis", func(t *testing.T) {
		t.Parallel()
		redis := doktest.StartRedis(t)
		env, site := withHealth(t, "{\n store reported\n}", options{global: "store redis " + redis.URL, inbox: "{\n}"})
		get(t, http.MethodGet, site+"/readyz").is(t, http.StatusOK, `"inbox":"ok"`)
		redis.Kill()
		env.eventually(t, func() answer { return get(t, http.MethodGet, site+"/readyz") }, `"inbox":"not_ready"`)
		get(t, http.MethodGet, site+"/readyz").is(t, http.StatusServiceUnavailable)
	})
}

func TestASidecarWhoseStoreIsAwayIsNotReady(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"refuse", "continue"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			redis := doktest.StartRedis(t)
			env, site := withHealth(t, "", options{global: "store redis " + redis.URL + "\non_store_error " + policy})
			get(t, http.MethodGet, site+"/readyz").is(t, http.StatusOK, `"store":"ok"`)
			get(t, http.MethodGet, env.admin+"/doku/accounts").is(t, http.StatusOK, `"type": "redis"`, `"ok": true`)
			redis.Kill()
			want := map[string]int{"refuse": http.StatusServiceUnavailable, "continue": http.StatusOK}[policy]
			env.eventually(t, func() answer {
				asked := time.Now()
				got := get(t, http.MethodGet, site+"/readyz")
				if took := time.Since(asked); took > 3*time.Second { // 750 ms, on a busy machine
					t.Errorf("it took %s", took)
				}
				return got
			}, `"store":"away"`)
			get(t, http.MethodGet, site+"/readyz").is(t, want)
			get(t, http.MethodGet, env.admin+"/doku/accounts").is(t, http.StatusOK, `"ok": false`, `"error": "the store failed`)
			if policy == "refuse" {
				env.awaitLog(t, `"msg":"not ready"`, 1)
			}
			redis.Start(t)
			env.eventually(t, func() answer { return get(t, http.MethodGet, site+"/readyz") }, `"store":"ok"`)
			get(t, http.MethodGet, site+"/readyz").is(t, http.StatusOK)
			if policy == "refuse" {
				env.awaitLog(t, `"msg":"ready again"`, 1)
			}
		})
	}
}

// about runs the binary with the arguments of a command about a running sidecar,
// and returns what it prints.
func (env *testEnv) about(t *testing.T, arguments ...string) (string, error) {
	t.Helper()
	arguments = append(arguments, "--address", strings.TrimPrefix(env.admin, "http://"))
	out, err := exec.CommandContext(t.Context(), binary(t), arguments...).CombinedOutput()
	return string(out), err
}

func TestTheStateOfASidecarCanBeAskedForAndATokenFetched(t *testing.T) {
	t.Parallel()
	env := start(t, options{global: "clock_correction on"})
	const accounts = "/doku/accounts"
	var before, after struct {
		Accounts []struct {
			Name     string
			ClientID string `json:"client_id"`
			Token    struct {
				Held             bool
				AgeSeconds       float64 `json:"age_seconds"`
				ExpiresInSeconds float64 `json:"expires_in_seconds"`
				LastFetch        struct {
					Reason string
				} `json:"last_fetch"`
			}
			Clock struct{ Known, Correcting bool }
			Keys  struct {
				Merchant string
				DOKU     []string
				Secrets  int
			}
			Store struct {
				Type string
				OK   bool
			}
		}
	}
	read := func(into any) {
		t.Helper()
		got := get(t, http.MethodGet, env.admin+accounts)
		if err := json.Unmarshal([]byte(got.body), into); err != nil || got.status != http.StatusOK {
			t.Fatalf("HTTP %d %s: %v", got.status, got.body, err)
		}
	}
	read(&before)
	if len(before.Accounts) != 1 || before.Accounts[0].Token.Held || before.Accounts[0].Clock.Known || env.doku.Tokens() != 0 {
		t.Fatalf("before the first call: %+v", before)
	}
	env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	read(&after)
	a := after.Accounts[0]
	if a.Name != "default" || a.ClientID != clientID || !a.Token.Held || a.Token.ExpiresInSeconds < 800 || a.Token.LastFetch.Reason != "first" ||
		!a.Clock.Known || !a.Clock.Correcting || !strings.HasPrefix(a.Keys.Merchant, "SHA256:") || len(a.Keys.DOKU) != 1 || a.Keys.Secrets != 1 || a.Store.Type != "memory" || !a.Store.OK {
		t.Errorf("after it: %+v", a)
	}

	t.Run("a token is fetched by hand", func(t *testing.T) {
		get(t, http.MethodPost, env.admin+accounts+"/default/token").is(t, http.StatusOK, `"reason": "forced"`)
		if n := env.doku.Tokens(); n != 2 {
			t.Errorf("DOKU issued %d tokens, expected a second one", n)
		}
		env.call(t, http.MethodPost, createPath, bill("2", "B", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	})
	t.Run("mistakes are told with what to do", func(t *testing.T) {
		get(t, http.MethodGet, env.admin+accounts+"/kopi").is(t, http.StatusNotFound, `no account is called \"kopi\"; the accounts are: default`)
		get(t, http.MethodPost, env.admin+accounts+"/kopi/token").is(t, http.StatusNotFound, "the accounts are: default")
		get(t, http.MethodGet, env.admin+accounts+"/default/token").is(t, http.StatusMethodNotAllowed, "expected POST")
		get(t, http.MethodGet, env.admin+"/doku/nothing").is(t, http.StatusNotFound, "GET /doku/accounts", "GET /doku/inbox")
		get(t, http.MethodPost, env.admin+"/doku/inbox").is(t, http.StatusMethodNotAllowed, "expected GET")
	})
	t.Run("by the command", func(t *testing.T) {
		out, err := env.about(t, "doku", "status")
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, text := range []string{"ACCOUNT", "default", clientID, "s old", "memory, ", "corrected", a.Keys.Merchant, a.Keys.DOKU[0]} {
			if !strings.Contains(out, text) {
				t.Errorf("expected %q in\n%s", text, out)
			}
		}
		if out, err = env.about(t, "doku", "status", "default", "--json"); err != nil || !json.Valid([]byte(out)) {
			t.Errorf("%v: %s", err, out)
		}
		if out, err = env.about(t, "doku", "token", "refresh"); err != nil || !strings.Contains(out, "(forced)") {
			t.Errorf("%v: %s", err, out)
		}
		if n := env.doku.Tokens(); n != 3 {
			t.Errorf("DOKU issued %d tokens, expected a third one", n)
		}
		if out, err = env.about(t, "doku", "token", "refresh", "kopi"); err == nil || !strings.Contains(out, "the accounts are: default") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("by the command, if DOKU gives no token", func(t *testing.T) {
		env.doku.SetFault(tokenPath, &simulator.Fault{Status: 401, Body: `{"responseCode":"4017300","responseMessage":"Unauthorized"}`})
		if out, err := env.about(t, "doku", "token", "refresh", "default"); err == nil || !strings.Contains(out, "4017300") {
			t.Errorf("%v: %s", err, out)
		}
		if out, err := env.about(t, "doku", "status"); err != nil || !strings.Contains(out, "TOKEN") || !strings.Contains(out, "1 in a row") || !strings.Contains(out, "s old") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("of a configuration without accounts", func(t *testing.T) {
		other := env.another(t)
		other.run(t, fmt.Sprintf("{\n admin %s\n persist_config off\n}\n%s, %s {\n respond 404\n}\n", strings.TrimPrefix(other.admin, "http://"), other.outward, other.inward))
		get(t, http.MethodGet, other.admin+accounts).is(t, http.StatusNotFound, "the global option `doku { … }` with an account is needed")
	})
	t.Run("of a sidecar that does not run", func(t *testing.T) {
		out, err := exec.CommandContext(t.Context(), binary(t), "doku", "status", "--address", doktest.FreeAddress(t)).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "--address") {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// TestEachCallHasOneLineInTheLog: one at debug for each that is made, one at warn
// with a hint for each that is not, or is refused, one at info for each token; with the trace.
func TestEachCallHasOneLineInTheLog(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", ""), "Idempotency-Key", "A").expect(t, http.StatusOK, "2002700")
	env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", ""), "Idempotency-Key", "A").expect(t, http.StatusOK, "2002700")
	env.call(t, http.MethodPost, createPath, "nonsense").expect(t, http.StatusBadRequest, "4002700")
	paid := simulator.Outgoing{Body: payment("P-1"), ExternalID: "E-1", Bearer: env.token(t)}
	env.notify(t, paid).expect(t, http.StatusOK, "2002500")
	env.notify(t, paid).expect(t, http.StatusOK, "2002500")
	env.notify(t, simulator.Outgoing{Body: payment("P-2"), Bearer: "forged"}).expect(t, http.StatusUnauthorized, "4012501")
	env.app.setAnswer(func(appCall) (int, string) { return http.StatusNotFound, `{"responseCode":"4042512"}` })
	env.notify(t, simulator.Outgoing{Body: payment("P-3"), Bearer: paid.Bearer}).expect(t, http.StatusNotFound, "4042512")
	env.doku.SetFault(createPath, &simulator.Fault{Status: http.StatusUnauthorized, Body: `{"responseCode":"4012700"}`})
	env.call(t, http.MethodPost, createPath, bill("2", "B", "1000.00", "C", "")).expect(t, http.StatusUnauthorized, "4012700")
	tests := []struct {
		level, message, fields string
		traced, hint           bool
	}{
		{"debug", "call to DOKU answered", `"outcome":"succeeded","status":200`, true, false},
		{"debug", "call to DOKU answered", `"outcome":"replayed","status":200`, true, false},
		{"warn", "call not made", `"reason":"body_not_json"`, true, true},
		{"info", "got a B2B token", `"reason":"first"`, false, false},
		{"debug", "DOKU got a token", `"service":"73"`, true, false},
		{"debug", "call from DOKU verified", `"outcome":"accepted","status":200`, true, false},
		{"debug", "call from DOKU verified", `"outcome":"replayed","status":200`, true, false},
		{"warn", "call from DOKU not accepted", `"reason":"token_invalid"`, true, true},
		{"warn", "the app has not taken a DOKU call", `"app_status":404,"status":404,"reason":"app_refused"`, true, true},
		{"warn", "DOKU has not carried out a call", `"reason":"unauthorized"`, true, true},
	}
	for _, test := range tests {
		env.awaitLog(t, test.fields, 1)
		n := 0
		for line := range strings.SplitSeq(env.log.String(), "\n") {
			if !strings.Contains(line, `"msg":"`+test.message+`"`) || !strings.Contains(line, test.fields) {
				continue
			}
			n++
			if !strings.Contains(line, `"level":"`+test.level+`"`) || test.traced && !strings.Contains(line, `"traceID":"`) || strings.Contains(line, `"hint":"`) != test.hint {
				t.Errorf("found %s", line)
			}
		}
		if n != 1 {
			t.Errorf("%d lines of %q with %s, expected one", n, test.message, test.fields)
		}
	}
}
