package integration

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// reload gives the sidecar another configuration, as a user does.
func (env *testEnv) reload(t *testing.T, old, replacement string) {
	t.Helper()
	config := strings.Replace(env.config, old, replacement, 1)
	if config == env.config {
		t.Fatalf("%q is not in the configuration", old)
	}
	env.config = config
	if out, err := env.load(t, config); err != nil {
		t.Fatalf("reloading: %v: %s", err, out)
	}
}

// load loads a configuration into the sidecar, and returns the output of the command.
func (env *testEnv) load(t *testing.T, config string) (out []byte, err error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return exec.CommandContext(t.Context(), binary(t), "reload", "--config", file, "--adapter", "caddyfile").CombinedOutput()
}

func TestAReloadKeepsTokenAndLedger(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	paid := simulator.Outgoing{Body: payment("P-1"), ExternalID: "E-1"}
	env.notify(t, paid).expect(t, http.StatusOK, "2002500")

	env.reload(t, "timeout 2m", "timeout 2m\n channel_id SDK")
	env.call(t, http.MethodPost, createPath, bill("2", "B", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	if got := env.received(t).Header.Get("Channel-Id"); got != "SDK" {
		t.Fatalf("CHANNEL-ID %s, so the new configuration is not in use", got)
	}
	env.notify(t, paid).expect(t, http.StatusOK, "2002500")
	if tokens, calls := env.doku.Tokens(), len(env.app.seen()); tokens != 1 || calls != 1 {
		t.Errorf("DOKU issued %d tokens and the app was called %d times, expected one of each", tokens, calls)
	}
}

// TestReloadsUnderLoadLoseAndDoubleNothing makes calls in both directions while the
// configuration changes. A connection may break if it is opened in the very moment in
// which Caddy closes its old socket. Then the caller tries again with the same id, as DOKU
// and an app do.
func TestReloadsUnderLoadLoseAndDoubleNothing(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	token := env.token(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var made, broken atomic.Int32
	insist := func(call func() error) {
		deadline := time.Now().Add(doktest.Patience)
		for err := call(); err != nil; err = call() {
			broken.Add(1)
			if time.Now().After(deadline) {
				t.Errorf("connections do not stop breaking: %v", err)
				return
			}
		}
	}
	for client := range 4 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				made.Add(1)
				id := fmt.Sprintf("%d%06d", client+1, n)
				insist(func() error {
					got, err := env.try(t, http.MethodPost, createPath, bill(id, "T"+id, "1000.00", "C", ""), "Idempotency-Key", id)
					if err == nil {
						got.expect(t, http.StatusOK, "2002700")
					}
					return err
				})
				insist(func() error {
					got, err := env.doku.Call(
						t.Context(), simulator.Outgoing{URL: env.inward + paymentPath, Body: payment(id), ExternalID: id, Bearer: token},
					)
					if err == nil {
						answer{got.Status, got.Header, string(got.Body)}.expect(t, http.StatusOK, "2002500")
					}
					return err
				})
			}
		})
	}
	under := func() { // load
		before := made.Load()
		doktest.Eventually(t, "more calls", func() bool { return made.Load() >= before+8 })
	}
	channels := []string{"", "channel_id A\n", "channel_id B\n", "channel_id C\n"}
	for i := 1; i < len(channels); i++ {
		under()
		env.reload(t, "timeout 2m\n"+channels[i-1], "timeout 2m\n"+channels[i])
	}
	under()
	close(stop)
	wg.Wait()
	tokens, created, notified := env.doku.Tokens(), len(env.created()), len(env.app.seen())
	if tokens != 1 || created != int(made.Load()) || notified != int(made.Load()) {
		t.Errorf(
			"DOKU issued %d tokens and received %d calls, the app received %d, expected 1, and %d of each", tokens, created, notified, made.Load(),
		)
	}
	t.Logf("%d calls each way, %d broken connections", made.Load(), broken.Load())
}

