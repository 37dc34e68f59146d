package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

func newMemory(t *testing.T) *Memory {
	t.Helper()
	m := NewMemory()
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func newRedis(t *testing.T, server *doktest.Redis) *Redis {
	t.Helper()
	r, err := NewRedis(RedisConfig{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func scoped(t *testing.T, s Store, account string, secrets ...string) Store {
	t.Helper()
	var keys [][]byte
	for _, secret := range secrets {
		keys = append(keys, []byte(secret))
	}
	sc := Scope(s, account)
	if len(keys) > 0 {
		if err := sc.SetSecrets(keys...); err != nil {
			t.Fatal(err)
		}
	}
	return sc
}

// TestEveryStoreKeepsTheContract holds both stores, bare and within a scope,
// against what Store promises.
func TestEveryStoreKeepsTheContract(t *testing.T) {
	t.Parallel()
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		contract(t, newMemory(t))
	})
	t.Run("memory within a scope", func(t *testing.T) {
		t.Parallel()
		contract(t, scoped(t, newMemory(t), "brand"))
	})
	t.Run("Redis", func(t *testing.T) {
		t.Parallel()
		contract(t, newRedis(t, doktest.StartRedis(t)))
	})
	t.Run("Redis within a scope", func(t *testing.T) {
		t.Parallel()
		contract(t, scoped(t, newRedis(t, doktest.StartRedis(t)), "brand", "secret"))
	})
}

func contract(t *testing.T, s Store) {
	t.Helper()
	ctx := t.Context()
	const long = time.Hour

	get := func(key, want string) {
		t.Helper()
		if got, err := s.Get(ctx, key); err != nil || string(got) != want {
			t.Errorf("%s: found %q, %v, expected %q", key, got, err, want)
		}
	}
	claim := func(owner string, held bool, keys ...string) Claim {
		t.Helper()
		c, err := s.Claim(ctx, owner, long, keys...)
		if err != nil || c.Held != held || !held && (len(c.Values) != len(keys) || len(c.Holders) != len(keys)) {
			t.Fatalf("claim of %v for %s: %+v, %v, expected held %v", keys, owner, c, err, held)
		}
		return c
	}
	finish := func(owner string, done bool, entries ...Entry) {
		t.Helper()
		if got, err := s.Finish(ctx, owner, long, entries...); err != nil || got != done {
			t.Errorf("finishing %v for %s: %v, %v, expected %v", entries, owner, got, err, done)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	get("absent", "")
	must(s.Set(ctx, "set", []byte("one"), long))
	must(s.Set(ctx, "set", []byte("two"), long))
	get("set", "two")

	for _, add := range []struct{ value, earlier string }{{"first", ""}, {"second", "first"}, {"first", "first"}} {
		if earlier, err := s.Add(ctx, "added", []byte(add.value), long); err != nil || string(earlier) != add.earlier {
			t.Errorf("adding %s: %q, %v", add.value, earlier, err)
		}
	}
	get("added", "first")

	t.Run("a claim is for all keys or none", func(t *testing.T) {
		claim("a", true, "k1", "k2")
		c := claim("b", false, "k2", "k3")
		if c.Holders[0] != "a" || c.Holders[1] != "" {
			t.Errorf("holders %q", c.Holders)
		}
		claim("b", true, "k3")
		claim("a", true, "k1", "k2") // prolongs
	})
	t.Run("only the holder releases", func(*testing.T) {
		must(s.Release(ctx, "b", "k1", "k2"))
		claim("b", false, "k1")
		must(s.Release(ctx, "a", "k1", "k2"))
		claim("b", true, "k1")
		must(s.Release(ctx, "b", "k1"))
	})
	t.Run("finishing leaves values and ends the leases", func(t *testing.T) {
		claim("a", true, "f1", "f2")
		finish("b", false, Entry{"f1", []byte("x")}, Entry{"f2", []byte("y")})
		get("f1", "")
		finish("a", true, Entry{"f1", []byte("x")}, Entry{"f2", []byte("y")})
		get("f1", "x")
		c := claim("b", false, "f0", "f2")
		if c.Values[0] != nil || string(c.Values[1]) != "y" || c.Holders[1] != "" {
			t.Errorf("claim %q %q", c.Values, c.Holders)
		}
		finish("b", false, Entry{"f2", []byte("z")})
		get("f2", "y")
	})
	t.Run("a lease that ran out is no hindrance unless somebody took over", func(*testing.T) {
		finish("late", true, Entry{"never claimed", []byte("x")})
		claim("new", true, "taken over")
		finish("late", false, Entry{"taken over", []byte("x")})
	})
	t.Run("a value that a leased key is given is in the way of its owner", func(*testing.T) {
		claim("a", true, "l1", "l2")
		must(s.Set(ctx, "l2", []byte("x"), long))
		claim("a", false, "l1", "l2")
		finish("a", false, Entry{"l1", []byte("y")}, Entry{"l2", []byte("y")})
		get("l1", "")
		get("l2", "x")
		must(s.Release(ctx, "a", "l1", "l2"))
		claim("b", true, "l1")
	})
	t.Run("no key is in the way of another's lease", func(*testing.T) {
		for _, key := range []string{"n:lease", "lease:n", "n/lease"} {
			must(s.Set(ctx, key, []byte("mine"), long))
		}
		claim("a", true, "n")
		finish("a", true, Entry{"n", []byte("x")})
		for _, key := range []string{"n:lease", "lease:n", "n/lease"} {
			get(key, "mine")
		}
	})
	t.Run("of many who claim at once one gets it", func(t *testing.T) {
		var held atomic.Int32
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				c, err := s.Claim(ctx, fmt.Sprint("owner", i), long, "race", "race2")
				if err != nil {
					t.Error(err)
				}
				if c.Held {
					held.Add(1)
				}
			})
		}
		wg.Wait()
		if n := held.Load(); n != 1 {
			t.Errorf("%d hold it", n)
		}
	})
	t.Run("what cannot be kept is refused", func(t *testing.T) {
		_, added := s.Add(ctx, "empty", nil, long)
		_, finished := s.Finish(ctx, "a", long, Entry{"empty", nil})
		_, claimed := s.Claim(ctx, "a", 0, "empty")
		for what, err := range map[string]error{
			"an empty value": s.Set(ctx, "empty", nil, long), "no time to live": s.Set(ctx, "empty", []byte("x"), 0),
			"adding nothing": added, "finishing with nothing": finished, "a lease of no time": claimed,
		} {
			if !errors.Is(err, ErrStore) {
				t.Errorf("%s: error %v", what, err)
			}
		}
	})
}

func TestManyValuesOfAllSizesAreKeptApart(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	const many = 3000 // more than one piece of addresses has
	value := func(i int) []byte { return bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 1+i*i%(textsSize/3)) }
	for i := range many {
		if err := m.Set(t.Context(), fmt.Sprint("key", i), value(i), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	for i := range many {
		if got, err := m.Get(t.Context(), fmt.Sprint("key", i)); err != nil || !bytes.Equal(got, value(i)) {
			t.Fatalf("key%d: %d bytes, %v, expected %d", i, len(got), err, len(value(i)))
		}
	}
}

func TestWhatIsKeptExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory()
		defer m.Close()
		ctx := context.Background()
		if err := m.Set(ctx, "value", []byte("x"), time.Minute); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Claim(ctx, "a", time.Second, "lease"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second + 1)
		if c, err := m.Claim(ctx, "b", time.Second, "lease"); err != nil || !c.Held {
			t.Errorf("a lease outlived its time: %+v, %v", c, err)
		}
		time.Sleep(time.Minute)
		if value, _ := m.Get(ctx, "value"); value != nil {
			t.Error("a value outlived its time")
		}
	})
}

