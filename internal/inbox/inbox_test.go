package inbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

// app is a merchant's app that is up, or answers otherwise, and takes note of what
// it has been given.
type app struct {
	mu     sync.Mutex
	answer func(Call) (store.Answer, error) // nil: it takes everything
	calls  []Call
	inside map[string]int // calls under way, by lane
	t      *testing.T
}

func (a *app) deliver(ctx context.Context, c Call) (store.Answer, error) {
	a.mu.Lock()
	a.calls = append(a.calls, c)
	if a.inside == nil {
		a.inside = make(map[string]int)
	}
	if a.inside[c.OrderingKey]++; a.inside[c.OrderingKey] > 1 {
		a.t.Errorf("two calls of lane %s at once", c.OrderingKey)
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

func (a *app) set(answer func(Call) (store.Answer, error)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = answer
}

// taken returns the keys that it was given, in order, as "key/attempt".
func (a *app) given() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var keys []string
	for _, c := range a.calls {
		keys = append(keys, fmt.Sprintf("%s/%d", c.Key, c.Attempts))
	}
	return keys
}

func down(Call) (store.Answer, error) { return store.Answer{}, errors.New("connection refused") }

func status(code int) func(Call) (store.Answer, error) {
	return func(Call) (store.Answer, error) { return store.Answer{Status: code}, nil }
}

// saying is an app that answers HTTP 200, whatever its body says.
func saying(code string) func(Call) (store.Answer, error) {
	return func(Call) (store.Answer, error) {
		return store.Answer{Status: 200, Body: []byte(`{"responseCode":"` + code + `"}`)}, nil
	}
}

// env is an inbox with its app, in a bubble of synctest.
type env struct {
	*Inbox
	app    *app
	store  Store
	events map[Event]int
	mu     sync.Mutex
	log    *lockedWriter
}

func newEnv(t *testing.T, s Store, leases store.Store) *env {
	t.Helper()
	e := &env{app: &app{t: t}, store: s, events: make(map[Event]int), log: new(lockedWriter)}
	e.Inbox = New(Config{
		Name: "box", Store: s, Slots: NewSlots(leases, 10*time.Second), Deliver: e.app.deliver,
		AnswerWithin: 20 * time.Second, AttemptTimeout: 10 * time.Second, MaxAge: 72 * time.Hour, RetainAcked: 48 * time.Hour, Concurrency: 4,
		Now: time.Now, Logger: slog.New(slog.NewTextHandler(e.log, nil)),
		Observe: func(event Event, _ Call) {
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

// run begins the deliveries and returns what ends them.
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

// now is a call that has just come in.
func now(key, orderingKey string) Call {
	c := call(key, orderingKey)
	c.Received, c.Due = time.Now(), time.Now()
	return c
}

// inBubble runs a test with an inbox on a file, on a clock of its own.
func inBubble(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := openBolt(t, folder)
		leases := store.NewMemory()
		defer func() { _, _ = b.Close(), leases.Close() }()
		e := newEnv(t, b, leases)
		defer e.run(t.Context())()
		test(t, e)
	})
}

func (e *env) waiting(t *testing.T) int {
	t.Helper()
	s, err := e.store.Stats(t.Context(), "box")
	if err != nil {
		t.Fatal(err)
	}
	return s.Waiting
}

func TestPassing(t *testing.T) {
	t.Parallel()
	t.Run("the app's answer is DOKU's, and is given again", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, e *env) {
			t.Helper()
			for range 2 {
				if answer, err := e.Forward(t.Context(), now("k", "va")); err != nil || answer.Status != 200 {
					t.Errorf("%+v, %v", answer, err)
				}
			}
			if got := e.app.given(); fmt.Sprint(got) != "[k/1]" {
				t.Errorf("the app was given %v", got)
			}
		})
	})
	for name, answer := range map[string]func(Call) (store.Answer, error){"by HTTP status": status(404), "by its code": saying("4042512")} {
		t.Run("a refusal by the app, "+name+", is DOKU's answer, and nothing is kept", func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, e *env) {
				t.Helper()
				for range 2 {
					e.app.set(answer)
					if answer, err := e.Forward(t.Context(), now("k", "va")); err != nil || answer.Status != 404 {
						t.Errorf("%+v, %v", answer, err)
					}
				}
				if n := e.waiting(t); n != 0 || len(e.app.given()) != 2 {
					t.Errorf("%d are kept, the app was given %v", n, e.app.given())
				}
			})
		})
	}
	t.Run("an app that restarts makes nobody wait for DOKU's retry", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, e *env) {
			t.Helper()
			e.app.set(down)
			time.AfterFunc(5*time.Second, func() { e.app.set(nil) })
			begin := time.Now()
			if answer, err := e.Forward(t.Context(), now("k", "va")); err != nil || answer.Status != 200 {
				t.Errorf("%+v, %v", answer, err)
			}
			if took := time.Since(begin); took > 8*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	})
	for name, answer := range map[string]func(Call) (store.Answer, error){"down": down, "503": status(503), "429": status(429), "500 by its code": saying("5002500"), "hanging": func(Call) (store.Answer, error) {
		time.Sleep(time.Minute)
		return store.Answer{}, errors.New("too late")
	}} {
		t.Run("an app that is "+name+" is tried in time, then the call is kept", func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, e *env) {
				t.Helper()
				e.app.set(answer)
				begin := time.Now()
				if _, err := e.Forward(t.Context(), now("k", "va")); !errors.Is(err, ErrKept) {
					t.Errorf("error %v", err)
				}
				if took := time.Since(begin); took > 20*time.Second {
					t.Errorf("DOKU waited for %s", took)
				}
				if n := e.waiting(t); n != 1 {
					t.Errorf("%d are kept", n)
				}
				e.app.set(nil)
				time.Sleep(6 * time.Minute)
				if n := e.waiting(t); n != 0 {
					t.Errorf("%d are still kept", n)
				}
				before := len(e.app.given())
				if answer, err := e.Forward(t.Context(), now("k", "va")); err != nil || answer.Status != 200 || len(e.app.given()) != before {
					t.Errorf("DOKU's retry: %+v, %v, %d calls of the app", answer, err, len(e.app.given())-before)
				}
				e.mu.Lock()
				defer e.mu.Unlock()
				if e.events[EventKept] != 1 || e.events[EventRedelivered] != 1 {
					t.Errorf("events %v", e.events)
				}
			})
		})
	}
	t.Run("however often it was tried while DOKU waited, a kept call is tried again soon", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, e *env) {
			t.Helper()
			e.app.set(down)
			if _, err := e.Forward(t.Context(), now("k", "va")); !errors.Is(err, ErrKept) {
				t.Fatal(err)
			}
			before := len(e.app.given())
			time.Sleep(10 * time.Second) // 1 s, 2 s and 5 s, with some jitter
			if n := len(e.app.given()) - before; n != 3 {
				t.Errorf("%d attempts in the first ten seconds", n)
			}
			e.app.set(nil)
			time.Sleep(15 * time.Second)
			if n := e.waiting(t); n != 0 {
				t.Errorf("%d are still kept", n)
			}
		})
	})
	t.Run("a kept call goes to the app at once when it takes another one", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, e *env) {
			t.Helper()
			e.app.set(down)
			e.cfg.AnswerWithin = time.Second
			if _, err := e.Forward(t.Context(), now("k", "va")); !errors.Is(err, ErrKept) {
				t.Fatal(err)
			}
			e.app.set(nil)
			if answer, err := e.Forward(t.Context(), now("other", "va2")); err != nil || answer.Status != 200 {
				t.Errorf("%+v, %v", answer, err)
			}
			time.Sleep(500 * time.Millisecond)
			if n := e.waiting(t); n != 0 {
				t.Errorf("%d are still kept", n)
			}
		})
	})
	t.Run("DOKU's retry of a kept call goes to the app at once, with what was kept", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, e *env) {
			t.Helper()
			e.app.set(down)
			if _, err := e.Forward(t.Context(), now("k", "va")); !errors.Is(err, ErrKept) {
				t.Fatal(err)
			}
			time.Sleep(30 * time.Minute)
			e.app.set(nil)
			retry := now("k", "va")
			retry.ExternalID = "another"
			if answer, err := e.Forward(t.Context(), retry); err != nil || answer.Status != 200 {
				t.Errorf("%+v, %v", answer, err)
			}
			e.app.mu.Lock()
			last := e.app.calls[len(e.app.calls)-1]
			e.app.mu.Unlock()
			if last.ExternalID != "E-k" || last.Attempts < 3 {
				t.Errorf("the app was given %+v", last)
			}
			if n := e.waiting(t); n != 0 {
				t.Errorf("%d are kept", n)
			}
		})
	})
	t.Run("what can neither be taken nor kept is lost to nobody's knowledge", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			leases := store.NewMemory()
			defer leases.Close()
			e := newEnv(t, broken{}, leases)
			e.app.set(down)
			if _, err := e.Forward(t.Context(), now("k", "va")); !errors.Is(err, ErrLost) || !errors.Is(err, ErrStore) {
				t.Errorf("error %v", err)
			}
			e.app.set(nil)
			given := len(e.app.given())
			if _, err := e.Forward(t.Context(), now("k", "va")); !errors.Is(err, ErrLost) || len(e.app.given()) != given {
				t.Errorf("without its store, the app was given %v, error %v", e.app.given()[given:], err)
			}
			e.cfg.Lenient = true
			if answer, err := e.Forward(t.Context(), now("k", "va")); err != nil || answer.Status != 200 {
				t.Errorf("an app that is well needs no store, if it is so configured: %+v, %v", answer, err)
			}
			if err := e.Enqueue(t.Context(), now("k", "va")); !errors.Is(err, ErrStore) {
				t.Errorf("accepting: %v", err)
			}
		})
	})
}

