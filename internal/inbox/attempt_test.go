package inbox

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

// hang is an app that answers after an hour.
func hang(callstore.Call) (store.Answer, error) {
	time.Sleep(time.Hour)
	return thanks, nil
}

func TestAnAttemptThatIsNotOnRecordIsNotCounted(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		run  func(*testing.T, *env, *callstore.Bolt)
		want string
	}{
		"the deliveries stop during one": {func(t *testing.T, e *env, _ *callstore.Bolt) {
			t.Helper()
			stop := e.run(t.Context())
			e.app.set(hang)
			if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			stop()
			e.app.set(nil)
			defer e.run(t.Context())()
			time.Sleep(2 * time.Hour) // until the app has ended, too
		}, "[k/1 k/1]"},
		"its failure cannot be written": {func(t *testing.T, e *env, b *callstore.Bolt) {
			t.Helper()
			broken := &forgetful{Store: b}
			e.cfg.Store = broken
			broken.broken.Store(true)
			e.app.set(down)
			defer e.run(t.Context())()
			if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			broken.broken.Store(false)
			e.app.set(nil)
			time.Sleep(3 * time.Second)
		}, "[k/1 k/1]"},
		"DOKU repeats what is not kept": {func(t *testing.T, e *env, _ *callstore.Bolt) {
			t.Helper()
			for _, code := range []string{"4042512", "2002500"} {
				e.app.set(saying(code))
				if _, err := e.Forward(t.Context(), now("k", "va")); err != nil {
					t.Fatal(err)
				}
			}
		}, "[k/1 k/1]"},
		"DOKU repeats what is kept": {func(t *testing.T, e *env, _ *callstore.Bolt) {
			t.Helper()
			e.app.set(answering(404, ""))
			if _, err := e.Forward(t.Context(), now("k", "va")); !errors.Is(err, ErrKept) {
				t.Fatal(err)
			}
			e.app.set(nil)
			if _, err := e.Forward(t.Context(), now("k", "va")); err != nil {
				t.Fatal(err)
			}
		}, "[k/1 k/2]"},
		"it is given up, and retried by hand": {func(t *testing.T, e *env, _ *callstore.Bolt) {
			t.Helper()
			defer e.run(t.Context())()
			e.app.set(answering(200, ""))
			if _, err := e.Forward(t.Context(), now("k", "va")); !errors.Is(err, ErrKept) {
				t.Fatal(err)
			}
			time.Sleep(24 * time.Hour)
			e.app.set(nil)
			if known, err := e.Retry(t.Context(), "k"); err != nil || !known {
				t.Fatal(known, err)
			}
			time.Sleep(time.Second)
		}, "[k/1 k/2 k/3 k/4 k/5 k/6 k/7]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubbleWith(t, func(t *testing.T, b *callstore.Bolt, leases store.Store) {
				t.Helper()
				e := newEnv(t, b, leases)
				test.run(t, e, b)
				if got := fmt.Sprint(e.app.given()); got != test.want {
					t.Errorf("the app was given %s, expected %s", got, test.want)
				}
			})
		})
	}
}
