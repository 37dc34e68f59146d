package inbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

// app is the app of a merchant. It records the calls that it gets.
type app struct {
	mu     sync.Mutex
	answer func(callstore.Call) (store.Answer, error) // nil: it takes all calls
	calls  []callstore.Call
	inside map[string]int // calls under way, by ordering key
	t      *testing.T
}

func (a *app) deliver(ctx context.Context, c callstore.Call) (store.Answer, error) {
	a.mu.Lock()
	a.calls = append(a.calls, c)
	if a.inside == nil {
		a.inside = make(map[string]int)
	}
	if a.inside[c.OrderingKey]++; a.inside[c.OrderingKey] > 1 {
		a.t.Errorf("two calls of %s at the same time", c.OrderingKey)
	}
	answer := a.answer
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.inside[c.OrderingKey]--
	}()
	if answer == nil {
		return thanks, nil
	}
	type result struct {
		answer store.Answer
		err    error
	}
	done := make(chan result, 1)
	go func() {
		got, err := answer(c)
		done <- result{got, err}
	}()
	select {
	case r := <-done:
		return r.answer, r.err
	case <-ctx.Done():
		return store.Answer{}, ctx.Err()
	}
}

func (a *app) set(answer func(callstore.Call) (store.Answer, error)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = answer
}

// given returns the calls that the app got, in order, as "key/attempt".
func (a *app) given() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var keys []string
	for _, c := range a.calls {
		keys = append(keys, fmt.Sprintf("%s/%d", c.Key, c.Attempts))
	}
	return keys
}

func down(callstore.Call) (store.Answer, error) {
	return store.Answer{}, errors.New("connection refused")
}

func status(code int) func(callstore.Call) (store.Answer, error) {
	return func(callstore.Call) (store.Answer, error) { return store.Answer{Status: code}, nil }
}

// answering returns an app that gives one answer.
func answering(code int, body string) func(callstore.Call) (store.Answer, error) {
	return func(callstore.Call) (store.Answer, error) { return store.Answer{Status: code, Body: []byte(body)}, nil }
}

// saying returns an app that answers HTTP 200 with a responseCode.
func saying(code string) func(callstore.Call) (store.Answer, error) {
	return answering(200, `{"responseCode":"`+code+`"}`)
}

// env is an inbox with its app.
type env struct {
	*Inbox
	app    *app
	store  callstore.Store
	events map[Event]int
	mu     sync.Mutex
	log    *lockedWriter
}

func newEnv(t *testing.T, s callstore.Store, leases store.Store) *env {
	t.Helper()
	e := &env{app: &app{t: t}, store: s, events: make(map[Event]int), log: new(lockedWriter)}
	e.Inbox = New(Config{
		Name: "box", Store: s, Slots: NewSlots(leases, 10*time.Second), Deliver: e.app.deliver,
		AnswerWithin: 20 * time.Second, AttemptTimeout: 10 * time.Second,
		MaxAge: 72 * time.Hour, RetainAcked: 48 * time.Hour, Concurrency: 4,
		Now: time.Now, Logger: slog.New(slog.NewTextHandler(e.log, nil)),
		Observe: func(event Event, _ callstore.Call) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.events[event]++
		},
	})
	return e
}

type lockedWriter struct {
	mu sync.Mutex
	w  strings.Builder
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func (l *lockedWriter) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.String()
}

// run starts the deliveries. The caller must stop them.
func (e *env) run(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// now returns a call that is received and due now.
func now(key, orderingKey string) callstore.Call {
	c := call(key, orderingKey)
	c.Received, c.Due = time.Now(), time.Now()
	return c
}

// inBubbleWith runs a test within synctest, with a file of calls and a store of leases.
func inBubbleWith(t *testing.T, test func(t *testing.T, calls *callstore.Bolt, leases store.Store)) {
	t.Helper()
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		calls := openBolt(t, folder)
		leases := store.NewMemory()
		defer func() { _, _ = calls.Close(), leases.Close() }()
		test(t, calls, leases)
	})
}

// inBubble runs a test within synctest, with an inbox in a file that is at work.
func inBubble(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	inBubbleWith(t, func(t *testing.T, calls *callstore.Bolt, leases store.Store) {
		t.Helper()
		e := newEnv(t, calls, leases)
		defer e.run(t.Context())()
		test(t, e)
	})
}

// await waits in real time until at most so many calls wait in the inbox.
func (e *env) await(t *testing.T, most int) {
	t.Helper()
	for deadline := time.Now().Add(patience); e.waiting(t) > most; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d calls still wait, expected %d at most; the log says %s", e.waiting(t), most, e.log)
		}
	}
}

// patience is how long a test waits for an event in real time. It only matters if the
// event does not come.
const patience = 5 * time.Minute

func (e *env) waiting(t *testing.T) int {
	t.Helper()
	s, err := e.store.Stats(t.Context(), "box")
	if err != nil {
		t.Fatal(err)
	}
	return s.Waiting
}

func openBolt(t testing.TB, folder string) *callstore.Bolt {
	t.Helper()
	b, err := callstore.OpenBolt(callstore.BoltConfig{Folder: folder, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// openRedis returns the store in a Redis, for the account "account" with a secret; and
// the store of leases in the same Redis, without and with the scope of the account.
func openRedis(t testing.TB, cfg store.RedisConfig, secret string) (*callstore.Redis, *store.Redis, *store.Scoped) {
	t.Helper()
	r, err := store.NewRedis(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	scope := store.Scope(r, "account")
	if err := scope.SetSecrets([]byte(secret)); err != nil {
		t.Fatal(err)
	}
	return callstore.NewRedis(r, func(string) *store.Scoped { return scope }, "account"), r, scope
}

// newRedis returns the store in a server of its own, and the account's scope in it.
func newRedis(t testing.TB) (*callstore.Redis, *store.Scoped) {
	t.Helper()
	r, _, scope := openRedis(t, store.RedisConfig{URL: doktest.StartRedis(t).URL}, "secret")
	return r, scope
}

var (
	epoch  = time.Date(2024, 3, 26, 16, 0, 0, 0, time.UTC)
	thanks = store.Answer{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(`{"responseCode":"2002500"}`)}
)

// call returns a call of the service 25 (virtual account payment).
func call(key, orderingKey string) callstore.Call {
	return callstore.Call{
		Key: key, Inbox: "box", Account: "account", OrderingKey: orderingKey, Service: "25", ExternalID: "E-" + key, PaymentID: "P-" + key,
		Host: "merchant.example", Target: "/v1.1/transfer-va/payment?x=%2F",
		Header: http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": {key}},
		Body:   []byte(`{"paymentRequestId":"` + key + `"}`), Received: epoch, Due: epoch,
	}
}