func TestAnInboxIsReadyIfItCanBeWritten(t *testing.T) {
	t.Parallel()
	leases := store.NewMemory()
	defer leases.Close()
	bolt := openBolt(t, t.TempDir())
	remote, _ := newRedis(t)
	for name, s := range map[string]Store{"a file": bolt, "Redis": remote} {
		e := newEnv(t, s, leases)
		for range 2 {
			if err := e.Ready(t.Context(), call("k", "l").Account); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if figures, err := e.Stats(t.Context()); err != nil || figures != (Stats{}) {
			t.Errorf("%s: %+v, %v, expected nothing to be kept", name, figures, err)
		}
	}
	if err := newEnv(t, broken{}, leases).Ready(t.Context(), "a"); !errors.Is(err, ErrStore) {
		t.Errorf("a store that is away: %v", err)
	}
}

// broken is a store that cannot be read or written.
type broken struct{ Store }

func (broken) Add(context.Context, Call) (bool, *store.Answer, error) { return false, nil, ErrStore }

func (broken) Acked(context.Context, string, string) (*store.Answer, error)  { return nil, ErrStore }
func (broken) Ack(context.Context, Call, store.Answer, time.Duration) error { return ErrStore }
func (broken) Peek(context.Context, string, string) (*Call, error)           { return nil, ErrStore }

func TestAccepting(t *testing.T) {
	t.Parallel()
	t.Run("a call is kept while the app's code says no", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, e *env) {
			t.Helper()
			e.app.set(saying("4042512"))
			if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if n := e.waiting(t); n != 1 {
				t.Errorf("%d are kept", n)
			}
			e.app.set(nil)
			time.Sleep(5 * time.Minute)
			if n := e.waiting(t); n != 0 {
				t.Errorf("%d are still kept", n)
			}
		})
	})
	t.Run("a call is delivered at once", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, e *env) {
			t.Helper()
			if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := e.app.given(); fmt.Sprint(got) != "[k/1]" || e.waiting(t) != 0 {
				t.Errorf("the app was given %v, %d are kept", got, e.waiting(t))
			}
			// DOKU's repeat is known.
			if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			if got := e.app.given(); len(got) != 1 {
				t.Errorf("the app was given %v", got)
			}
		})
	})
	t.Run("it is tried again, soon and then seldom, until it is given up", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, e *env) {
			t.Helper()
			e.app.set(status(500))
			if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if n := len(e.app.given()); n < 5 || n > 7 {
				t.Errorf("%d attempts in the first minute", n)
			}
			time.Sleep(73 * time.Hour)
			n := len(e.app.given())
			if perHour := n / 73; perHour < 10 || perHour > 13 {
				t.Errorf("%d attempts an hour", perHour)
			}
			s, err := e.store.Stats(t.Context(), "box")
			if err != nil || s.Waiting != 0 || s.Dead != 1 || !strings.Contains(e.log.String(), "a notification is given up") {
				t.Errorf("%+v, %v", s, err)
			}
			time.Sleep(time.Hour)
			if got := len(e.app.given()); got != n {
				t.Errorf("%d attempts after it was given up", got-n)
			}
			e.mu.Lock()
			defer e.mu.Unlock()
			if e.events[EventDead] != 1 {
				t.Errorf("events %v", e.events)
			}
		})
	})
	t.Run("the order within a lane is kept, and no lane waits for another", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, e *env) {
			t.Helper()
			e.app.set(func(c Call) (store.Answer, error) {
				time.Sleep(time.Second)
				if c.OrderingKey == "va1" && c.Attempts < 4 {
					return store.Answer{Status: 503}, nil
				}
				return thanks, nil
			})
			for n := range 4 {
				for _, lane := range []string{"va1", "va2"} {
					if err := e.Enqueue(t.Context(), now(fmt.Sprint(lane, "-", n), lane)); err != nil {
						t.Fatal(err)
					}
				}
			}
			time.Sleep(5 * time.Second)
			for _, key := range e.app.given() {
				if strings.HasPrefix(key, "va1-") && !strings.HasPrefix(key, "va1-0/") {
					t.Errorf("%s came before the first of its lane was taken", key)
				}
			}
			time.Sleep(2 * time.Minute)
			order := map[string][]string{}
			e.app.mu.Lock()
			for _, c := range e.app.calls {
				if c.OrderingKey == "va2" || c.Attempts == 4 {
					order[c.OrderingKey] = append(order[c.OrderingKey], c.Key)
				}
			}
			e.app.mu.Unlock()
			if fmt.Sprint(order) != "map[va1:[va1-0 va1-1 va1-2 va1-3] va2:[va2-0 va2-1 va2-2 va2-3]]" {
				t.Errorf("order %v", order)
			}
		})
	})
	t.Run("a new call waits behind those of its lane that are kept", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, e *env) {
			t.Helper()
			e.app.set(down)
			if err := e.Enqueue(t.Context(), now("first", "va")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			e.app.set(nil)
			if answer, err := e.Forward(t.Context(), now("second", "va")); err != nil || answer.Status != 200 {
				t.Errorf("%+v, %v", answer, err)
			}
			given := e.app.given()
			if last := given[len(given)-2:]; !strings.HasPrefix(last[0], "first/") || last[1] != "second/1" {
				t.Errorf("the app was given %v", last)
			}
		})
	})
	t.Run("when the app comes back, nothing waits for its next attempt", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, e *env) {
			t.Helper()
			e.app.set(down)
			for n := range 50 {
				if err := e.Enqueue(t.Context(), now(fmt.Sprint(n), fmt.Sprint("va", n))); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(2 * time.Hour)
			e.app.set(nil)
			if answer, err := e.Forward(t.Context(), now("new", "va0")); err != nil || answer.Status != 200 {
				t.Errorf("%+v, %v", answer, err)
			}
			time.Sleep(2 * time.Second)
			if n := e.waiting(t); n != 0 {
				t.Errorf("%d still wait", n)
			}
		})
	})
}

