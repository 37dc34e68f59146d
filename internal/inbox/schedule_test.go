package inbox

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

func TestWhenACallIsGivenUp(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"not after the first failure that follows a long pause", notGivenUpAfterAPause},
		{"not because the deliveries stop", notGivenUpByStopping},
		{"not if it was retried by hand during the attempt", notGivenUpAfterARetry},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t)
		})
	}
}

func notGivenUpAfterAPause(t *testing.T) {
	t.Helper()
	inBubbleWith(t, func(t *testing.T, b *callstore.Bolt, leases store.Store) {
		t.Helper()
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
}

func notGivenUpByStopping(t *testing.T) {
	t.Helper()
	inBubbleWith(t, func(t *testing.T, b *callstore.Bolt, leases store.Store) {
		t.Helper()
		e := newEnv(t, b, leases)
		e.app.set(down)
		stop := e.run(t.Context())
		if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(72*time.Hour - time.Minute)
		e.app.set(func(callstore.Call) (store.Answer, error) {
			time.Sleep(9 * time.Second)
			return store.Answer{}, errors.New("at last")
		})
		time.Sleep(7 * time.Minute) // during an attempt, or the wait before it
		e.app.set(func(callstore.Call) (store.Answer, error) {
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
			t.Errorf("%d wait for their time after an attempt that was interrupted", n)
		}
		stop()
		time.Sleep(2 * time.Hour) // until the app has ended
	})
}

func notGivenUpAfterARetry(t *testing.T) {
	t.Helper()
	inBubble(t, func(t *testing.T, e *env) {
		t.Helper()
		e.app.set(down)
		if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(71 * time.Hour)
		e.app.set(func(callstore.Call) (store.Answer, error) {
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
}

func TestAClockThatIsSetBackPutsNothingOff(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var back atomic.Int64
		clock := func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }
		b, err := callstore.OpenBolt(callstore.BoltConfig{Folder: folder, Now: clock, Logger: slog.New(slog.DiscardHandler)})
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
		{"of a call that the app never accepts", store.Answer{Status: 400}, 12 * time.Hour, 120, 160},
		{"with Retry-After", store.Answer{Status: 503, Header: http.Header{"Retry-After": {"240"}}}, 13 * time.Minute, 4, 4},
		{"with a Retry-After that is too long", store.Answer{Status: 429, Header: http.Header{"Retry-After": {"86400"}}}, 16 * time.Minute, 4, 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, e *env) {
				t.Helper()
				e.app.set(func(c callstore.Call) (store.Answer, error) {
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
					if test.answer.Status != 503 { // other calls succeed, so the app is up
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
