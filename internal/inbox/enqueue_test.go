package inbox

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

func TestEnqueue(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		run  func(*testing.T, *env)
	}{
		{"a call is kept while the responseCode is a refusal", enqueueRefused},
		{"a call is delivered at once", enqueueDelivers},
		{"it is tried again, soon and then seldom, until it is dead", enqueueUntilDead},
		{"calls of one ordering key stay in order, and do not wait for another key", enqueueOrder},
		{"a new call waits behind the kept calls of its ordering key", forwardWaitsForKept},
		{"when the app comes back, no call waits for its due time", forwardSuccessRetriesAll},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, test.run)
		})
	}
}

func enqueueRefused(t *testing.T, e *env) {
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
}

func enqueueDelivers(t *testing.T, e *env) {
	t.Helper()
	if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	if got := e.app.given(); fmt.Sprint(got) != "[k/1]" || e.waiting(t) != 0 {
		t.Errorf("the app was given %v, %d are kept", got, e.waiting(t))
	}
	// A repeat from DOKU is not delivered again.
	if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Hour)
	if got := e.app.given(); len(got) != 1 {
		t.Errorf("the app was given %v", got)
	}
}

func enqueueUntilDead(t *testing.T, e *env) {
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
		t.Errorf("%d attempts after the call was dead", got-n)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.events[EventDead] != 1 {
		t.Errorf("events %v", e.events)
	}
}

func enqueueOrder(t *testing.T, e *env) {
	t.Helper()
	e.app.set(func(c callstore.Call) (store.Answer, error) {
		time.Sleep(time.Second)
		if c.OrderingKey == "va1" && c.Attempts < 4 {
			return store.Answer{Status: 503}, nil
		}
		return thanks, nil
	})
	for n := range 4 {
		for _, orderingKey := range []string{"va1", "va2"} {
			if err := e.Enqueue(t.Context(), now(fmt.Sprint(orderingKey, "-", n), orderingKey)); err != nil {
				t.Fatal(err)
			}
		}
	}
	time.Sleep(5 * time.Second)
	for _, key := range e.app.given() {
		if strings.HasPrefix(key, "va1-") && !strings.HasPrefix(key, "va1-0/") {
			t.Errorf("%s came before the app took the first call of its ordering key", key)
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
}

func forwardWaitsForKept(t *testing.T, e *env) {
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
}

func forwardSuccessRetriesAll(t *testing.T, e *env) {
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
}