// forgetful is a store that cannot record what was taken, until it can.
type forgetful struct {
	Store
	broken atomic.Bool
}

func (f *forgetful) Ack(ctx context.Context, c Call, answer store.Answer, ttl time.Duration) error {
	if f.broken.Load() {
		return ErrStore
	}
	return f.Store.Ack(ctx, c, answer, ttl)
}

func (f *forgetful) Update(ctx context.Context, c Call) error {
	if f.broken.Load() {
		return ErrStore
	}
	return f.Store.Update(ctx, c)
}

func TestWhileTheStoreCannotBeWritten(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := &forgetful{Store: openBolt(t, folder)}
		leases := store.NewMemory()
		defer func() { _, _ = s.Store.(*Bolt).Close(), leases.Close() }()
		e := newEnv(t, s, leases)
		defer e.run(t.Context())()
		s.broken.Store(true)
		if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := e.app.given(); fmt.Sprint(got) != "[k/1]" {
			t.Errorf("what the app has taken was handed to it again: %v", got)
		}
		s.broken.Store(false)
		time.Sleep(2 * time.Second)
		if n := e.waiting(t); n != 0 {
			t.Errorf("%d still wait when the store can be written again", n)
		}
		s.broken.Store(true)
		e.app.set(down)
		if err := e.Enqueue(t.Context(), now("k2", "va")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if n := len(e.app.given()); n > 65 {
			t.Errorf("%d attempts in a minute", n)
		}
	})
}

