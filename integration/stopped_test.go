//go:build unix

package integration

import (
	"fmt"
	"maps"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

// stop is a sidecar that is stopped while payments are under way, and goes on later: as with
// a suspended machine, a debugger, or a machine without a free core.
type stop struct {
	policy   string
	sidecars int // with more than one, in Redis
	away     time.Duration
}

func (s stop) String() string {
	return fmt.Sprintf("%s, one of %d sidecars stops for %s", s.policy, s.sidecars, s.away)
}

// TestAStoppedSidecarLosesNothing stops a sidecar while it has payments at the app. It must
// go on where it was: each payment reaches the app once, unless another sidecar has had to
// take it for dead; then again with the same Idempotency-Key. Nothing hangs.
func TestAStoppedSidecarLosesNothing(t *testing.T) {
	t.Parallel()
	all := []stop{
		{"after_app", 1, 3 * time.Second},
		{"durable", 1, 13 * time.Second},
		{"durable", 2, 3 * time.Second},
		{"after_app", 2, 13 * time.Second},
	}
	if os.Getenv("DOKU_OUTAGES") != "" {
		all = nil
		for _, policy := range []string{"durable", "after_app"} {
			for _, seconds := range []int{1, 3, 6, 13, 30} {
				all = append(all, stop{policy, 1, time.Duration(seconds) * time.Second},
					stop{policy, 2, time.Duration(seconds) * time.Second})
			}
		}
	}
	for _, s := range all {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			s.run(t)
		})
	}
}

func (s stop) run(t *testing.T) {
	t.Helper()
	const payments = 24
	config := options{
		verify: "timeout 10m",
		inbox:  "{\n policy " + s.policy + "\n attempt_timeout 10m\n answer_within 10m\n}",
	}
	if s.sidecars > 1 {
		config.global = "store redis " + doktest.StartRedis(t, "--appendonly", "yes", "--appendfsync", "always").URL
	}
	all := []*testEnv{newEnv(t)}
	for len(all) < s.sidecars {
		all = append(all, all[0].another(t))
	}
	for _, env := range all {
		env.run(t, env.caddyfile(config))
	}
	app := &counted{takes: 500 * time.Millisecond, begun: make(map[string]int)}
	keys := make(map[string]map[string]bool) // by payment
	var mu sync.Mutex
	all[0].app.setAnswer(func(call appCall) (int, string) {
		id := paymentOf(call)
		mu.Lock()
		if keys[id] == nil {
			keys[id] = make(map[string]bool)
		}
		keys[id][call.header.Get("Idempotency-Key")] = true
		mu.Unlock()
		return app.answer(call)
	})
	token := all[0].token(t)
	load := sendUntilTaken(t, all, token, payments, 8)
	doktest.Eventually(t, "payments at the app", func() bool { return len(app.calls()) >= 3 })
	began := time.Now()
	all[0].sidecar.Pause(t)
	time.Sleep(s.away)
	all[0].sidecar.Resume(t)
	dead := s.sidecars > 1 && time.Since(began) > 5*time.Second // a lease is 10 s, and half of it may have passed
	load.Wait()
	doktest.Eventually(t, "the inbox to be empty", func() bool {
		waiting, _ := all[len(all)-1].kept(t)
		return waiting == 0
	})
	again := app.calls()
	if len(again) != payments {
		t.Errorf("the app got %d of %d payments", len(again), payments)
	}
	maps.DeleteFunc(again, func(_ string, n int) bool { return n == 1 })
	if len(again) > 0 && !dead {
		t.Errorf("the app got %d of %d payments more than once: %v", len(again), payments, again)
	}
	for id, of := range keys {
		if len(of) != 1 {
			t.Errorf("%s came with the keys %v", id, of)
		}
	}
	t.Logf("%d payments, lost: 0; again, with the same key: %d", payments, len(again))
}
