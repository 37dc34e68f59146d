package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

func newRedis(t *testing.T, server *doktest.Redis) *Redis {
	t.Helper()
	r, err := NewRedis(RedisConfig{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
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
		func() error { _, err := s.Commit(ctx, "me", time.Hour, Entry{"c", []byte("x")}); return err }(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	keys, err := r.client.Keys(ctx, "*").Result()
	if err != nil || len(keys) < 5 { // three values, a lease, and what is remembered of it
		t.Fatalf("keys %v, %v", keys, err)
	}
	for _, key := range keys {
		ttl, err := r.client.TTL(ctx, key).Result()
		known := slices.ContainsFunc([]string{"value", "lease", "past", "contact"},
			func(kind string) bool { return strings.HasPrefix(key, "doku:"+kind+":{"+HashName("{brand}")+"}") })
		if err != nil || ttl <= 0 || !known {
			t.Errorf("%s lives for %s, %v", key, ttl, err)
		}
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
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		_, err := r.Get(t.Context(), "a")
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a minute after Redis came back: %v", err)
		}
	}
}

func TestRedisThatSaysNothingIsAnErrorSoon(t *testing.T) {
	t.Parallel()
	// The long timeouts of the URL do not matter.
	const patient = "?dial_timeout=10m&read_timeout=10m&write_timeout=10m&pool_timeout=10m&max_retries=9"
	r, err := NewRedis(RedisConfig{URL: doktest.SilentRedis(t) + patient})
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
		"Commit": func(ctx context.Context) error {
			_, err := s.Commit(ctx, "me", time.Hour, Entry{"a", []byte("x")})
			return err
		},
		"Release": func(ctx context.Context) error { return s.Release(ctx, "me", "a") },
		"a pipeline": func(ctx context.Context) error {
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
		{"no scheme", "localhost:6379", ""},
		{"no scheme, of an address", "127.0.0.1:6379", ""},
		{"no scheme, of a host that is called like one", "redis:6379", ""},
		{"no scheme, with a database", "localhost:6379/0", ""},
		{"no scheme, with a password", "user:hunter2@localhost:6379", ""},
		{"no scheme, of a host alone", "cache", ""},
		{"a scheme without slashes", "redis:localhost:6379", ""},
		{"in quotes", `"redis://user:hunter2@localhost:6379/0"`, ""},
		{"a password with a slash", "redis://user:hunter2/3@localhost", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r, err := NewRedis(RedisConfig{URL: test.url})
			if test.kind == "" {
				example := strings.Contains(fmt.Sprint(err), "redis://localhost:6379/0")
				if err == nil || strings.Contains(err.Error(), "hunter2") || !example && !strings.Contains(test.url, "speed") {
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