func TestByHand(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, e *env) {
		t.Helper()
		e.app.set(down)
		for _, key := range []string{"k1", "k2"} {
			if err := e.Enqueue(t.Context(), now(key, "va")); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(80 * time.Hour)
		before := len(e.app.given())
		if known, err := e.Retry(t.Context(), "k1"); err != nil || !known {
			t.Fatal(known, err)
		}
		time.Sleep(time.Hour)
		if n := len(e.app.given()) - before; n < 10 {
			t.Errorf("a dead call that is retried is tried %d times in an hour", n)
		}
		e.app.set(nil)
		if known, err := e.Retry(t.Context(), "k1"); err != nil || !known {
			t.Fatal(known, err)
		}
		synctest.Wait()
		if c, err := e.Get(t.Context(), "k1"); err != nil || c != nil {
			t.Errorf("still kept: %+v, %v", c, err)
		}
		if dropped, err := e.Drop(t.Context(), "k2"); err != nil || !dropped {
			t.Errorf("dropped: %v, %v", dropped, err)
		}
		for what, act := range map[string]func(context.Context, string) (bool, error){"retry": e.Retry, "drop": e.Inbox.Drop} {
			if known, err := act(t.Context(), "k2"); err != nil || known {
				t.Errorf("%s of what is gone: %v, %v", what, known, err)
			}
		}
		if all, _, err := e.List(t.Context(), "", 10); err != nil || len(all) != 0 {
			t.Errorf("%d are kept, %v", len(all), err)
		}
	})
}

func TestStoppingAndStarting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := openBolt(t, t.TempDir())
		leases := store.NewMemory()
		defer func() { _, _ = b.Close(), leases.Close() }()
		e := newEnv(t, b, leases)
		stop := e.run(t.Context())
		e.app.set(down)
		if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		e.app.set(func(Call) (store.Answer, error) {
			time.Sleep(3 * time.Second)
			return thanks, nil
		})
		if _, err := e.Retry(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		stop()
		if n := e.waiting(t); n != 0 {
			t.Errorf("%d wait, though the app has taken all while the deliveries ended", n)
		}

		stop = e.run(t.Context())
		e.app.set(down)
		if err := e.Enqueue(t.Context(), now("k2", "va")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		stop()
		e.app.set(func(Call) (store.Answer, error) {
			time.Sleep(time.Hour)
			return thanks, nil
		})
		stop = e.run(t.Context())
		synctest.Wait()
		if last := e.app.given(); !strings.HasPrefix(last[len(last)-1], "k2/") {
			t.Errorf("after the start, the app was given %v", last[len(last)-1])
		}
		begin := time.Now()
		stop()
		if took := time.Since(begin); took > 6*time.Second {
			t.Errorf("stopping took %s", took)
		}
		if n := e.waiting(t); n != 1 {
			t.Errorf("%d wait", n)
		}
		time.Sleep(2 * time.Hour) // for the app
	})
}

func TestReplicasShareTheWorkAndOutliveEachOther(t *testing.T) {
	t.Parallel()
	r, leases := newRedis(t)
	var delivered, twice atomic.Int32
	var mu sync.Mutex
	seen := make(map[string]bool)
	replica := func() *env {
		e := newEnv(t, r, leases)
		e.cfg.Slots = NewSlots(leases, time.Second)
		e.app.set(func(c Call) (store.Answer, error) {
			mu.Lock()
			defer mu.Unlock()
			if seen[c.Key] {
				twice.Add(1)
			}
			seen[c.Key] = true
			delivered.Add(1)
			return thanks, nil
		})
		return e
	}
	// One of them dies while it has a lane.
	two, three := replica(), replica()
	if claim, err := leases.Claim(t.Context(), "lane/of the dead", time.Second, slotName("box", "lane0")); err != nil || !claim.Held {
		t.Fatal(claim, err)
	}
	stop2, stop3 := two.run(t.Context()), three.run(t.Context())
	defer func() { stop2(); stop3() }()
	for n := range 100 {
		c := now(fmt.Sprint(n), fmt.Sprint("lane", n%10))
		if err := []*env{two, three}[n%2].Enqueue(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for two.waiting(t) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("%d still wait", two.waiting(t))
		}
		time.Sleep(20 * time.Millisecond)
	}
	if delivered.Load() != 100 || twice.Load() != 0 {
		t.Errorf("%d deliveries, %d of them twice", delivered.Load(), twice.Load())
	}
}

