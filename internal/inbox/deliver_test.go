package inbox

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

// forgetful is a store that cannot be written while it is broken, except by Add.
type forgetful struct {
	callstore.Store
	broken atomic.Bool
}

func (f *forgetful) Ack(ctx context.Context, c callstore.Call, answer store.Answer, ttl time.Duration) error {
	if f.broken.Load() {
		return callstore.ErrStore
	}
	return f.Store.Ack(ctx, c, answer, ttl)
}

func (f *forgetful) Update(ctx context.Context, c callstore.Call) error {
	if f.broken.Load() {
		return callstore.ErrStore
	}
	return f.Store.Update(ctx, c)
}

func TestWhileTheStoreCannotBeWritten(t *testing.T) {
	t.Parallel()
	inBubbleWith(t, func(t *testing.T, b *callstore.Bolt, leases store.Store) {
		t.Helper()
		s := &forgetful{Store: b}
		e := newEnv(t, s, leases)
		defer e.run(t.Context())()
		s.broken.Store(true)
		if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if got := e.app.given(); fmt.Sprint(got) != "[k/1]" {
			t.Errorf("the app got a call again that it had taken: %v", got)
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
				t.Errorf("%s of a call that is gone: %v, %v", what, known, err)
			}
		}
		if all, _, err := e.List(t.Context(), "", 10); err != nil || len(all) != 0 {
			t.Errorf("%d are kept, %v", len(all), err)
		}
	})
}

func TestStoppingAndStarting(t *testing.T) {
	t.Parallel()
	inBubbleWith(t, func(t *testing.T, b *callstore.Bolt, leases store.Store) {
		t.Helper()
		e := newEnv(t, b, leases)
		stop := e.run(t.Context())
		e.app.set(down)
		if err := e.Enqueue(t.Context(), now("k", "va")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		e.app.set(func(callstore.Call) (store.Answer, error) {
			time.Sleep(3 * time.Second)
			return thanks, nil
		})
		if _, err := e.Retry(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		stop()
		if n := e.waiting(t); n != 0 {
			t.Errorf("%d wait, though the app took all calls while the deliveries stopped", n)
		}

		stop = e.run(t.Context())
		e.app.set(down)
		if err := e.Enqueue(t.Context(), now("k2", "va")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		stop()
		e.app.set(func(callstore.Call) (store.Answer, error) {
			time.Sleep(time.Hour)
			return thanks, nil
		})
		stop = e.run(t.Context())
		synctest.Wait()
		if last := e.app.given(); !strings.HasPrefix(last[len(last)-1], "k2/") {
			t.Errorf("after the start, the app got %v", last[len(last)-1])
		}
		begin := time.Now()
		stop()
		if took := time.Since(begin); took > 6*time.Second {
			t.Errorf("stopping took %s", took)
		}
		if n := e.waiting(t); n != 1 {
			t.Errorf("%d wait", n)
		}
		time.Sleep(2 * time.Hour) // until the app has ended
	})
}

func TestOthersTakeOverAfterAReload(t *testing.T) {
	t.Parallel()
	inBubbleWith(t, func(t *testing.T, b *callstore.Bolt, leases store.Store) {
		t.Helper()
		s := &forgetful{Store: b}
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
			t.Errorf("the app got a call again that it had taken: %v; %d wait", got, after.waiting(t))
		}
	})
}
