package inbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

func TestForward(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		run  func(*testing.T, *env)
	}{
		{"the app's answer goes to DOKU, and a repeat gets it again", forwardRepeat},
		{"a refusal by HTTP status and code goes to DOKU, and nothing is kept", forwardRefused(answering(404, `{"responseCode":"4042512"}`))},
		{"a refusal by responseCode goes to DOKU, and nothing is kept", forwardRefused(saying("4042512"))},
		{"DOKU need not try again if the app restarts", forwardRestart},
		{"a call is kept while the app is down", forwardKept(down)},
		{"a call is kept while the app answers 503", forwardKept(status(503))},
		{"a call is kept while the app answers 429", forwardKept(status(429))},
		{"a call is kept while the app answers 500 by responseCode", forwardKept(saying("5002500"))},
		{"a call is kept while the app hangs", forwardKept(hanging)},
		{"an answer that decides nothing is not tried again while DOKU waits, but soon after", forwardUndecided(status(404))},
		{"nor is a redirect", forwardUndecided(status(302))},
		{"nor is a wrong key", forwardUndecided(saying("4012500"))},
		{"a call that the app may have taken is tried a few times, hours apart, and then it is dead", forwardMaybeTaken},
		{"DOKU's retry of a call that the app may have taken does not call the app", forwardRetryOfMaybeTaken},
		{"a call that the app may have taken does not hold up others of its virtual account", forwardPastMaybeTaken},
		{"a kept call that the app may have taken leaves its order, too", deliverMaybeTaken},
		{"a call that is held up by another one is not taken for one that the app may have taken", forwardHeldUp},
		{"a kept call is tried again soon, however often it was tried while DOKU waited", forwardKeptIsTriedSoon},
		{"a kept call goes to the app at once when the app takes another one", forwardSuccessDeliversKept},
		{"DOKU's retry of a kept call sends the kept call to the app at once", forwardRetryOfKept},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, test.run)
		})
	}
}

func forwardRepeat(t *testing.T, e *env) {
	t.Helper()
	for range 2 {
		if answer, err := e.Forward(t.Context(), now("k", "va")); err != nil || answer.Status != 200 {
			t.Errorf("%+v, %v", answer, err)
		}
	}
	if got := e.app.given(); fmt.Sprint(got) != "[k/1]" {
		t.Errorf("the app was given %v", got)
	}
}

func forwardRefused(answer func(callstore.Call) (store.Answer, error)) func(*testing.T, *env) {
	return func(t *testing.T, e *env) {
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
	}
}