func TestOthersTakeOverAfterAReload(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := &forgetful{Store: openBolt(t, folder)}
		leases := store.NewMemory()
		defer func() { _, _ = s.Store.(*Bolt).Close(), leases.Close() }()
		before, after := newEnv(t, s, leases), newEnv(t, s, leases)
		after.cfg.Slots, after.cfg.Deliver = before.cfg.Slots, before.app.deliver
		s.broken.Store(true)
		stop := before.run(t.Context())
		if err := before.Enqueue(t.Context(), now("k", "va")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		stop()
		stop = after.run(t.Context())
		time.Sleep(10 * time.Second)
		s.broken.Store(false)
		time.Sleep(10 * time.Second)
		stop()
		if got := before.app.given(); fmt.Sprint(got) != "[k/1]" || after.waiting(t) != 0 {
			t.Errorf("what the app has taken was handed to it again: %v; %d wait", got, after.waiting(t))
		}
	})
}

func TestWhoWaitsForALaneIsServedInOrder(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, e *env) {
		t.Helper()
		e.app.set(func(Call) (store.Answer, error) {
			time.Sleep(3 * time.Second)
			return thanks, nil
		})
		var wg sync.WaitGroup
		for n := range 6 {
			wg.Go(func() {
				ctx := t.Context()
				if n == 1 { // it gives up
					impatient, cancel := context.WithTimeout(ctx, time.Second)
					defer cancel()
					ctx = impatient
				}
				if _, err := e.Forward(ctx, now(fmt.Sprint(n), "va")); n != 1 && err != nil || n == 1 && !errors.Is(err, ErrKept) {
					t.Errorf("%d: %v", n, err)
				}
			})
			time.Sleep(100 * time.Millisecond)
		}
		wg.Wait()
		if got := strings.Join(e.app.given(), " "); got != "0/1 1/1 2/1 3/1 4/1 5/1" {
			t.Errorf("the app was given %s", got)
		}
		if n := len(e.cfg.Slots.queues); n != 0 {
			t.Errorf("%d queues are left", n)
		}
	})
}

// leaseStore is a store of leases that is slow, or away.
type leaseStore struct {
	store.Store
	slow time.Duration
	away atomic.Bool
}

func (l *leaseStore) Claim(ctx context.Context, owner string, lease time.Duration, keys ...string) (store.Claim, error) {
	if l.away.Load() {
		return store.Claim{}, store.ErrStore
	}
	claim, err := l.Store.Claim(ctx, owner, lease, keys...)
	select {
	case <-time.After(l.slow):
		return claim, err
	case <-ctx.Done():
		return store.Claim{}, ctx.Err()
	}
}

func TestLanesAreLeased(t *testing.T) {
	t.Parallel()
	t.Run("from a store that is slow, too", func(t *testing.T) {
		t.Parallel()
		folder := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			b := openBolt(t, folder)
			leases := store.NewMemory()
			defer func() { _, _ = b.Close(), leases.Close() }()
			e := newEnv(t, b, &leaseStore{Store: leases, slow: time.Second})
			defer e.run(t.Context())()
			if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
			if e.waiting(t) != 0 {
				t.Error("it is not delivered")
			}
		})
	})
	t.Run("from a store that is away: that is told, now and then", func(t *testing.T) {
		t.Parallel()
		folder := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			b := openBolt(t, folder)
			leases := store.NewMemory()
			defer func() { _, _ = b.Close(), leases.Close() }()
			l := &leaseStore{Store: leases}
			l.away.Store(true)
			e := newEnv(t, b, l)
			defer e.run(t.Context())()
			for n := range 50 {
				if err := e.Enqueue(t.Context(), now(fmt.Sprint(n), fmt.Sprint("va", n))); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Minute)
			if n := strings.Count(e.log.String(), "cannot deliver the kept calls"); n < 2 || n > 7 {
				t.Errorf("it is told %d times in a minute: %s", n, e.log)
			}
			l.away.Store(false)
			time.Sleep(6 * time.Minute)
			if n := e.waiting(t); n != 0 {
				t.Errorf("%d still wait", n)
			}
		})
	})
	t.Run("and a call that waits for its answer is kept when the lease is lost", func(t *testing.T) {
		t.Parallel()
		folder := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			b := openBolt(t, folder)
			leases := store.NewMemory()
			defer func() { _, _ = b.Close(), leases.Close() }()
			l := &leaseStore{Store: leases}
			e := newEnv(t, b, l)
			e.cfg.AnswerWithin, e.cfg.AttemptTimeout = time.Hour, time.Minute
			e.app.set(func(Call) (store.Answer, error) {
				l.away.Store(true)
				time.Sleep(15 * time.Second)
				return store.Answer{Status: 503}, nil
			})
			begin := time.Now()
			if _, err := e.Forward(t.Context(), now("k", "va")); !errors.Is(err, ErrKept) || !errors.Is(err, errSlotExpired) || time.Since(begin) > 16*time.Second {
				t.Errorf("error %v after %s", err, time.Since(begin))
			}
		})
	})
	t.Run("and are let go of when their lease is lost", func(t *testing.T) {
		t.Parallel()
		folder := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			b := openBolt(t, folder)
			leases := store.NewMemory()
			defer func() { _, _ = b.Close(), leases.Close() }()
			l := &leaseStore{Store: leases}
			one, two := newEnv(t, b, l), newEnv(t, b, leases)
			one.cfg.AttemptTimeout = time.Minute
			one.app.set(func(Call) (store.Answer, error) {
				time.Sleep(15 * time.Second)
				return thanks, nil
			})
			two.app.set(func(Call) (store.Answer, error) {
				time.Sleep(4 * time.Second)
				return thanks, nil
			})
			for n := range 6 {
				if err := one.Enqueue(t.Context(), now(fmt.Sprint(n), "va")); err != nil {
					t.Fatal(err)
				}
			}
			defer one.run(t.Context())()
			synctest.Wait()
			l.away.Store(true)
			defer two.run(t.Context())()
			time.Sleep(20 * time.Second)
			l.away.Store(false)
			time.Sleep(2 * time.Minute)
			if first, rest := one.app.given(), two.app.given(); fmt.Sprint(first) != "[0/1]" || len(rest) != 6 {
				t.Errorf("who has lost its lease has delivered %v, the other one %v", first, rest)
			}
		})
	})
}

