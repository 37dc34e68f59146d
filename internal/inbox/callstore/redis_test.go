package callstore

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRetryNowReachesEveryOrderingKeyInRedis(t *testing.T) {
	t.Parallel()
	r := newRedis(t)
	at := time.Now()
	const many = 2 * redisPage // two thirds of them are refused, which is more than a page
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for n := worker; n < many; n += 8 {
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
	}{{false, (many + 2) / 3}, {true, many}} {
		if err := r.RetryNow(t.Context(), "box", at, test.refused); err != nil {
			t.Fatal(err)
		}
		if due, _, err := r.Due(t.Context(), "box", at, 2*many); err != nil || len(due) != test.due {
			t.Errorf("%d are due, %v, expected %d", len(due), err, test.due)
		}
	}
}

func TestCallsThatRedisHasEvictedBlockNothing(t *testing.T) {
	t.Parallel()
	r := newRedis(t)
	ctx := t.Context()
	for _, key := range []string{"ghost", "kept", "ghost2", "kept2"} {
		if _, _, err := r.Add(ctx, call(key, "va")); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"ghost", "ghost2"} {
		if err := r.in.Client.Del(ctx, r.in.Places[0].Base("box")+"call:"+key).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if added, acked, err := r.Add(ctx, call("next", "va")); err != nil || acked != nil || !added {
		t.Fatal(added, acked, err)
	}
	for _, key := range []string{"kept", "kept2", "next"} {
		if first, err := r.Peek(ctx, "box", "va"); err != nil || first == nil || first.Key != key {
			t.Fatalf("the first call is %+v, %v, expected %s", first, err, key)
		}
		if err := r.Ack(ctx, call(key, "va"), thanks, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := r.Stats(ctx, "box"); err != nil || s.Waiting != 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if due, _, err := r.Due(ctx, "box", epoch.Add(time.Hour), 10); err != nil || len(due) != 0 {
		t.Errorf("due are %v, %v", due, err)
	}
}

func TestADeadCallStaysInRedis(t *testing.T) {
	t.Parallel()
	r := newRedis(t)
	ctx := t.Context()
	lives := func(name string) time.Duration {
		t.Helper()
		ttl, err := r.in.Client.TTL(ctx, r.in.Places[0].Base("box")+name).Result()
		if err != nil {
			t.Fatal(err)
		}
		return ttl
	}
	c := call("k", "va")
	if _, _, err := r.Add(ctx, c); err != nil {
		t.Fatal(err)
	}
	if err := r.in.Client.Expire(ctx, r.in.Places[0].Base("box")+"call:k", time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	for _, c.Dead = range []bool{false, true, false} {
		if err := r.Update(ctx, c); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"call:k", "all"} {
			if ttl := lives(name); c.Dead != (ttl < 0) || !c.Dead && ttl < time.Hour {
				t.Errorf("dead: %v: %s lives for %s", c.Dead, name, ttl)
			}
		}
	}
}

func TestNothingInRedisCanBeRead(t *testing.T) {
	t.Parallel()
	r := newRedis(t)
	if _, _, err := r.Add(t.Context(), call("k1", "va1")); err != nil {
		t.Fatal(err)
	}
	if err := r.Ack(t.Context(), call("k2", "va1"), thanks, time.Hour); err != nil {
		t.Fatal(err)
	}
	hash, err := r.in.Client.HGetAll(t.Context(), r.in.Places[0].Base("box")+"call:k1").Result()
	if err != nil {
		t.Fatal(err)
	}
	taken, err := r.in.Client.Get(t.Context(), r.in.Places[0].Base("box")+"taken:k2").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{hash["call"], taken} {
		if strings.Contains(text, "paymentRequestId") || strings.Contains(text, "responseCode") || strings.Contains(text, "merchant.example") {
			t.Errorf("can be read: %q", text)
		}
	}
	if _, _, err := r.Add(t.Context(), Call{Key: "k3", Inbox: "box", Account: "stranger"}); !errors.Is(err, ErrStore) {
		t.Errorf("of an unknown account: %v", err)
	}
	keys, err := r.in.Client.Keys(t.Context(), "*").Result()
	if err != nil || len(keys) < 5 {
		t.Fatalf("keys %v, %v", keys, err)
	}
	for _, key := range keys {
		if key == r.in.NamesKey() {
			continue // it has only names
		}
		if ttl, err := r.in.Client.TTL(t.Context(), key).Result(); err != nil || ttl <= 0 {
			t.Errorf("%s lives for %s, %v", key, ttl, err)
		}
	}
}
