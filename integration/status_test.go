package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// withHealth starts a sidecar with a site for doku_health, and returns the base URL of it.
func withHealth(t *testing.T, health string, o options) (*testEnv, string) {
	t.Helper()
	env := newEnv(t)
	site := "http://" + doktest.FreeAddress(t)
	env.run(t, env.caddyfile(o)+fmt.Sprintf("\n%s {\n tracing\n doku_health %s\n respond 404\n}\n", site, health), site)
	return env, site
}

// awaitHealth waits until /readyz answers with a status and texts, and returns the answer.
// A check must succeed within a second, so the first answers on a busy machine may differ.
func awaitHealth(t *testing.T, site string, status int, texts ...string) (got answer) {
	t.Helper()
	doktest.Eventually(t, fmt.Sprint("HTTP ", status, " from /readyz with ", texts), func() bool {
		got = get(t, http.MethodGet, site+"/readyz")
		return got.status == status && !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(got.body, text) })
	})
	return got
}

// get returns the answer to a request without a body.
func get(t testing.TB, method, url string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Timeout: doktest.Patience}
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

// is checks an answer's HTTP status, and that its body has all of the texts.
func (a answer) is(t testing.TB, status int, texts ...string) {
	t.Helper()
	for _, text := range append([]string{""}, texts...) {
		if a.status != status || !strings.Contains(a.body, text) {
			t.Errorf("found HTTP %d %s, expected HTTP %d with %s", a.status, a.body, status, text)
		}
	}
}

func TestHealthOfASidecar(t *testing.T) {
	t.Parallel()
	env, site := withHealth(t, "", options{})
	ready := awaitHealth(t, site, http.StatusOK, `{"status":"ready","accounts":{"default":{"keys":"ok","store":"ok","token":"ok"}}}`)
	if ready.header.Get("Cache-Control") != "no-store" || ready.header.Get("Content-Type") != "application/json" {
		t.Errorf("header %v", ready.header)
	}
	if head := get(t, http.MethodHead, site+"/readyz"); head.status != http.StatusOK || head.body != "" ||
		head.header.Get("Content-Length") != ready.header.Get("Content-Length") {
		t.Errorf("HEAD: HTTP %d %q", head.status, head.body)
	}
	get(t, http.MethodGet, site+"/livez").is(t, http.StatusOK, `{"status":"alive"}`)
	get(t, http.MethodPost, site+"/readyz").is(t, http.StatusMethodNotAllowed)
	get(t, http.MethodGet, site+"/elsewhere").is(t, http.StatusNotFound)

	// The first of many requests fetches a token, and the others fetch none.
	each(200, func(int) { awaitHealth(t, site, http.StatusOK) })
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
			// DOKU knows another key of the merchant.
			config := strings.Replace(env.caddyfile(options{}), "{env.DOKU_PRIVATE_KEY}", doktest.Path(t, doktest.DOKUKey), 1)
			config = strings.Replace(config, "doku_public_key {env.DOKU_PUBLIC_KEY}\n", "", 1)
			config, _, _ = strings.Cut(config, env.inward+" {")
			config += fmt.Sprintf("%s {\n respond 404\n}\n%s {\n doku_health {\n token %s\n }\n}\n", env.inward, site, mode)
			env.run(t, config, site)
			want := http.StatusOK
			if mode == "required" {
				want = http.StatusServiceUnavailable
			}
			started := time.Now()
			awaitHealth(t, site, want, `"token":"refused"`)
			get(t, http.MethodGet, site+"/livez").is(t, http.StatusOK)
			each(100, func(int) { awaitHealth(t, site, want) })
			requests := 0
			for _, e := range env.doku.Exchanges() {
				if e.Target == tokenPath {
					requests++
				}
			}
			// After each refusal, the sidecar rests for a second or more.
			if most := 4 + int(time.Since(started).Seconds()); requests > most {
				t.Errorf("DOKU got %d token requests, expected %d at most", requests, most)
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
		awaitHealth(t, site, http.StatusOK, `"inbox":"ok"`)
		eventually(t, func() answer { return get(t, http.MethodGet, env.admin+"/doku/accounts") }, `"inbox": "ok"`)
		var last answer
		n := 0
		eventually(t, func() answer { // when it is full to the brim
			for range 20 {
				n++
				env.notify(t, simulator.Outgoing{Body: paymentTo(fmt.Sprint(n), fmt.Sprint("P-", n, strings.Repeat("x", 2000)))})
			}
			last = get(t, http.MethodGet, site+"/readyz")
			return last
		}, `"inbox":"not_ready"`)
		last.is(t, http.StatusServiceUnavailable, `"store":"ok"`)
		env.log.Await(t, `"check":"inbox"`, 1)
	})
	t.Run("Redis", func(t *testing.T) {
		t.Parallel()
		redis := doktest.StartRedis(t)
		_, site := withHealth(t, "{\n store reported\n}", options{global: "store redis " + redis.URL, inbox: "{\n}"})
		awaitHealth(t, site, http.StatusOK, `"inbox":"ok"`)
		redis.Kill()
		awaitHealth(t, site, http.StatusServiceUnavailable, `"inbox":"not_ready"`)
	})
}