// TestAReloadThatFailsChangesNothing loads configurations with a port that is in use. They
// fail only when everything else in them may have started.
func TestAReloadThatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	all, redis := startReplicas(t, 1, options{global: "on_store_error refuse\nclock_correction off"})
	env := all[0]
	env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", ""), "Idempotency-Key", "A").expect(t, http.StatusOK, "2002700")
	paid := simulator.Outgoing{Body: payment("P-1"), ExternalID: "E-1", Bearer: env.token(t)}
	env.notify(t, paid).expect(t, http.StatusOK, "2002500")

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	config := env.config + "\nhttp://" + taken.Addr().String() + " {\n respond ok\n}\n"
	for old, replacement := range map[string]string{
		"on_store_error refuse": "on_store_error continue", "clock_correction off": "clock_correction on", "{env.DOKU_SECRET_KEY}": "SK-another",
	} {
		config = strings.Replace(config, old, replacement, 1)
	}
	for range 8 { // Caddy starts its apps in any order
		if out, err := env.load(t, config); err == nil || !strings.Contains(string(out), "address already in use") {
			t.Fatalf("expected the reload to fail because of the port: %v: %s", err, out)
		}
	}

	// The old and the new records can be read.
	env.notify(t, paid).expect(t, http.StatusOK, "2002500")
	again := env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", ""), "Idempotency-Key", "A")
	again.expect(t, http.StatusOK, "2002700")
	if calls, created := len(env.app.seen()), len(env.created()); calls != 1 || created != 1 ||
		again.header.Get("X-Doku-Replayed") != "true" {
		t.Errorf("the app was called %d times and DOKU %d times, expected once each", calls, created)
	}
	another := env.another(t)
	another.run(t, another.caddyfile(options{global: "store redis " + redis.URL}))
	another.call(t, http.MethodPost, createPath, bill("2", "B", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	if n := env.doku.Tokens(); n != 1 {
		t.Errorf("DOKU issued %d tokens, expected that the one in Redis can be read", n)
	}
	// The clock is not corrected.
	env.checkCorrection(t, false, "3")
	// Nothing goes on without the store.
	redis.Kill()
	env.call(t, http.MethodPost, createPath, bill("4", "D", "1000.00", "C", ""), "Idempotency-Key", "D").
		expect(t, http.StatusServiceUnavailable, "5032700")
	env.notify(t, simulator.Outgoing{URL: env.inward + paymentPath, Body: payment("P-2"), ExternalID: "E-2", Bearer: paid.Bearer}).
		expect(t, http.StatusInternalServerError, "5002500")
}

func TestAReloadWithOtherCredentialsStartsClean(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	env.reload(t, "client_id {env.DOKU_CLIENT_ID}", "client_id BRN-9")
	env.call(t, http.MethodPost, createPath, bill("2", "B", "1000.00", "C", "")).expect(t, http.StatusServiceUnavailable, "5032700")
}

func TestAReloadSaysThatVariablesStayAsTheyWere(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "env")
	write := func(secret string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("A_SECRET="+secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(secretKey)
	config := strings.Replace(env.caddyfile(options{}), "secret_key {env.DOKU_SECRET_KEY}", "secret_key {env.A_SECRET}", 1)
	cmd := env.command(t, config)
	cmd.Args = append(cmd.Args, "--envfile", file)
	doktest.Start(t, env.log, cmd, strings.TrimPrefix(env.admin, "http://"))
	doktest.Eventually(t, "the admin API to know the configuration", func() bool {
		return strings.Contains(env.adminGet("/config/"), `"apps":{`)
	})
	write("SK-test-changed-0123456789")
	changed := strings.Replace(config, "timeout 2m", "timeout 3m", 1)
	if out, err := env.load(t, changed); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	env.awaitLine(t, `"level":"info"`, "a changed variable needs a restart", `"A_SECRET"`)
	env.awaitLine(t, `"level":"warn"`, "another value in its file than the one in use", `"A_SECRET"`, file)
	if strings.Contains(env.log.String(), "SK-test-changed") {
		t.Error("the secret is in the log")
	}
}