// startCluster starts a cluster of one node, and returns its URL.
func startCluster(t *testing.T) string {
	t.Helper()
	_, bus, err := net.SplitHostPort(doktest.FreeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	url := doktest.StartRedis(t, "--cluster-enabled", "yes", "--cluster-port", bus).URL
	options, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	defer client.Close()
	if err := client.Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", "0", "16383").Err(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		info, err := client.ClusterInfo(t.Context()).Result()
		if strings.Contains(info, "cluster_state:ok") {
			return strings.TrimSuffix(url, "/0")
		}
		if time.Now().After(deadline) {
			t.Fatalf("the cluster does not come up: %s, %v", info, err)
		}
	}
}

// newRedisEnv is an inbox in a Redis, as the sidecar makes it, for the account
// "account" with a secret.
func newRedisEnv(t *testing.T, cfg store.RedisConfig, secret string) *env {
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
	return newEnv(t, NewRedis(r, func(account string) *store.Scoped {
		if account != "account" {
			return nil
		}
		return scope
	}), r)
}

// empty waits until nothing waits in an inbox.
func (e *env) empty(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); e.waiting(t) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d still wait; the log says %s", e.waiting(t), e.log)
		}
	}
}

func TestInACluster(t *testing.T) {
	t.Parallel()
	e := newRedisEnv(t, store.RedisConfig{URL: startCluster(t), Cluster: true}, "secret")
	defer e.run(t.Context())()
	for n := range 20 {
		if err := e.Enqueue(t.Context(), now(fmt.Sprint("a", n), fmt.Sprint("account/", n))); err != nil {
			t.Fatal(err)
		}
		if answer, err := e.Forward(t.Context(), now(fmt.Sprint("p", n), fmt.Sprint("account/", n))); err != nil || answer.Status != 200 {
			t.Fatalf("%+v, %v", answer, err)
		}
	}
	e.empty(t)
	if names, err := e.store.Inboxes(t.Context()); err != nil || len(names) != 0 {
		t.Errorf("boxes %v, %v", names, err)
	}
}

func TestWhatCannotBeReadHindersNobody(t *testing.T) {
	t.Parallel()
	cfg := store.RedisConfig{URL: doktest.StartRedis(t).URL}
	before, after := newRedisEnv(t, cfg, "a secret that is forgotten"), newRedisEnv(t, cfg, "secret")
	for n := range 40 { // more than are looked at at once
		if err := before.Enqueue(t.Context(), now(fmt.Sprint("old", n), fmt.Sprint("account/old", n))); err != nil {
			t.Fatal(err)
		}
	}
	stop := after.run(t.Context())
	defer stop()
	for n := range 5 {
		if err := after.Enqueue(t.Context(), now(fmt.Sprint("new", n), fmt.Sprint("account/new", n))); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(20 * time.Second); after.waiting(t) > 40; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d still wait; the log says %s", after.waiting(t), after.log)
		}
	}
	after.cfg.AnswerWithin = time.Second
	if _, err := after.Forward(t.Context(), now("later", "account/old1")); !errors.Is(err, ErrKept) {
		t.Errorf("a call behind one that cannot be read: %v", err)
	}
	if got := after.app.given(); len(got) != 5 {
		t.Errorf("the app was given %v", got)
	}
	listed, _, err := after.List(t.Context(), "", 100)
	if err != nil || len(listed) != 41 {
		t.Errorf("%d are listed, %v", len(listed), err)
	}
	for _, c := range listed {
		if strings.HasPrefix(c.Key, "old") != strings.HasPrefix(c.Error, "it cannot be read") || c.Account != "account" || !strings.HasPrefix(c.OrderingKey, "account/old") || c.Received.IsZero() {
			t.Errorf("listed %+v", c)
		}
	}
	if n := strings.Count(after.log.String(), "cannot deliver the kept calls"); n == 0 {
		t.Errorf("nobody is told: %s", after.log)
	}
	stop()
	defer before.run(t.Context())() // with the secret
	for deadline := time.Now().Add(20 * time.Second); before.waiting(t) > 1; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d still wait; the log says %s", before.waiting(t), before.log)
		}
	}
}

