//go:build unix

package integration

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// outage is a Redis that is away while payments are under way.
type outage struct {
	policy string
	kind   string        // how Redis is away
	away   time.Duration // for how long
	app    time.Duration // how long the app takes for a call
	load   int           // payments at once
	lanes  int           // virtual accounts that they are for
}

func (o outage) String() string {
	return fmt.Sprintf("%s, Redis is %s for %s, the app takes %s, %d payments of %d virtual accounts",
		o.policy, o.kind, o.away, o.app, o.load, o.lanes)
}

// outages are how Redis goes away and comes back.
var outages = map[string]struct {
	begin, end func(*testing.T, *doktest.Redis)
}{
	"restarted": {
		func(t *testing.T, r *doktest.Redis) { t.Helper(); r.Stop(t) }, func(t *testing.T, r *doktest.Redis) { t.Helper(); r.Start(t) },
	},
	"killed": {
		func(_ *testing.T, r *doktest.Redis) { r.Kill() }, func(t *testing.T, r *doktest.Redis) { t.Helper(); r.Start(t) },
	},
	"silent": {
		func(t *testing.T, r *doktest.Redis) { t.Helper(); r.Pause(t) }, func(t *testing.T, r *doktest.Redis) { t.Helper(); r.Resume(t) },
	},
	"silent again and again": {
		func(t *testing.T, r *doktest.Redis) { t.Helper(); r.Pause(t) },
		func(t *testing.T, r *doktest.Redis) {
			t.Helper()
			for range 3 {
				r.Resume(t)
				time.Sleep(time.Second)
				r.Pause(t)
				time.Sleep(4 * time.Second)
			}
			r.Resume(t)
		},
	},
}

// TestAnOutageOfRedisDoublesNothing has Redis away for some seconds while two sidecars have
// payments at the app. Nobody dies, so the app must get each payment once: the sidecar that
// has the app's yes must record it before another takes the payment over.
func TestAnOutageOfRedisDoublesNothing(t *testing.T) {
	t.Parallel()
	all := []outage{
		{"durable", "restarted", 6 * time.Second, 1500 * time.Millisecond, 24, 24},
		{"after_app", "restarted", 6 * time.Second, 1500 * time.Millisecond, 24, 24},
		{"durable", "silent", 13 * time.Second, 1500 * time.Millisecond, 24, 24},
		{"after_app", "silent", 13 * time.Second, 1500 * time.Millisecond, 24, 24},
		{"durable", "silent again and again", 4 * time.Second, 1500 * time.Millisecond, 24, 24},
		{"durable", "killed", 13 * time.Second, 16 * time.Second, 24, 12},
		{"after_app", "killed", 3 * time.Second, 4 * time.Second, 24, 12},
	}
	if os.Getenv("DOKU_OUTAGES") != "" {
		all = nil
		for _, policy := range []string{"durable", "after_app"} {
			for kind := range outages {
				for _, seconds := range []int{1, 3, 6, 10, 13, 30} {
					away := time.Duration(seconds) * time.Second
					for _, app := range []time.Duration{200 * time.Millisecond, 1500 * time.Millisecond, 12 * time.Second} {
						all = append(all, outage{policy, kind, away, app, 24, 24}, outage{policy, kind, away, app, 60, 7})
					}
				}
			}
		}
	}
	for _, o := range all {
		t.Run(o.String(), func(t *testing.T) {
			t.Parallel()
			o.run(t)
		})
	}
}

// counted is an app that takes its time and every payment.
type counted struct {
	takes time.Duration

	mu    sync.Mutex
	begun map[string]int // by payment
}

func (c *counted) answer(call appCall) (int, string) {
	id := paymentOf(call)
	c.mu.Lock()
	c.begun[id]++
	c.mu.Unlock()
	time.Sleep(c.takes)
	return answering(http.StatusOK)(call)
}

// calls returns how often the app was called for each payment.
func (c *counted) calls() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.begun)
}

// startTwo starts two sidecars on a Redis that keeps everything on disk.
func (o outage) startTwo(t *testing.T) (all [2]*testEnv, redis *doktest.Redis) {
	t.Helper()
	redis = doktest.StartRedis(t, "--appendonly", "yes", "--appendfsync", "always")
	config := options{
		global: "store redis " + redis.URL,
		verify: "timeout 10m", // no attempt may end because DOKU has waited long enough: the app would get the call again
		inbox:  "{\n policy " + o.policy + "\n attempt_timeout 10m\n answer_within 10m\n}",
	}
	first := newEnv(t)
	for i, env := range []*testEnv{first, first.another(t)} {
		env.run(t, env.caddyfile(config))
		all[i] = env
	}
	return all, redis
}

// sendUntilTaken sends payments for some virtual accounts at once. DOKU tries each again until
// it gets a yes, whichever sidecar it comes to. The group ends when all have got theirs.
func sendUntilTaken(t *testing.T, all []*testEnv, token string, payments, lanes int) *sync.WaitGroup {
	t.Helper()
	load := new(sync.WaitGroup)
	for n := range payments {
		load.Go(func() {
			id := fmt.Sprint("P-", n)
			call := simulator.Outgoing{Bearer: token, ExternalID: fmt.Sprint("E-", n), Body: paymentTo(fmt.Sprint(1000+n%lanes), id)}
			for try := n; ; try++ {
				call.URL = all[try%len(all)].inward + paymentPath
				if got, err := all[0].doku.Call(t.Context(), call); err == nil && got.OK() || t.Context().Err() != nil {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
	return load
}

func (o outage) run(t *testing.T) {
	t.Helper()
	all, redis := o.startTwo(t)
	app := &counted{takes: o.app, begun: make(map[string]int)}
	all[0].app.setAnswer(app.answer)
	token := all[0].token(t)
	load := sendUntilTaken(t, all[:], token, o.load, o.lanes)
	doktest.Eventually(t, "payments at the app", func() bool { return len(app.calls()) >= o.lanes/3 })
	outages[o.kind].begin(t, redis)
	time.Sleep(o.away)
	outages[o.kind].end(t, redis)
	load.Wait()
	doktest.EventuallyWithin(t, doktest.Patience+time.Duration(o.load)*o.app, "the inbox to be empty", func() bool {
		waiting, _ := all[0].kept(t)
		return waiting == 0
	})
	doubled := app.calls()
	if len(doubled) != o.load {
		t.Errorf("the app got %d of %d payments", len(doubled), o.load)
	}
	maps.DeleteFunc(doubled, func(_ string, n int) bool { return n == 1 })
	if len(doubled) > 0 {
		t.Errorf("the app got %d of %d payments more than once: %v", len(doubled), o.load, doubled)
	}
}