func TestASidecarWhoseStoreIsAwayIsNotReady(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"refuse", "continue"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			redis := doktest.StartRedis(t)
			env, site := withHealth(t, "", options{global: "store redis " + redis.URL + "\non_store_error " + policy})
			awaitHealth(t, site, http.StatusOK, `"store":"ok"`)
			accounts := func() answer { return get(t, http.MethodGet, env.admin+"/doku/accounts") }
			eventually(t, accounts, `"ok": true`)
			accounts().is(t, http.StatusOK, `"type": "redis"`)
			redis.Kill()
			want := map[string]int{"refuse": http.StatusServiceUnavailable, "continue": http.StatusOK}[policy]
			awaitHealth(t, site, want, `"store":"away"`)
			eventually(t, accounts, `"error": "the store failed`)
			accounts().is(t, http.StatusOK, `"ok": false`)
			if policy == "refuse" {
				env.log.Await(t, `"check":"store","reason":"away"`, 1)
			}
			redis.Start(t)
			awaitHealth(t, site, http.StatusOK, `"store":"ok"`)
			if policy == "refuse" {
				env.awaitLine(t, `"level":"info"`, `doku_health","msg":"`)
			}
		})
	}
}

// runCommand runs a command of the binary against the sidecar, and returns its output.
func (env *testEnv) runCommand(t *testing.T, arguments ...string) (string, error) {
	t.Helper()
	arguments = append(arguments, "--address", strings.TrimPrefix(env.admin, "http://"))
	out, err := exec.CommandContext(t.Context(), binary(t), arguments...).CombinedOutput()
	return string(out), err
}

const accountsPath = "/doku/accounts" // of the admin API

