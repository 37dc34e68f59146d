package integration

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// startReplicas starts sidecars that share a Redis.
func startReplicas(t *testing.T, n int, o options) ([]*testEnv, *doktest.Redis) {
	t.Helper()
	redis := doktest.StartRedis(t)
	o.global += "\nstore redis " + redis.URL
	first := newEnv(t)
	first.run(t, first.caddyfile(o))
	all := []*testEnv{first}
	for len(all) < n {
		env := first.another(t)
		env.run(t, env.caddyfile(o))
		all = append(all, env)
	}
	return all, redis
}

// each calls f for every number from 0 to n-1 at once, and waits.
func each(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

func TestSidecarsShareTokensKeysAndLedger(t *testing.T) {
	t.Parallel()
	all, _ := startReplicas(t, 3, options{})
	doku := all[0].doku
	each(30, func(i int) {
		all[i%3].call(t, http.MethodPost, createPath, bill(fmt.Sprint(100+i), fmt.Sprint("T", i), "1000.00", "C", "")).
			expect(t, http.StatusOK, "2002700")
	})
	if n := doku.Tokens(); n != 1 {
		t.Errorf("DOKU issued %d tokens, expected one for all", n)
	}
	t.Run("a token that DOKU no longer accepts is replaced once for all", func(t *testing.T) {
		doku.ExpireToken()
		each(30, func(i int) {
			all[i%3].call(t, http.MethodPost, createPath, bill(fmt.Sprint(200+i), fmt.Sprint("U", i), "1000.00", "C", "")).
				expect(t, http.StatusOK, "2002700")
		})
		if n := doku.Tokens(); n != 2 {
			t.Errorf("DOKU issued %d tokens, expected one more", n)
		}
	})
	t.Run("a repeat is known to all", func(t *testing.T) {
		before := len(all[0].created())
		each(9, func(i int) {
			all[i%3].call(t, http.MethodPost, createPath, bill("300", "V", "1000.00", "C", ""), "Idempotency-Key", "V").
				expect(t, http.StatusOK, "2002700")
		})
		if n := len(all[0].created()) - before; n != 1 {
			t.Errorf("DOKU received the call %d times", n)
		}
	})
	t.Run("a notification is handed to the app once", func(t *testing.T) {
		token := all[0].token(t) // any of them takes it
		before := len(all[0].app.seen())
		each(9, func(i int) {
			env := all[i%3]
			env.notify(t, simulator.Outgoing{URL: env.inward + paymentPath, Body: payment("P-1"), ExternalID: fmt.Sprint("E", i/3), Bearer: token}).
				expect(t, http.StatusOK, "2002500")
		})
		if n := len(all[0].app.seen()) - before; n != 1 {
			t.Errorf("the app was called %d times", n)
		}
	})
}

// checkLeases checks that no lease that a sidecar has left behind lasts for long.
func checkLeases(t *testing.T, redis *doktest.Redis, longest time.Duration) {
	t.Helper()
	for key, left := range redis.TTLs(t, "doku:lease:*") {
		if left < 0 || left > longest {
			t.Errorf("the lease %s ends in %s, expected %s at most", key, left, longest)
		}
	}
}

func TestASidecarKilledWhileFetchingATokenBlocksOthersForSeconds(t *testing.T) {
	t.Parallel()
	all, redis := startReplicas(t, 2, options{})
	open := all[0].gate.Shut(tokenPath)
	defer open()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if _, err := all[0].try(t, http.MethodPost, createPath, "{}"); err == nil {
			t.Error("the app got an answer from a dead sidecar")
		}
	}()
	all[0].gate.AwaitHeld(t, tokenPath, 1)
	all[0].sidecar.Kill()
	<-gone
	checkLeases(t, redis, 4*time.Second)
	open()
	all[1].call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
}

func TestWhenRedisDiesUnderLoad(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"refuse", "continue"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			all, redis := startReplicas(t, 1, options{global: "on_store_error " + policy})
			env := all[0]
			token := env.token(t)
			create := func(n int, header ...string) answer {
				return env.call(t, http.MethodPost, createPath, bill(fmt.Sprint(n), fmt.Sprint("T", n), "1000.00", "C", ""), header...)
			}
			notify := func(n int) answer {
				return env.notify(t, simulator.Outgoing{Body: payment(fmt.Sprint("P", n)), ExternalID: fmt.Sprint("E", n), Bearer: token})
			}
			create(1).expect(t, http.StatusOK, "2002700")

			// Calls without a key go on, whatever becomes of Redis meanwhile.
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				for n := 1000; ; n++ {
					select {
					case <-stop:
						return
					default:
						create(n).expect(t, http.StatusOK, "2002700")
					}
				}
			}()
			redis.Kill()
			keyed, notified := create(2, "Idempotency-Key", "2"), notify(2)
			if policy == "refuse" {
				keyed.expect(t, http.StatusServiceUnavailable, "5032700")
				notified.expect(t, http.StatusInternalServerError, "5002500")
			} else {
				keyed.expect(t, http.StatusOK, "2002700")
				notified.expect(t, http.StatusOK, "2002500")
			}
			redis.Start(t)
			eventually(t, func() answer { return notify(3) }, "2002500")
			eventually(t, func() answer { return create(3, "Idempotency-Key", "3") }, "2002700")
			close(stop)
			<-stopped
			// DOKU's retry of the refused notification gets through, and only that is new to the app.
			eventually(t, func() answer { return notify(2) }, "2002500")
			want := map[string]int{"refuse": 2, "continue": 3}[policy]
			if n := len(env.app.seen()); n != want {
				t.Errorf("the app was called %d times, expected %d", n, want)
			}
			if n := env.doku.Tokens(); n != 1 {
				t.Errorf("DOKU issued %d tokens", n)
			}
		})
	}
}

