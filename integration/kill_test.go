package integration

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// kills is how often each run of TestNoKillLosesAPayment kills a sidecar:
// DOKU_KILLS times, or a few.
func kills(t *testing.T) int {
	t.Helper()
	text := os.Getenv("DOKU_KILLS")
	if text == "" {
		return 6
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("DOKU_KILLS: %v", err)
	}
	return n
}

// books record what happened to notifications, by payment.
type books struct {
	t        *testing.T
	afterApp bool        // DOKU gets its 2xx only when the app's is on record
	healthy  atomic.Bool // the app takes every call
	mu       sync.Mutex

	acknowledged map[string]bool   // DOKU has got 2xx
	taken        map[string]int    // how often the app has answered 2xx
	keys         map[string]string // Idempotency-Key
	recorded     map[string]bool   // by Idempotency-Key: a sidecar has logged that the app's 2xx is on record
	repeated     int               // calls of the app after a 2xx that no sidecar has logged as recorded
	calls        int
}

// recordLogged finds the log line of a sidecar that has recorded the app's 2xx: the only
// one at level info with the key of a notification.
var recordLogged = regexp.MustCompile(`"level":"info".*"key":"([0-9a-f]{32})"`)

// Write reads a sidecar's log as it is written.
func (b *books) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range bytes.Lines(p) {
		if found := recordLogged.FindSubmatch(line); found != nil {
			b.recorded[string(found[1])] = true
		}
	}
	return len(p), nil
}