// accountState is the state of an account in the admin API.
type accountState struct {
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

// onlyAccount returns the state of the only account, once its store has been checked.
func (env *testEnv) onlyAccount(t *testing.T) accountState {
	t.Helper()
	var state struct{ Accounts []accountState }
	doktest.Eventually(t, "an account whose store is checked", func() bool {
		got := get(t, http.MethodGet, env.admin+accountsPath)
		got.is(t, http.StatusOK)
		if err := json.Unmarshal([]byte(got.body), &state); err != nil {
			t.Fatalf("%v: %s", err, got.body)
		}
		return len(state.Accounts) == 1 && state.Accounts[0].Store.OK
	})
	return state.Accounts[0]
}

func TestTheStateOfASidecarCanBeAskedForAndATokenFetched(t *testing.T) {
	t.Parallel()
	env := start(t, options{global: "clock_correction on"})
	before := env.onlyAccount(t)
	if before.Token.Held || before.Clock.Known || env.doku.Tokens() != 0 {
		t.Fatalf("before the first call: %+v", before)
	}
	started := time.Now()
	env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	a := env.onlyAccount(t)
	if life := 899 - time.Since(started).Seconds(); a.Token.ExpiresInSeconds < life {
		t.Errorf("the token expires in %.0f s, expected %.0f s or more", a.Token.ExpiresInSeconds, life)
	}
	if a.Name != "default" || a.ClientID != clientID || !a.Token.Held || a.Token.LastFetch.Reason != "first" ||
		!a.Clock.Known || !a.Clock.Correcting ||
		!strings.HasPrefix(a.Keys.Merchant, "SHA256:") || len(a.Keys.DOKU) != 1 || a.Keys.Secrets != 1 || a.Store.Type != "memory" {
		t.Errorf("after it: %+v", a)
	}

	get(t, http.MethodPost, env.admin+accountsPath+"/default/token").is(t, http.StatusOK, `"reason": "forced"`)
	if n := env.doku.Tokens(); n != 2 {
		t.Errorf("DOKU issued %d tokens, expected a second one", n)
	}
	env.call(t, http.MethodPost, createPath, bill("2", "B", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
}

func TestTheAdminAPIAnswersMistakesWithAdvice(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	for _, test := range []struct {
		method, path string
		status       int
		texts        []string
	}{
		{http.MethodGet, accountsPath + "/kopi", 404, []string{`no account is called \"kopi\"; the accounts are: default`}},
		{http.MethodPost, accountsPath + "/kopi/token", 404, []string{"the accounts are: default"}},
		{http.MethodGet, accountsPath + "/default/token", 405, []string{"expected POST"}},
		{http.MethodGet, "/doku/nothing", 404, []string{"GET /doku/accounts", "GET /doku/inbox"}},
		{http.MethodPost, "/doku/inbox", 405, []string{"expected GET"}},
	} {
		t.Run(test.method+" "+test.path, func(t *testing.T) {
			get(t, test.method, env.admin+test.path).is(t, test.status, test.texts...)
		})
	}
	t.Run("without accounts", func(t *testing.T) {
		other := env.another(t)
		other.run(t, fmt.Sprintf("{\n admin %s\n persist_config off\n}\n%s, %s {\n respond 404\n}\n",
			strings.TrimPrefix(other.admin, "http://"), other.outward, other.inward))
		get(
			t, http.MethodGet, other.admin+accountsPath,
		).is(t, http.StatusNotFound, "the global option `doku { … }` with an account is needed")
	})
}

func TestTheCommandsShowTheStateAndFetchAToken(t *testing.T) {
	t.Parallel()
	env := start(t, options{global: "clock_correction on"})
	env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	a := env.onlyAccount(t)
	out, err := env.runCommand(t, "doku", "status")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, text := range []string{"ACCOUNT", "default", clientID, "s old", "memory, ", "corrected", a.Keys.Merchant, a.Keys.DOKU[0]} {
		if !strings.Contains(out, text) {
			t.Errorf("expected %q in\n%s", text, out)
		}
	}
	if out, err = env.runCommand(t, "doku", "status", "default", "--json"); err != nil || !json.Valid([]byte(out)) {
		t.Errorf("%v: %s", err, out)
	}
	if out, err = env.runCommand(t, "doku", "token", "refresh"); err != nil || !strings.Contains(out, "(forced)") {
		t.Errorf("%v: %s", err, out)
	}
	if n := env.doku.Tokens(); n != 2 {
		t.Errorf("DOKU issued %d tokens, expected a second one", n)
	}
	if out, err = env.runCommand(t, "doku", "token", "refresh", "kopi"); err == nil || !strings.Contains(out, "the accounts are: default") {
		t.Errorf("%v: %s", err, out)
	}
	t.Run("if DOKU refuses a token", func(t *testing.T) {
		env.doku.SetFault(tokenPath, &simulator.Fault{Status: 401, Body: `{"responseCode":"4017300","responseMessage":"Unauthorized"}`})
		if out, err := env.runCommand(t, "doku", "token", "refresh", "default"); err == nil || !strings.Contains(out, "4017300") {
			t.Errorf("%v: %s", err, out)
		}
		out, err := env.runCommand(t, "doku", "status")
		if err != nil || !strings.Contains(out, "TOKEN") || !strings.Contains(out, "1 in a row") || !strings.Contains(out, "s old") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("if the sidecar does not run", func(t *testing.T) {
		out, err := exec.CommandContext(t.Context(), binary(t), "doku", "status", "--address", doktest.FreeAddress(t)).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "--address") {
			t.Errorf("%v: %s", err, out)
		}
	})
}

// TestEachCallHasOneLineInTheLog: one at debug for each call that succeeds, one at warn with
// a hint for each that is not sent or is refused, and one at info for each token. The lines
// have the trace.
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
	for _, test := range []struct {
		level, logger, fields string // logger: the end of its name
		traced, hint          bool
	}{
		{"debug", "doku_sign", `"outcome":"succeeded","status":200`, true, false},
		{"debug", "doku_sign", `"outcome":"replayed","status":200`, true, false},
		{"warn", "doku_sign", `"reason":"body_not_json"`, true, true},
		{"info", "doku", `"reason":"first"`, false, false},
		{"debug", "doku_token", `"service":"73"`, true, false},
		{"debug", "doku_verify", `"outcome":"accepted","status":200`, true, false},
		{"debug", "doku_verify", `"outcome":"replayed","status":200`, true, false},
		{"warn", "doku_verify", `"reason":"token_invalid"`, true, true},
		{"warn", "doku_verify", `"app_status":404,"status":404,"reason":"app_refused"`, true, true},
		{"warn", "doku_sign", `"reason":"unauthorized"`, true, true},
	} {
		env.log.Await(t, test.fields, 1)
		var found []string
		for line := range strings.SplitSeq(env.log.String(), "\n") {
			if strings.Contains(line, test.logger+`","msg":"`) && strings.Contains(line, test.fields) {
				found = append(found, line)
			}
		}
		if len(found) != 1 || !strings.Contains(found[0], `"level":"`+test.level+`"`) ||
			test.traced && !strings.Contains(found[0], `"traceID":"`) || strings.Contains(found[0], `"hint":"`) != test.hint {
			t.Errorf("expected one line at %s from %s with %s (hint: %t), found %q", test.level, test.logger, test.fields, test.hint, found)
		}
	}
}
