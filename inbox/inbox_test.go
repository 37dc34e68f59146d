package inbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-doku/caddy-doku/store"
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
	if a.inside[c.Lane]++; a.inside[c.Lane] > 1 {
		a.t.Errorf("two calls of lane %s at once", c.Lane)
	}
	answer := a.answer
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.inside[c.Lane]--
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

// house is an inbox with its app, in a bubble of synctest.
type house struct {
	*Inbox
	app    *app
	store  Store
	events map[Event]int
	mu     sync.Mutex
	log    *strings.Builder
}

func newHouse(t *testing.T, s Store, lanes store.Store) *house {
	t.Helper()
	h := &house{app: &app{t: t}, store: s, events: make(map[Event]int), log: new(strings.Builder)}
	h.Inbox = New(Config{
		Box: "box", Store: s, Lanes: store.NewOnce(lanes, 10*time.Second), Deliver: h.app.deliver, Lenient: func() bool { return false },
		AnswerWithin: 20 * time.Second, AttemptTimeout: 10 * time.Second, GiveUpAfter: 72 * time.Hour, Remember: 48 * time.Hour, Concurrency: 4,
		Now: time.Now, Logger: slog.New(slog.NewTextHandler(&lockedWriter{w: h.log}, nil)),
		Observe: func(e Event, _ Call) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.events[e]++
		},
	})
	return h
}

type lockedWriter struct {
	mu sync.Mutex
	w  *strings.Builder
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// run begins the deliveries and returns what ends them.
func (h *house) run(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// now is a call that has just come in.
func now(key, lane string) Call {
	c := call(key, lane)
	c.Received, c.Due = time.Now(), time.Now()
	return c
}

// inBubble runs a test with an inbox on a file, on a clock of its own.
func inBubble(t *testing.T, test func(t *testing.T, h *house)) {
	t.Helper()
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := openBolt(t, folder)
		lanes := store.NewMemory()
		defer func() { _, _ = b.Close(), lanes.Close() }()
		h := newHouse(t, b, lanes)
		defer h.run(t.Context())()
		test(t, h)
	})
}

func (h *house) waiting(t *testing.T) int {
	t.Helper()
	s, err := h.store.Stats(t.Context(), "box")
	if err != nil {
		t.Fatal(err)
	}
	return s.Waiting
}