// app answers as the app: slowly at times and, until it is healthy, with an error to the
// first call and to every tenth or so.
func (b *books) app(call appCall) (int, string) {
	id := paymentOf(call)
	key := call.header.Get("Idempotency-Key")
	b.mu.Lock()
	b.calls++
	first := b.calls == 1
	if known := b.keys[id]; known != "" && known != key {
		b.t.Errorf("%s came with the key %s, then with %s", id, known, key)
	}
	b.keys[id] = key
	switch {
	case b.recorded[key]:
		b.t.Errorf("%s: the app was called though a sidecar had logged that its 2xx was on record", id)
	case b.afterApp && b.acknowledged[id]:
		b.t.Errorf("%s: the app was called though DOKU had got its 2xx", id)
	case b.taken[id] > 0:
		b.repeated++
	}
	b.mu.Unlock()
	time.Sleep(time.Duration(rand.IntN(8)) * time.Millisecond)
	if first || !b.healthy.Load() && rand.IntN(10) == 0 {
		return http.StatusServiceUnavailable, ""
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken[id]++
	return http.StatusOK, `{"responseCode":"2002500","responseMessage":"Successful"}`
}

// paymentOf returns the id of the payment that a call tells of.
func paymentOf(call appCall) string {
	id, _, _ := strings.Cut(call.body[strings.Index(call.body, `"paymentRequestId":"`)+20:], `"`)
	return id
}

func (b *books) acknowledge(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.acknowledged[id] = true
}

// handled returns how many calls the app has got and how many of DOKU's were acknowledged.
func (b *books) handled() (calls, acknowledged int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls, len(b.acknowledged)
}

// lost returns the payments that were acknowledged, and not taken.
func (b *books) lost() (ids []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range b.acknowledged {
		if b.taken[id] == 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// TestNoKillLosesAPayment kills sidecars at random moments under load. Everything that was
// acknowledged to DOKU must be delivered, and the app must not be called after its 2xx was
// on record. Repeats because of a kill between the app's answer and the record of it are
// counted and logged.
func TestNoKillLosesAPayment(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"after_app", "durable"} {
		t.Run(policy+", one sidecar, in a file", func(t *testing.T) {
			t.Parallel()
			env := newEnv(t)
			env.killUnderLoad(
				t, policy, options{inbox: fmt.Sprintf("{\n policy %s\n answer_within 200ms\n folder %s\n}", policy, t.TempDir())}, 1,
			)
		})
		t.Run(policy+", two sidecars, in Redis", func(t *testing.T) {
			t.Parallel()
			env := newEnv(t)
			env.killUnderLoad(t, policy, options{
				global: "store redis " + doktest.StartRedis(t).URL,
				inbox:  fmt.Sprintf("{\n policy %s\n answer_within 200ms\n}", policy),
			}, 2)
		})
	}
}

// killUnderLoad runs sidecars under load and kills them, one after the other. It waits for
// some calls before each kill, so that there is load on a slow machine too.
func (env *testEnv) killUnderLoad(t *testing.T, policy string, o options, sidecars int) {
	t.Helper()
	b := &books{
		t: t, afterApp: policy == "after_app", acknowledged: make(map[string]bool), taken: make(map[string]int),
		keys: make(map[string]string), recorded: make(map[string]bool),
	}
	env.app.setAnswer(b.app)
	env.app.forget()
	all := make([]*testEnv, sidecars)
	running := make([]*doktest.Process, sidecars)
	startSidecar := func(i int) {
		running[i] = doktest.Start(t, all[i].log, all[i].command(t, all[i].caddyfile(o)), strings.TrimPrefix(all[i].inward, "http://"))
	}
	for i := range all {
		all[i] = env.another(t)
		all[i].log = doktest.Watched(b)
		all[i].variables = []string{"OTEL_TRACES_EXPORTER=none"}
		startSidecar(i)
	}
	ctx, stop := context.WithCancel(t.Context())
	wait := env.sendLoad(ctx, t, b, all)
	for range kills(t) {
		victim := rand.IntN(sidecars)
		calls, acknowledged := b.handled()
		more := 1 + rand.IntN(30)
		doktest.Eventually(t, "calls before a kill", func() bool {
			nowCalls, nowAcknowledged := b.handled()
			return nowCalls >= calls+more && nowAcknowledged > acknowledged
		})
		time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond) // at any moment of a call
		running[victim].Kill()
		startSidecar(victim)
	}
	stop()
	sent := wait()
	b.healthy.Store(true) // otherwise the rest would wait for a second after each error
	doktest.EventuallyWithin(t, doktest.Patience+time.Duration(kills(t))*time.Second, "the inbox to be empty", func() bool {
		waiting, _ := all[0].kept(t)
		return waiting == 0
	})
	b.check(sent)
}

// sendLoad makes calls to sidecars from 8 clients until ctx ends. wait waits for the last ones,
// and returns how many payments there were.
func (env *testEnv) sendLoad(ctx context.Context, t *testing.T, b *books, all []*testEnv) (wait func() int32) {
	t.Helper()
	token := all[0].token(t) // good for all, and after each start: it carries its own proof
	var load sync.WaitGroup
	var sent atomic.Int32
	for client := range 8 {
		load.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				id := fmt.Sprintf("P-%d-%d", client, n)
				// Three virtual accounts each, for some order to be kept.
				call := simulator.Outgoing{Bearer: token, ExternalID: id, Body: paymentTo(fmt.Sprint(client, n%3), id)}
				sent.Add(1)
				for try := range 3 { // DOKU tries again, whichever sidecar it comes to
					call.URL = all[rand.IntN(len(all))].inward + paymentPath
					got, err := env.doku.Call(t.Context(), call)
					if err == nil && got.OK() {
						b.acknowledge(id)
						break
					}
					time.Sleep(time.Duration(try*rand.IntN(30)) * time.Millisecond)
				}
			}
		})
	}
	return func() int32 {
		load.Wait()
		return sent.Load()
	}
}

// check checks the books when nothing is under way any more.
func (b *books) check(sent int32) {
	b.t.Helper()
	if lost := b.lost(); len(lost) > 0 {
		b.t.Errorf("%d payments were acknowledged and never delivered: %v", len(lost), lost)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.acknowledged) == 0 || len(b.recorded) == 0 {
		b.t.Errorf(
			"%d were acknowledged, and %d delivered from the inbox: the test proves too little", len(b.acknowledged), len(b.recorded),
		)
	}
	b.t.Logf("%d kills; %d notifications, %d acknowledged, %d taken by the app in %d calls, %d of them from the inbox; "+
		"acknowledged and not delivered: 0; calls after a recorded 2xx: 0; "+
		"repeated, with the same key, because a kill fell between answer and record: %d",
		kills(b.t), sent, len(b.acknowledged), len(b.taken), b.calls, len(b.recorded), b.repeated)
}