func TestAFullRedisIsEmptied(t *testing.T) {
	t.Parallel()
	e := newRedisEnv(t, store.RedisConfig{URL: doktest.StartRedis(t, "--maxmemory-policy", "noeviction").URL}, "secret")
	for n := range 50 {
		c := now(fmt.Sprint(n), fmt.Sprint("account/", n))
		c.Body = make([]byte, 50_000)
		if err := e.Enqueue(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	r := e.store.(*Redis)
	if err := r.client.ConfigSet(t.Context(), "maxmemory", "2mb").Err(); err != nil {
		t.Fatal(err)
	}
	if err := e.Enqueue(t.Context(), now("more", "account/more")); !errors.Is(err, ErrStore) {
		t.Fatalf("it is not full: %v", err)
	}
	defer e.run(t.Context())()
	e.empty(t)
}

func TestManyLanesInRedisAreHurried(t *testing.T) {
	t.Parallel()
	r, _ := newRedis(t)
	at := time.Now()
	const lanes = 2 * redisPage // two thirds of them, which is more than a page, are refused
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for n := worker; n < lanes; n += 8 {
				c := call(fmt.Sprint(n), fmt.Sprint("account/", n))
				c.Due = at.Add(time.Minute)
				_, _, err := r.Add(t.Context(), c)
				if c.Refused = n%3 != 0; err == nil {
					err = r.Update(t.Context(), c)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, test := range []struct {
		refused bool
		due     int
	}{{false, (lanes + 2) / 3}, {true, lanes}} {
		if err := r.RetryNow(t.Context(), "box", at, test.refused); err != nil {
			t.Fatal(err)
		}
		if due, _, err := r.Due(t.Context(), "box", at, 2*lanes); err != nil || len(due) != test.due {
			t.Errorf("%d are due, %v, expected %d", len(due), err, test.due)
		}
	}
}

func TestWhenACallIsGivenUp(t *testing.T) {
	t.Parallel()
	t.Run("not for a first failure after all were off", func(t *testing.T) {
		t.Parallel()
		folder := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			b := openBolt(t, folder)
			leases := store.NewMemory()
			defer func() { _, _ = b.Close(), leases.Close() }()
			e := newEnv(t, b, leases)
			e.app.set(down)
			stop := e.run(t.Context())
			for n := range 20 {
				if err := e.Enqueue(t.Context(), now(fmt.Sprint(n), fmt.Sprint("va", n%10))); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Minute)
			stop()
			time.Sleep(100 * time.Hour)
			defer e.run(t.Context())()
			time.Sleep(9 * time.Minute)
			if s, err := e.Stats(t.Context()); err != nil || s.Waiting != 20 {
				t.Errorf("%+v, %v, expected all to wait", s, err)
			}
			time.Sleep(time.Hour)
			if s, err := e.Stats(t.Context()); err != nil || s.Dead != 20 {
				t.Errorf("%+v, %v, expected all to be dead", s, err)
			}
		})
	})
	t.Run("not because the deliveries have ended", func(t *testing.T) {
		t.Parallel()
		folder := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			b := openBolt(t, folder)
			leases := store.NewMemory()
			defer func() { _, _ = b.Close(), leases.Close() }()
			e := newEnv(t, b, leases)
			e.app.set(down)
			stop := e.run(t.Context())
			if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(72*time.Hour - time.Minute)
			e.app.set(func(Call) (store.Answer, error) {
				time.Sleep(9 * time.Second)
				return store.Answer{}, errors.New("at last")
			})
			time.Sleep(7 * time.Minute) // into an attempt, or the wait for it
			e.app.set(func(Call) (store.Answer, error) {
				time.Sleep(time.Hour)
				return thanks, nil
			})
			if _, err := e.Retry(t.Context(), "k"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			before, err := e.Get(t.Context(), "k")
			if err != nil || before == nil {
				t.Fatal(before, err)
			}
			stop()
			after, err := e.Get(t.Context(), "k")
			if err != nil || after == nil || after.Dead || after.Attempts != before.Attempts {
				t.Errorf("%+v, %v", after, err)
			}
			e.app.set(nil)
			stop = e.run(t.Context())
			synctest.Wait()
			if n := e.waiting(t); n != 0 {
				t.Errorf("%d wait for their time after an attempt that was broken off", n)
			}
			stop()
			time.Sleep(2 * time.Hour) // for the app
		})
	})
	t.Run("not if it was retried by hand during the attempt", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, e *env) {
			t.Helper()
			e.app.set(down)
			if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(71 * time.Hour)
			e.app.set(func(Call) (store.Answer, error) {
				time.Sleep(5 * time.Second)
				return store.Answer{}, errors.New("at last")
			})
			before := len(e.app.given())
			for len(e.app.given()) == before {
				time.Sleep(time.Second)
			}
			if known, err := e.Retry(t.Context(), "k"); err != nil || !known {
				t.Fatal(known, err)
			}
			time.Sleep(70 * time.Hour)
			if n := e.waiting(t); n != 1 {
				t.Errorf("%d wait", n)
			}
		})
	})
}