// hashedKey is a key of a value in Redis: no id can be read in it.
var hashedKey = regexp.MustCompile(`^doku:(value|contact):\{[0-9a-f]{32}\}:?[0-9A-Za-z]+$`)

func TestNothingInRedisCanBeRead(t *testing.T) {
	t.Parallel()
	all, redis := startReplicas(t, 1, options{})
	env := all[0]
	env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", ""), "Idempotency-Key", "A").expect(t, http.StatusOK, "2002700")
	env.notify(t, simulator.Outgoing{}).expect(t, http.StatusOK, "2002500")
	content := redis.Dump(t)
	if len(content) < 4 {
		t.Fatalf("expected a token, a call with its answer, and a notification, found %d values", len(content))
	}
	outputs := make(map[string]string)
	for key, value := range content {
		if !hashedKey.MatchString(key) {
			t.Errorf("key %s", key)
		}
		outputs["Redis at "+key] = value
		if strings.Contains(value, "2002") || strings.Contains(value, "{") && strings.Contains(value, "responseCode") {
			t.Errorf("%s can be read: %q", key, value)
		}
	}
	env.checkSecrets(t, outputs)
}

func TestARedisThatRefusesThePasswordEndsTheStart(t *testing.T) {
	t.Parallel()
	redis := doktest.StartRedis(t, "--requirepass", "benar", "--user", "kasir", "on", ">benar", "~other:*", "+@all")
	at := strings.TrimPrefix(redis.URL, "redis://")
	for _, test := range []struct{ name, url, word string }{
		{"a wrong password", "redis://:salah@" + at, "WRONGPASS"},
		{"no password", "redis://" + at, "NOAUTH"},
		{"a user that does not exist", "redis://siapa:benar@" + at, "WRONGPASS"},
		{"a user that may do too little", "redis://kasir:benar@" + at, "NOPERM"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			env := newEnv(t)
			config := env.caddyfile(options{global: "store redis " + test.url, inbox: "{\nname default\n}"})
			output := env.startFails(t, config)
			if !strings.Contains(output, test.word) || !strings.Contains(output, "the user or the password in its URL is wrong") ||
				strings.Contains(output, "salah") || strings.Contains(output, "benar") {
				t.Errorf("it said %s", output)
			}
			cmd := env.command(t, config)
			cmd.Args[1] = "validate"
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("validate, which asks no Redis: %v: %s", err, out)
			}
		})
	}
	t.Run("a database that is not there", func(t *testing.T) {
		t.Parallel()
		env := newEnv(t)
		config := env.caddyfile(options{global: "store redis redis://:benar@" + strings.TrimSuffix(at, "/0") + "/99"})
		output := env.startFails(t, config)
		if !strings.Contains(output, "Redis has no database of the number at the end of the URL") || strings.Contains(output, "benar") {
			t.Errorf("it said %s", output)
		}
		cmd := env.command(t, config)
		cmd.Args[1] = "validate"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("validate, which asks no Redis: %v: %s", err, out)
		}
	})
	t.Run("a reload keeps the configuration in use", func(t *testing.T) {
		t.Parallel()
		env := newEnv(t)
		env.run(t, env.caddyfile(options{global: "store redis redis://:benar@" + at}))
		env.call(t, http.MethodPost, createPath, bill("1", "T1", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
		out, err := env.load(t, env.caddyfile(options{global: "store redis redis://:salah@" + at}))
		if err == nil || !strings.Contains(string(out), "WRONGPASS") {
			t.Errorf("%v: the reload said %s", err, out)
		}
		env.call(t, http.MethodPost, createPath, bill("2", "T2", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	})
	t.Run("a Redis that does not answer is no error", func(t *testing.T) {
		t.Parallel()
		env := newEnv(t)
		env.run(t, env.caddyfile(options{global: "store redis " + doktest.SilentRedis(t)}))
		env.call(t, http.MethodPost, createPath, bill("1", "T1", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	})
}

func TestTheRedisClientLogsInJSONAsTheSidecarDoes(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	env.run(t, env.caddyfile(options{global: "store redis redis://" + doktest.FreeAddress(t)}))
	env.awaitLine(t, `"logger":"doku"`, `"msg":"the Redis client reports"`)
	for line := range strings.Lines(env.log.String()) {
		if strings.HasPrefix(line, "redis: ") {
			t.Errorf("a line of another form: %s", line)
		}
	}
}
