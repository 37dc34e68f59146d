package integration

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// TestTheNumberOfAnAttemptCountsThoseOnRecord kills sidecars while the app has a
// notification. Those attempts are not on record, so the next one has the same number.
func TestTheNumberOfAnAttemptCountsThoseOnRecord(t *testing.T) {
	t.Parallel()
	for name, store := range inboxStores {
		t.Run("durable, "+name, func(t *testing.T) {
			t.Parallel()
			o := options{global: store(t), inbox: "{\n policy durable\n folder " + t.TempDir() + "\n}"}
			if o.global != "" {
				o.inbox = "{\n policy durable\n}"
			}
			env := newEnv(t)
			var n atomic.Int32
			hang := make(chan struct{})
			t.Cleanup(func() { close(hang) })
			env.app.setAnswer(func(call appCall) (int, string) {
				switch n.Add(1) {
				case 1, 3:
					<-hang // until the sidecar is killed
				case 2:
					return answering(http.StatusServiceUnavailable)(call)
				}
				return answering(http.StatusOK)(call)
			})
			current := env
			running := current.startAlone(t, o)
			current.notify(t, simulator.Outgoing{Body: payment("P-1")}).expect(t, http.StatusOK, "2002500")
			for _, calls := range []int{1, 3} {
				doktest.Eventually(t, "the app to have the notification", func() bool { return len(env.app.seen()) == calls })
				running.Kill()
				current = env.another(t)
				running = current.startAlone(t, o)
			}
			doktest.Eventually(t, "the notification's delivery", func() bool { waiting, _ := current.kept(t); return waiting == 0 })
			env.expectAttempts(t, "1", "1", "2", "2")
		})
	}
	t.Run("after_app, while DOKU waits", func(t *testing.T) {
		t.Parallel()
		o := options{inbox: "{\n folder " + t.TempDir() + "\n}"}
		env := newEnv(t)
		var n atomic.Int32
		hang := make(chan struct{})
		t.Cleanup(func() { close(hang) })
		env.app.setAnswer(func(call appCall) (int, string) {
			switch n.Add(1) {
			case 1:
				return answering(http.StatusServiceUnavailable)(call)
			case 2:
				<-hang
			}
			return answering(http.StatusOK)(call)
		})
		running := env.startAlone(t, o)
		token := env.token(t)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = env.doku.Call(t.Context(), simulator.Outgoing{URL: env.inward + paymentPath, Bearer: token, Body: payment("P-1")})
		}()
		doktest.Eventually(t, "the app to have the notification again", func() bool { return len(env.app.seen()) == 2 })
		running.Kill()
		<-ended
		next := env.another(t)
		next.startAlone(t, o)
		next.notify(t, simulator.Outgoing{Body: payment("P-1")}).expect(t, http.StatusOK, "2002500")
		env.expectAttempts(t, "1", "2", "1")
	})
}

// startAlone starts a sidecar that the test may kill.
func (env *testEnv) startAlone(t *testing.T, o options) *doktest.Process {
	t.Helper()
	return doktest.Start(t, env.log, env.command(t, env.caddyfile(o)),
		strings.TrimPrefix(env.inward, "http://"), strings.TrimPrefix(env.admin, "http://"))
}

// expectAttempts checks the numbers of the attempts that the app got, with one key.
func (env *testEnv) expectAttempts(t *testing.T, numbers ...string) {
	t.Helper()
	var got, keys []string
	for _, call := range env.app.seen() {
		got = append(got, call.header.Get("Doku-Delivery-Attempt"))
		keys = append(keys, call.header.Get("Idempotency-Key"))
	}
	if strings.Join(got, " ") != strings.Join(numbers, " ") {
		t.Errorf("the attempts have the numbers %v, expected %v", got, numbers)
	}
	for _, key := range keys {
		if key == "" || key != keys[0] {
			t.Errorf("the attempts have the keys %q", keys)
		}
	}
}