// forwardUndecided is a test with an app that gives an answer which decides nothing.
func forwardUndecided(answer func(callstore.Call) (store.Answer, error)) func(*testing.T, *env) {
	return func(t *testing.T, e *env) {
		t.Helper()
		e.app.set(answer)
		begin := time.Now()
		if _, err := e.Forward(t.Context(), now("k", "va")); !errors.Is(err, ErrKept) || time.Since(begin) != 0 {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		if got := e.app.given(); fmt.Sprint(got) != "[k/1]" {
			t.Errorf("the app was given %v", got)
		}
		e.app.set(nil)
		time.Sleep(2 * time.Second)
		if n := e.waiting(t); n != 0 {
			t.Errorf("%d are still kept", n)
		}
	}
}

// attemptTimes returns an app that records when it is called, in seconds from now on.
func attemptTimes(answer store.Answer) (times *[]int, app func(callstore.Call) (store.Answer, error)) {
	begin := time.Now()
	times = new([]int)
	return times, func(callstore.Call) (store.Answer, error) {
		*times = append(*times, int(time.Since(begin).Seconds()))
		return answer, nil
	}
}

func forwardMaybeTaken(t *testing.T, e *env) {
	t.Helper()
	times, app := attemptTimes(store.Answer{Status: 200, Body: []byte("OK")})
	e.app.set(app)
	if _, err := e.Forward(t.Context(), now("k", "va")); !errors.Is(err, ErrKept) {
		t.Errorf("error %v", err)
	}
	time.Sleep(24 * time.Hour)
	const hour = 3600
	want := []int{0, 2, 2 + 60, 62 + hour/2, 62 + hour/2 + 6*hour, 62 + hour/2 + 18*hour}
	if fmt.Sprint(*times) != fmt.Sprint(want) {
		t.Errorf("attempts at %v, expected %v", *times, want)
	}
	if s, err := e.store.Stats(t.Context(), "box"); err != nil || s.Waiting != 0 || s.Dead != 1 || e.events[EventDead] != 1 {
		t.Errorf("%+v, %v, %v", s, e.events, err)
	}
	e.app.set(nil)
	if found, err := e.Retry(t.Context(), "k"); err != nil || !found {
		t.Error(found, err)
	}
	time.Sleep(time.Second)
	if s, err := e.store.Stats(t.Context(), "box"); err != nil || s.Waiting+s.Dead != 0 {
		t.Errorf("after a retry by hand: %+v, %v", s, err)
	}
}

func forwardRetryOfMaybeTaken(t *testing.T, e *env) {
	t.Helper()
	times, app := attemptTimes(store.Answer{Status: 200})
	e.app.set(app)
	for range 3 {
		if _, err := e.Forward(t.Context(), now("k", "va")); !errors.Is(err, ErrKept) {
			t.Errorf("error %v", err)
		}
	}
	if len(*times) != 1 {
		t.Errorf("attempts at %v", *times)
	}
}

func forwardPastMaybeTaken(t *testing.T, e *env) {
	t.Helper()
	e.app.set(status(200))
	if _, err := e.Forward(t.Context(), now("k1", "va")); !errors.Is(err, ErrKept) {
		t.Errorf("error %v", err)
	}
	time.Sleep(5 * time.Minute) // the next attempt is in half an hour
	e.app.set(nil)
	if _, err := e.Forward(t.Context(), now("k2", "va")); err != nil {
		t.Errorf("error %v", err)
	}
	time.Sleep(time.Minute) // what is taken makes nothing due that may have been taken
	if got := e.app.given(); fmt.Sprint(got) != "[k1/1 k1/2 k1/3 k2/1]" {
		t.Errorf("the app was given %v", got)
	}
}

func deliverMaybeTaken(t *testing.T, e *env) {
	t.Helper()
	e.app.set(down)
	for _, key := range []string{"k1", "k2"} {
		if err := e.Enqueue(t.Context(), now(key, "va")); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(time.Minute)
	e.app.set(func(c callstore.Call) (store.Answer, error) {
		if c.Key == "k1" {
			return store.Answer{Status: 200}, nil
		}
		return thanks, nil
	})
	time.Sleep(10 * time.Minute)
	if first, err := e.store.Get(t.Context(), "box", "k1"); err != nil || first == nil || first.MaybeTaken != 3 {
		t.Errorf("%+v, %v", first, err)
	}
	if n := e.waiting(t); n != 1 {
		t.Errorf("%d are kept", n)
	}
}

func forwardHeldUp(t *testing.T, e *env) {
	t.Helper()
	e.app.set(func(c callstore.Call) (store.Answer, error) {
		if c.Key == "k1" {
			return store.Answer{Status: 404}, nil
		}
		return store.Answer{Status: 200}, nil
	})
	for _, key := range []string{"k1", "k2"} {
		if _, err := e.Forward(t.Context(), now(key, "va")); !errors.Is(err, ErrKept) {
			t.Errorf("error %v", err)
		}
	}
	if second, err := e.store.Get(t.Context(), "box", "k2"); err != nil || second == nil || second.MaybeTaken != 0 ||
		second.OrderingKey != "va" {
		t.Errorf("%+v, %v", second, err)
	}
	if got := e.app.given(); fmt.Sprint(got) != "[k1/1 k1/2]" {
		t.Errorf("the app was given %v", got)
	}
}

func forwardRestart(t *testing.T, e *env) {
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
}

func forwardKept(answer func(callstore.Call) (store.Answer, error)) func(*testing.T, *env) {
	return func(t *testing.T, e *env) {
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
	}
}

func hanging(callstore.Call) (store.Answer, error) {
	time.Sleep(time.Minute)
	return store.Answer{}, errors.New("too late")
}

func forwardKeptIsTriedSoon(t *testing.T, e *env) {
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
}

func forwardSuccessDeliversKept(t *testing.T, e *env) {
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
}

func forwardRetryOfKept(t *testing.T, e *env) {
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
}

func TestWithoutItsStoreForwardReportsThatACallIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		leases := store.NewMemory()
		defer leases.Close()
		e := newEnv(t, broken{}, leases)
		e.app.set(down)
		if _, err := e.Forward(t.Context(), now("k", "va")); !errors.Is(err, ErrLost) || !errors.Is(err, callstore.ErrStore) {
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
		if err := e.Enqueue(t.Context(), now("k", "va")); !errors.Is(err, callstore.ErrStore) {
			t.Errorf("accepting: %v", err)
		}
	})
}

// broken is a store that cannot be read or written.
type broken struct{ callstore.Store }

func (broken) Add(context.Context, callstore.Call) (bool, *store.Answer, error) {
	return false, nil, callstore.ErrStore
}

func (broken) Lookup(context.Context, string, string) (*store.Answer, bool, error) {
	return nil, false, callstore.ErrStore
}

func (broken) Ack(context.Context, callstore.Call, store.Answer, time.Duration) error {
	return callstore.ErrStore
}

func (broken) Peek(context.Context, string, string) (*callstore.Call, error) {
	return nil, callstore.ErrStore
}

func TestAnAttemptHasTimeToSucceed(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, e *env) {
		t.Helper()
		deliver := e.cfg.Deliver
		e.cfg.Deliver = func(ctx context.Context, c callstore.Call) (store.Answer, error) {
			if end, _ := ctx.Deadline(); time.Until(end) < forwardMinTime {
				t.Errorf("an attempt begins %s before its end", time.Until(end))
			}
			return deliver(ctx, c)
		}
		e.app.set(func(callstore.Call) (store.Answer, error) {
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
		long := store.Answer{
			Status: 201,
			Body:   []byte(`{"responseCode":"2002500","responseMessage":"` + strings.Repeat("x", 200<<10) + `"}`),
		}
		e.app.set(func(callstore.Call) (store.Answer, error) { return long, nil })
		c := now("k", "va")
		if answer, err := e.Forward(t.Context(), c); err != nil || len(answer.Body) != len(long.Body) {
			t.Errorf("HTTP %d, %v", answer.Status, err)
		}
		answer, err := e.Forward(t.Context(), c)
		body := string(answer.Body)
		if err != nil || answer.Status != 200 || !strings.Contains(body, `"2002500"`) || !strings.Contains(body, `"paymentRequestId":"k"`) {
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