func TestAClockThatIsSetBackPutsNothingOff(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var back atomic.Int64
		clock := func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }
		b, err := OpenBolt(BoltConfig{Folder: folder, Now: clock, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		leases := store.NewMemory()
		defer func() { _, _ = b.Close(), leases.Close() }()
		e := newEnv(t, b, leases)
		e.cfg.Now = clock
		e.app.set(down)
		defer e.run(t.Context())()
		if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		back.Store(int64(24 * time.Hour))
		e.app.set(nil)
		time.Sleep(6 * time.Minute)
		if n := e.waiting(t); n != 0 {
			t.Errorf("%d wait", n)
		}
	})
}

func TestARefusalHasItsTime(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name        string
		answer      store.Answer
		in          time.Duration
		least, most int // tries
	}{
		{"of what the app will never take", store.Answer{Status: 400}, 12 * time.Hour, 120, 160},
		{"with Retry-After", store.Answer{Status: 503, Header: http.Header{"Retry-After": {"240"}}}, 13 * time.Minute, 4, 4},
		{"with a Retry-After that is too long", store.Answer{Status: 429, Header: http.Header{"Retry-After": {"86400"}}}, 16 * time.Minute, 4, 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, e *env) {
				t.Helper()
				e.app.set(func(c Call) (store.Answer, error) {
					if c.OrderingKey == "refused" {
						return test.answer, nil
					}
					return thanks, nil
				})
				if err := e.Enqueue(t.Context(), now("k", "refused")); err != nil {
					t.Fatal(err)
				}
				for n := range int(test.in / time.Minute) {
					time.Sleep(time.Minute)
					if test.answer.Status != 503 { // other business goes on, a sign of an app that is well
						if _, err := e.Forward(t.Context(), now(fmt.Sprint(n), fmt.Sprint(n))); err != nil {
							t.Fatal(err)
						}
					}
				}
				tries := 0
				for _, key := range e.app.given() {
					if strings.HasPrefix(key, "k/") {
						tries++
					}
				}
				if tries < test.least || tries > test.most {
					t.Errorf("%d tries in %s", tries, test.in)
				}
			})
		})
	}
}

func TestAnAttemptHasTimeToSucceed(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, e *env) {
		t.Helper()
		deliver := e.cfg.Deliver
		e.cfg.Deliver = func(ctx context.Context, c Call) (store.Answer, error) {
			if end, _ := ctx.Deadline(); time.Until(end) < forwardMinTime {
				t.Errorf("an attempt begins %s before its end", time.Until(end))
			}
			return deliver(ctx, c)
		}
		e.app.set(func(Call) (store.Answer, error) {
			time.Sleep(9300 * time.Millisecond)
			return store.Answer{Status: 503}, nil
		})
		if _, err := e.Forward(t.Context(), now("k", "va")); !errors.Is(err, ErrKept) {
			t.Errorf("error %v", err)
		}
		if n := len(e.app.given()); n != 2 {
			t.Errorf("%d attempts", n)
		}
	})
}

func TestALongAnswerIsRememberedShort(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, e *env) {
		t.Helper()
		long := store.Answer{Status: 201, Body: make([]byte, 200<<10)}
		e.app.set(func(Call) (store.Answer, error) { return long, nil })
		c := now("k", "va")
		if answer, err := e.Forward(t.Context(), c); err != nil || len(answer.Body) != len(long.Body) {
			t.Errorf("HTTP %d, %v", answer.Status, err)
		}
		if answer, err := e.Forward(t.Context(), c); err != nil || answer.Status != 200 || !strings.Contains(string(answer.Body), `"2002500"`) || !strings.Contains(string(answer.Body), `"paymentRequestId":"k"`) {
			t.Errorf("to the repeat: HTTP %d, %.200s, %v", answer.Status, answer.Body, err)
		}
		c.Key, c.Body = "k2", append(append([]byte(`{"additionalInfo":"`), strings.Repeat("x", 10_000)...), `"}`...)
		for range 2 {
			answer, err := e.Forward(t.Context(), c)
			if err != nil || answer.Status > 201 {
				t.Errorf("%+v, %v", answer, err)
			}
			long.Status = len(answer.Body)
		}
		if long.Status > 1000 {
			t.Errorf("%d bytes are remembered", long.Status)
		}
	})
}

func TestARepeatIsNotKeptASecondTime(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, e *env) {
		t.Helper()
		e.app.set(down)
		for range 3 {
			if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
				t.Fatal(err)
			}
			if _, err := e.Forward(t.Context(), now("k", "va")); !errors.Is(err, ErrKept) {
				t.Error(err)
			}
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		if n := e.events[EventKept]; n != 1 {
			t.Errorf("it was kept %d times", n)
		}
	})
}