func TestPassing(t *testing.T) {
	t.Parallel()
	t.Run("the app's answer is DOKU's, and is given again", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, h *house) {
			t.Helper()
			for range 2 {
				if answer, err := h.Pass(t.Context(), now("k", "va")); err != nil || answer.Status != 200 {
					t.Errorf("%+v, %v", answer, err)
				}
			}
			if got := h.app.given(); fmt.Sprint(got) != "[k/1]" {
				t.Errorf("the app was given %v", got)
			}
		})
	})
	for name, answer := range map[string]func(Call) (store.Answer, error){"by HTTP status": status(404), "by its code": saying("4042512")} {
		t.Run("a refusal by the app, "+name+", is DOKU's answer, and nothing is kept", func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, h *house) {
				t.Helper()
				for range 2 {
					h.app.set(answer)
					if answer, err := h.Pass(t.Context(), now("k", "va")); err != nil || answer.Status != 404 {
						t.Errorf("%+v, %v", answer, err)
					}
				}
				if n := h.waiting(t); n != 0 || len(h.app.given()) != 2 {
					t.Errorf("%d are kept, the app was given %v", n, h.app.given())
				}
			})
		})
	}
	t.Run("an app that restarts makes nobody wait for DOKU's retry", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, h *house) {
			t.Helper()
			h.app.set(down)
			time.AfterFunc(5*time.Second, func() { h.app.set(nil) })
			begin := time.Now()
			if answer, err := h.Pass(t.Context(), now("k", "va")); err != nil || answer.Status != 200 {
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
			inBubble(t, func(t *testing.T, h *house) {
				t.Helper()
				h.app.set(answer)
				begin := time.Now()
				if _, err := h.Pass(t.Context(), now("k", "va")); !errors.Is(err, ErrKept) {
					t.Errorf("error %v", err)
				}
				if took := time.Since(begin); took > 20*time.Second {
					t.Errorf("DOKU waited for %s", took)
				}
				if n := h.waiting(t); n != 1 {
					t.Errorf("%d are kept", n)
				}
				h.app.set(nil)
				time.Sleep(6 * time.Minute)
				if n := h.waiting(t); n != 0 {
					t.Errorf("%d are still kept", n)
				}
				before := len(h.app.given())
				if answer, err := h.Pass(t.Context(), now("k", "va")); err != nil || answer.Status != 200 || len(h.app.given()) != before {
					t.Errorf("DOKU's retry: %+v, %v, %d calls of the app", answer, err, len(h.app.given())-before)
				}
				h.mu.Lock()
				defer h.mu.Unlock()
				if h.events[EventKept] != 1 || h.events[EventRedelivered] != 1 {
					t.Errorf("events %v", h.events)
				}
			})
		})
	}
	t.Run("DOKU's retry of a kept call goes to the app at once, with what was kept", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, h *house) {
			t.Helper()
			h.app.set(down)
			if _, err := h.Pass(t.Context(), now("k", "va")); !errors.Is(err, ErrKept) {
				t.Fatal(err)
			}
			time.Sleep(30 * time.Minute)
			h.app.set(nil)
			retry := now("k", "va")
			retry.ExternalID = "another"
			if answer, err := h.Pass(t.Context(), retry); err != nil || answer.Status != 200 {
				t.Errorf("%+v, %v", answer, err)
			}
			h.app.mu.Lock()
			last := h.app.calls[len(h.app.calls)-1]
			h.app.mu.Unlock()
			if last.ExternalID != "E-k" || last.Attempts < 3 {
				t.Errorf("the app was given %+v", last)
			}
			if n := h.waiting(t); n != 0 {
				t.Errorf("%d are kept", n)
			}
		})
	})
	t.Run("what can neither be taken nor kept is lost to nobody's knowledge", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			lanes := store.NewMemory()
			defer lanes.Close()
			h := newHouse(t, broken{}, lanes)
			h.app.set(down)
			if _, err := h.Pass(t.Context(), now("k", "va")); !errors.Is(err, ErrLost) || !errors.Is(err, ErrStore) {
				t.Errorf("error %v", err)
			}
			h.app.set(nil)
			if answer, err := h.Pass(t.Context(), now("k", "va")); err != nil || answer.Status != 200 {
				t.Errorf("an app that is well needs no store: %+v, %v", answer, err)
			}
			if err := h.Accept(t.Context(), now("k", "va")); !errors.Is(err, ErrStore) {
				t.Errorf("accepting: %v", err)
			}
		})
	})
}