func TestEverythingInRedisHasATimeToLive(t *testing.T) {
	t.Parallel()
	r := newRedis(t, doktest.StartRedis(t))
	s := scoped(t, r, "brand", "secret")
	ctx := t.Context()
	for _, err := range []error{
		s.Set(ctx, "a", []byte("x"), time.Hour),
		func() error { _, err := s.Add(ctx, "b", []byte("x"), time.Hour); return err }(),
		func() error { _, err := s.Claim(ctx, "me", time.Hour, "c", "d"); return err }(),
		func() error { _, err := s.Finish(ctx, "me", time.Hour, Entry{"c", []byte("x")}); return err }(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	keys, err := r.client.Keys(ctx, "*").Result()
	if err != nil || len(keys) != 4 {
		t.Fatalf("keys %v, %v", keys, err)
	}
	for _, key := range keys {
		if ttl, err := r.client.TTL(ctx, key).Result(); err != nil || ttl <= 0 || !strings.HasPrefix(key, "doku:value:{brand}:") && !strings.HasPrefix(key, "doku:lease:{brand}:") {
			t.Errorf("%s lives for %s, %v", key, ttl, err)
		}
	}
}

func TestAScopeKeepsValuesSecretAndInTheirPlace(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	ctx := t.Context()
	mine := scoped(t, m, "mine", "new secret", "old secret")
	if err := mine.Set(ctx, "token", []byte("eyJ-token"), time.Hour); err != nil {
		t.Fatal(err)
	}
	kept, _ := m.Get(ctx, "{mine}:token")
	if kept == nil || bytes.Contains(kept, []byte("eyJ")) {
		t.Errorf("kept as %q", kept)
	}
	if value, err := scoped(t, m, "mine", "other", "new secret").Get(ctx, "token"); err != nil || string(value) != "eyJ-token" {
		t.Errorf("with the secret in second place: %q, %v", value, err)
	}
	if value, err := scoped(t, m, "other", "new secret").Get(ctx, "token"); err != nil || value != nil {
		t.Errorf("another account sees %q, %v", value, err)
	}
	if _, err := scoped(t, m, "mine", "other").Get(ctx, "token"); !errors.Is(err, ErrStore) || !errors.Is(err, errSeal) {
		t.Errorf("with another secret: %v", err)
	}
	if err := m.Set(ctx, "{mine}:elsewhere", kept, time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := mine.Get(ctx, "elsewhere"); !errors.Is(err, errSeal) {
		t.Errorf("moved to another key: %v", err)
	}
	if err := m.Set(ctx, "{mine}:token", []byte("forged, and long enough to hold nonce and tag"), time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := mine.Get(ctx, "token"); !errors.Is(err, errSeal) {
		t.Errorf("forged: %v", err)
	}
}

// TestASecretIsChangedStepByStep: whatever one sidecar has kept, the others can
// read, though they are a step behind or ahead.
func TestASecretIsChangedStepByStep(t *testing.T) {
	t.Parallel()
	steps := [][]string{{"OLD"}, {"OLD", "NEW"}, {"NEW", "OLD"}, {"NEW"}}
	for i := range len(steps) - 1 {
		m := newMemory(t)
		for _, order := range [][2]int{{i, i + 1}, {i + 1, i}} {
			writer, reader := scoped(t, m, "brand", steps[order[0]]...), scoped(t, m, "brand", steps[order[1]]...)
			if err := writer.Set(t.Context(), "token", []byte("x"), time.Hour); err != nil {
				t.Fatal(err)
			}
			if value, err := reader.Get(t.Context(), "token"); err != nil || string(value) != "x" {
				t.Errorf("kept with %v, read with %v: %q, %v", steps[order[0]], steps[order[1]], value, err)
			}
		}
	}
}

// readOnly is a store that can be read but not written to, as a replica.
type readOnly struct{ Store }

func (readOnly) Set(context.Context, string, []byte, time.Duration) error { return ErrStore }

func TestAStoreThatKeepsNothingFailsItsCheck(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	if err := Scope(m, "mine").Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := Scope(readOnly{m}, "mine").Check(t.Context()); !errors.Is(err, ErrStore) {
		t.Errorf("read only: %v", err)
	}
}

func TestRedisThatIsAwayIsAnErrorSoon(t *testing.T) {
	t.Parallel()
	server := doktest.StartRedis(t)
	r := newRedis(t, server)
	if err := r.Set(t.Context(), "a", []byte("x"), time.Hour); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	if _, err := r.Get(t.Context(), "a"); !errors.Is(err, ErrStore) {
		t.Errorf("error %v", err)
	}
	server.Start(t)
	if _, err := r.Get(t.Context(), "a"); err != nil {
		t.Errorf("after it came back: %v", err)
	}
}

func TestRedisThatSaysNothingIsAnErrorSoon(t *testing.T) {
	t.Parallel()
	// The URL may be as patient as it likes.
	r, err := NewRedis(RedisConfig{URL: doktest.SilentRedis(t) + "?dial_timeout=10m&read_timeout=10m&write_timeout=10m&pool_timeout=10m&max_retries=9"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	s := scoped(t, r, "brand", "secret")
	for name, operation := range map[string]func(context.Context) error{
		"Ping":  r.Ping,
		"Get":   func(ctx context.Context) error { _, err := s.Get(ctx, "a"); return err },
		"Set":   func(ctx context.Context) error { return s.Set(ctx, "a", []byte("x"), time.Hour) },
		"Add":   func(ctx context.Context) error { _, err := s.Add(ctx, "a", []byte("x"), time.Hour); return err },
		"Claim": func(ctx context.Context) error { _, err := s.Claim(ctx, "me", time.Hour, "a"); return err },
		"Finish": func(ctx context.Context) error {
			_, err := s.Finish(ctx, "me", time.Hour, Entry{"a", []byte("x")})
			return err
		},
		"Release": func(ctx context.Context) error { return s.Release(ctx, "me", "a") },
		"what is sent at once": func(ctx context.Context) error {
			_, err := r.client.Pipelined(ctx, func(p redis.Pipeliner) error { return p.Ping(ctx).Err() })
			return failed(err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := operation(ctx); !errors.Is(err, ErrStore) || ctx.Err() != nil {
				t.Errorf("error %v, and of the context %v", err, ctx.Err())
			}
		})
	}
}

func TestRedisURLs(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, url, kind string }{
		{"one server", "redis://user:hunter2@localhost:6379/2?pool_size=5", "*redis.Client"},
		{"with TLS", "rediss://localhost", "*redis.Client"},
		{"a socket", "unix:///run/redis.sock?db=1", "*redis.Client"},
		{"Sentinels", "redis://localhost:26379/0?master_name=m&addr=localhost:26380", "*redis.Client"},
		{"a cluster", "redis://localhost:7000?addr=localhost:7001", "*redis.ClusterClient"},
		{"another scheme", "http://user:hunter2@localhost", ""},
		{"an unknown option", "redis://user:hunter2@localhost?speed=11", ""},
		{"no URL", "://user:hunter2@", ""},
		{"a bad port", "redis://user:hunter2@localhost:port/", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r, err := NewRedis(RedisConfig{URL: test.url})
			if test.kind == "" {
				if err == nil || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if kind := fmt.Sprintf("%T", r.client); kind != test.kind {
				t.Errorf("found a %s, expected a %s", kind, test.kind)
			}
			dials := 0
			switch client := r.client.(type) {
			case *redis.Client:
				dials = client.Options().DialerRetries
			case *redis.ClusterClient:
				dials = client.Options().DialerRetries
			}
			if dials != redisDials {
				t.Errorf("a connection is tried %d times, expected %d", dials, redisDials)
			}
			_ = r.Close()
		})
	}
}
