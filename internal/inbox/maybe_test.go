package inbox

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

// breaking returns an app whose answers break off.
func breaking(status int) func(callstore.Call) (store.Answer, error) {
	return func(callstore.Call) (store.Answer, error) {
		return store.Answer{Status: status, Body: thanks.Body}, BrokenAnswerError{errors.New("it breaks off")}
	}
}

func TestAfterA2xxThatIsNoYesTheInboxSaysThatTheAppMayHaveBooked(t *testing.T) {
	t.Parallel()
	for name, app := range map[string]func(callstore.Call) (store.Answer, error){
		"an answer that breaks off": breaking(200), "an empty answer": status(204), "a page": answering(200, "<html>"),
		"an answer that nobody can read": func(callstore.Call) (store.Answer, error) {
			return store.Answer{Status: 200, Header: http.Header{"Content-Encoding": {"br"}}, Body: thanks.Body}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, e *env) {
				t.Helper()
				e.app.set(app)
				for range 2 { // the second is DOKU's own repeat
					_, err := e.Forward(t.Context(), now("k", "va"))
					if !errors.Is(err, ErrKept) || !errors.Is(err, ErrMaybeTaken) || !strings.Contains(err.Error(), "may have booked") ||
						!strings.Contains(Hint(err), "30 min, 6 h and 12 h") {
						t.Errorf("error %v, hint %s", err, Hint(err))
					}
				}
				if got := e.app.given(); len(got) != 1 {
					t.Errorf("the app was given %v", got)
				}
				const last = 18*time.Hour + 30*time.Minute + time.Minute + 2*time.Second
				c, err := e.Get(t.Context(), "k")
				if err != nil || c == nil || c.MaybeTaken != 1 || c.GiveUp.Sub(c.Received) != last || c.Due.Sub(c.Received) != 2*time.Second {
					t.Errorf("%+v, %v", c, err)
				}
				e.app.set(nil)
				if _, err := e.Forward(t.Context(), now("other", "other")); err != nil { // a success makes nothing due that may be booked
					t.Error(err)
				}
				e.app.set(app)
				time.Sleep(last + time.Minute)
				if got := e.app.given(); len(got) != 7 {
					t.Errorf("the app was given %v", got)
				}
				if s, err := e.Stats(t.Context()); err != nil || s.Dead != 1 {
					t.Errorf("%+v, %v", s, err)
				}
				log := e.log.String()
				if strings.Contains(log, "the app has not taken") || !strings.Contains(log, "given up: the app may have booked it") {
					t.Error(log)
				}
				e.app.set(down)
				if found, err := e.Retry(t.Context(), "k"); err != nil || !found { // it is known still, and tried as rarely
					t.Error(found, err)
				}
				time.Sleep(10 * time.Minute)
				if got := e.app.given(); len(got) != 9 {
					t.Errorf("after a retry by hand, the app was given %v", got)
				}
				if c, err := e.Get(t.Context(), "k"); err != nil || c.MaybeTaken == 0 {
					t.Errorf("%+v, %v", c, err)
				}
			})
		})
	}
}

func TestA5xxThatBreaksOffIsTriedAgainAtOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, e *env) {
		t.Helper()
		e.app.set(breaking(503))
		if _, err := e.Forward(t.Context(), now("k", "va")); !errors.Is(err, ErrKept) || errors.Is(err, ErrMaybeTaken) {
			t.Error(err)
		}
		if n := len(e.app.given()); n < 3 {
			t.Errorf("%d attempts", n)
		}
	})
}

func TestTheEndOfTheDeliveriesWithinA2xxCountsAsAnAnswer(t *testing.T) {
	t.Parallel()
	inBubbleWith(t, func(t *testing.T, b *callstore.Bolt, leases store.Store) {
		t.Helper()
		e := newEnv(t, b, leases)
		e.cfg.AttemptTimeout = time.Minute
		e.cfg.Deliver = func(ctx context.Context, _ callstore.Call) (store.Answer, error) {
			<-ctx.Done()
			return store.Answer{Status: 200}, BrokenAnswerError{ctx.Err()}
		}
		stop := e.run(t.Context())
		if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		stop()
		if c, err := e.Get(t.Context(), "k"); err != nil || c == nil || c.MaybeTaken != 1 || c.Attempts != 1 {
			t.Errorf("%+v, %v", c, err)
		}
		if err := b.RetryNow(t.Context(), "box", time.Now(), true); err != nil { // as the next start does
			t.Fatal(err)
		}
		if c, err := e.Get(t.Context(), "k"); err != nil || !c.Due.After(time.Now()) {
			t.Errorf("%+v, %v", c, err)
		}
	})
}

func TestTheFirstAnswerIsHeededLikeTheLaterOnes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		answer  store.Answer
		refused bool
		tries   int // while DOKU waits
		wait    time.Duration
	}{
		{"503 with Retry-After", store.Answer{Status: 503, Header: http.Header{"Retry-After": {"120"}}}, false, 1, 2 * time.Minute},
		{"429 with Retry-After", store.Answer{Status: 429, Header: http.Header{"Retry-After": {"120"}}}, true, 1, 2 * time.Minute},
		{"429 with a long Retry-After", store.Answer{Status: 429, Header: http.Header{"Retry-After": {"86400"}}}, true, 1, 5 * time.Minute},
		{"503 with a Retry-After that fits", store.Answer{Status: 503, Header: http.Header{"Retry-After": {"8"}}}, false, 3, 8 * time.Second},
		{"401", store.Answer{Status: 401}, true, 1, time.Second},
		{"404", store.Answer{Status: 404}, true, 1, time.Second},
		{"401 by code", store.Answer{Status: 200, Body: []byte(`{"responseCode":"4012500"}`)}, true, 1, time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, e *env) {
				t.Helper()
				synctest.Wait() // the start of the deliveries makes everything due
				e.app.set(func(c callstore.Call) (store.Answer, error) {
					if c.OrderingKey == "va" {
						return test.answer, nil
					}
					return thanks, nil
				})
				if _, err := e.Forward(t.Context(), now("k", "va")); !errors.Is(err, ErrKept) {
					t.Error(err)
				}
				kept := time.Now()
				c, err := e.Get(t.Context(), "k")
				if err != nil || c == nil || c.Refused != test.refused || c.Due.Sub(kept) < test.wait || c.Due.Sub(kept) > test.wait*6/5 {
					t.Fatalf("refused %v, due after %s, %v", c.Refused, c.Due.Sub(kept), err)
				}
				if got := len(e.app.given()); got != test.tries {
					t.Errorf("%d attempts while DOKU waited", got)
				}
				if test.wait < time.Minute {
					return
				}
				time.Sleep(retryNowInterval)
				if _, err := e.Forward(t.Context(), now("other", "other")); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if tried := strings.Contains(fmt.Sprint(e.app.given()[test.tries:]), "k/"); tried == test.refused {
					t.Errorf("after the success of another call: tried is %v", tried)
				}
			})
		})
	}
}