func TestAnInboxIsReadyIfItCanBeWritten(t *testing.T) {
	t.Parallel()
	lanes := store.NewMemory()
	defer lanes.Close()
	bolt := openBolt(t, t.TempDir())
	remote, _ := newRedis(t)
	for name, s := range map[string]Store{"a file": bolt, "Redis": remote} {
		h := newHouse(t, s, lanes)
		for range 2 {
			if err := h.Ready(t.Context(), call("k", "l").Account); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if figures, err := h.Stats(t.Context()); err != nil || figures != (Stats{}) {
			t.Errorf("%s: %+v, %v, expected nothing to be kept", name, figures, err)
		}
	}
	if err := newHouse(t, broken{}, lanes).Ready(t.Context(), "a"); !errors.Is(err, ErrStore) {
		t.Errorf("a store that is away: %v", err)
	}
}

// broken is a store that cannot be read or written.
type broken struct{ Store }

func (broken) Add(context.Context, Call) (*store.Answer, error) { return nil, ErrStore }

func (broken) Taken(context.Context, string, string) (*store.Answer, error)  { return nil, ErrStore }
func (broken) Take(context.Context, Call, store.Answer, time.Duration) error { return ErrStore }
func (broken) Head(context.Context, string, string) (*Call, error)           { return nil, ErrStore }

func TestAccepting(t *testing.T) {
	t.Parallel()
	t.Run("a call is kept while the app's code says no", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, h *house) {
			t.Helper()
			h.app.set(saying("4042512"))
			if err := h.Accept(t.Context(), now("k", "va")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if n := h.waiting(t); n != 1 {
				t.Errorf("%d are kept", n)
			}
			h.app.set(nil)
			time.Sleep(5 * time.Minute)
			if n := h.waiting(t); n != 0 {
				t.Errorf("%d are still kept", n)
			}
		})
	})
	t.Run("a call is delivered at once", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, h *house) {
			t.Helper()
			if err := h.Accept(t.Context(), now("k", "va")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := h.app.given(); fmt.Sprint(got) != "[k/1]" || h.waiting(t) != 0 {
				t.Errorf("the app was given %v, %d are kept", got, h.waiting(t))
			}
			// DOKU's repeat is known.
			if err := h.Accept(t.Context(), now("k", "va")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			if got := h.app.given(); len(got) != 1 {
				t.Errorf("the app was given %v", got)
			}
		})
	})
	t.Run("it is tried again, soon and then seldom, until it is given up", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, h *house) {
			t.Helper()
			h.app.set(status(500))
			if err := h.Accept(t.Context(), now("k", "va")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if n := len(h.app.given()); n < 5 || n > 7 {
				t.Errorf("%d attempts in the first minute", n)
			}
			time.Sleep(73 * time.Hour)
			n := len(h.app.given())
			if perHour := n / 73; perHour < 10 || perHour > 13 {
				t.Errorf("%d attempts an hour", perHour)
			}
			s, err := h.store.Stats(t.Context(), "box")
			if err != nil || s.Waiting != 0 || s.Dead != 1 || !strings.Contains(h.log.String(), "a notification is given up") {
				t.Errorf("%+v, %v", s, err)
			}
			time.Sleep(time.Hour)
			if got := len(h.app.given()); got != n {
				t.Errorf("%d attempts after it was given up", got-n)
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.events[EventDead] != 1 {
				t.Errorf("events %v", h.events)
			}
		})
	})
	t.Run("the order within a lane is kept, and no lane waits for another", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, h *house) {
			t.Helper()
			h.app.set(func(c Call) (store.Answer, error) {
				time.Sleep(time.Second)
				if c.Lane == "va1" && c.Attempts < 4 {
					return store.Answer{Status: 503}, nil
				}
				return thanks, nil
			})
			for n := range 4 {
				for _, lane := range []string{"va1", "va2"} {
					if err := h.Accept(t.Context(), now(fmt.Sprint(lane, "-", n), lane)); err != nil {
						t.Fatal(err)
					}
				}
			}
			time.Sleep(5 * time.Second)
			for _, key := range h.app.given() {
				if strings.HasPrefix(key, "va1-") && !strings.HasPrefix(key, "va1-0/") {
					t.Errorf("%s came before the first of its lane was taken", key)
				}
			}
			time.Sleep(2 * time.Minute)
			order := map[string][]string{}
			h.app.mu.Lock()
			for _, c := range h.app.calls {
				if c.Lane == "va2" || c.Attempts == 4 {
					order[c.Lane] = append(order[c.Lane], c.Key)
				}
			}
			h.app.mu.Unlock()
			if fmt.Sprint(order) != "map[va1:[va1-0 va1-1 va1-2 va1-3] va2:[va2-0 va2-1 va2-2 va2-3]]" {
				t.Errorf("order %v", order)
			}
		})
	})
	t.Run("a new call waits behind those of its lane that are kept", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, h *house) {
			t.Helper()
			h.app.set(down)
			if err := h.Accept(t.Context(), now("first", "va")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			h.app.set(nil)
			if answer, err := h.Pass(t.Context(), now("second", "va")); err != nil || answer.Status != 200 {
				t.Errorf("%+v, %v", answer, err)
			}
			given := h.app.given()
			if last := given[len(given)-2:]; !strings.HasPrefix(last[0], "first/") || last[1] != "second/1" {
				t.Errorf("the app was given %v", last)
			}
		})
	})
	t.Run("when the app comes back, nothing waits for its next attempt", func(t *testing.T) {
		t.Parallel()
		inBubble(t, func(t *testing.T, h *house) {
			t.Helper()
			h.app.set(down)
			for n := range 50 {
				if err := h.Accept(t.Context(), now(fmt.Sprint(n), fmt.Sprint("va", n))); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(2 * time.Hour)
			h.app.set(nil)
			if answer, err := h.Pass(t.Context(), now("new", "va0")); err != nil || answer.Status != 200 {
				t.Errorf("%+v, %v", answer, err)
			}
			time.Sleep(2 * time.Second)
			if n := h.waiting(t); n != 0 {
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

func (f *forgetful) Take(ctx context.Context, c Call, answer store.Answer, ttl time.Duration) error {
	if f.broken.Load() {
		return ErrStore
	}
	return f.Store.Take(ctx, c, answer, ttl)
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
		lanes := store.NewMemory()
		defer func() { _, _ = s.Store.(*Bolt).Close(), lanes.Close() }()
		h := newHouse(t, s, lanes)
		defer h.run(t.Context())()
		s.broken.Store(true)
		if err := h.Accept(t.Context(), now("k", "va")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := h.app.given(); fmt.Sprint(got) != "[k/1]" {
			t.Errorf("what the app has taken was handed to it again: %v", got)
		}
		s.broken.Store(false)
		time.Sleep(2 * time.Second)
		if n := h.waiting(t); n != 0 {
			t.Errorf("%d still wait when the store can be written again", n)
		}
		s.broken.Store(true)
		h.app.set(down)
		if err := h.Accept(t.Context(), now("k2", "va")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if n := len(h.app.given()); n > 65 {
			t.Errorf("%d attempts in a minute", n)
		}
	})
}

func TestByHand(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, h *house) {
		t.Helper()
		h.app.set(down)
		for _, key := range []string{"k1", "k2"} {
			if err := h.Accept(t.Context(), now(key, "va")); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(80 * time.Hour)
		before := len(h.app.given())
		if known, err := h.Retry(t.Context(), "k1"); err != nil || !known {
			t.Fatal(known, err)
		}
		time.Sleep(time.Hour)
		if n := len(h.app.given()) - before; n < 10 {
			t.Errorf("a dead call that is retried is tried %d times in an hour", n)
		}
		h.app.set(nil)
		if known, err := h.Retry(t.Context(), "k1"); err != nil || !known {
			t.Fatal(known, err)
		}
		synctest.Wait()
		if c, err := h.Get(t.Context(), "k1"); err != nil || c != nil {
			t.Errorf("still kept: %+v, %v", c, err)
		}
		if dropped, err := h.Drop(t.Context(), "k2"); err != nil || !dropped {
			t.Errorf("dropped: %v, %v", dropped, err)
		}
		for what, act := range map[string]func(context.Context, string) (bool, error){"retry": h.Retry, "drop": h.Inbox.Drop} {
			if known, err := act(t.Context(), "k2"); err != nil || known {
				t.Errorf("%s of what is gone: %v, %v", what, known, err)
			}
		}
		if all, err := h.List(t.Context(), 10); err != nil || len(all) != 0 {
			t.Errorf("%d are kept, %v", len(all), err)
		}
	})
}

func TestStoppingAndStarting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := openBolt(t, t.TempDir())
		lanes := store.NewMemory()
		defer func() { _, _ = b.Close(), lanes.Close() }()
		h := newHouse(t, b, lanes)
		stop := h.run(t.Context())
		h.app.set(down)
		if err := h.Accept(t.Context(), now("k", "va")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		h.app.set(func(Call) (store.Answer, error) {
			time.Sleep(3 * time.Second)
			return thanks, nil
		})
		if _, err := h.Retry(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		stop()
		if n := h.waiting(t); n != 0 {
			t.Errorf("%d wait, though the app has taken all while the deliveries ended", n)
		}

		stop = h.run(t.Context())
		h.app.set(down)
		if err := h.Accept(t.Context(), now("k2", "va")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		stop()
		h.app.set(func(Call) (store.Answer, error) {
			time.Sleep(time.Hour)
			return thanks, nil
		})
		stop = h.run(t.Context())
		synctest.Wait()
		if last := h.app.given(); !strings.HasPrefix(last[len(last)-1], "k2/") {
			t.Errorf("after the start, the app was given %v", last[len(last)-1])
		}
		begin := time.Now()
		stop()
		if took := time.Since(begin); took > 6*time.Second {
			t.Errorf("stopping took %s", took)
		}
		if n := h.waiting(t); n != 1 {
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
	replica := func() *house {
		h := newHouse(t, r, leases)
		h.cfg.Lanes = store.NewOnce(leases, time.Second)
		h.app.set(func(c Call) (store.Answer, error) {
			mu.Lock()
			defer mu.Unlock()
			if seen[c.Key] {
				twice.Add(1)
			}
			seen[c.Key] = true
			delivered.Add(1)
			return thanks, nil
		})
		return h
	}
	// One of them dies while it has a lane.
	two, three := replica(), replica()
	if claim, err := leases.Claim(t.Context(), "lane/of the dead", time.Second, two.lane("lane0")); err != nil || !claim.Held {
		t.Fatal(claim, err)
	}
	stop2, stop3 := two.run(t.Context()), three.run(t.Context())
	defer func() { stop2(); stop3() }()
	for n := range 100 {
		c := now(fmt.Sprint(n), fmt.Sprint("lane", n%10))
		if err := []*house{two, three}[n%2].Accept(t.Context(), c); err != nil {
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
