package ledger

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

func TestARedisThatSaysNothingIsAStoreThatIsAway(t *testing.T) {
	t.Parallel()
	r, err := store.NewRedis(store.RedisConfig{URL: doktest.SilentRedis(t) + "?read_timeout=10m"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	for _, test := range []struct {
		name      string
		lenient   bool
		err       error
		delivered int32
	}{
		{"calls are refused", false, ErrLedger, 0},
		{"or go to the app, if the ledger is lenient", true, nil, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := NewLedger(store.Scope(r, test.name), DefaultLease)
			l.Lenient = test.lenient
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // as long as doku_verify waits for the app
			defer cancel()
			a := &app{answer: taken}
			out, err := l.Deliver(ctx, identity("1", "p", "b"), a.call)
			if !errors.Is(err, test.err) || errors.Is(err, ErrInFlight) || a.calls.Load() != test.delivered || ctx.Err() != nil {
				t.Errorf("error %v after %d calls of the app; the context's is %v", err, a.calls.Load(), ctx.Err())
			}
			if test.lenient && !errors.Is(out.Unkept, store.ErrStore) {
				t.Errorf("unkept: %v", out.Unkept)
			}
		})
	}
}
