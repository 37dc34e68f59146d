package doktest

import (
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Redis is a Redis server for one test.
type Redis struct {
	URL string

	address string
	folder  string
	options []string
	process *Process
}

// StartRedis starts a server that keeps nothing on disk, unless options say
// otherwise, and ends with the test.
func StartRedis(t testing.TB, options ...string) *Redis {
	t.Helper()
	Need(t, "redis-server")
	r := &Redis{address: FreeAddress(t), folder: t.TempDir(), options: options}
	r.URL = "redis://" + r.address + "/0"
	r.Start(t)
	return r
}

// Start starts the server again after it was killed or stopped, with what it has kept on
// disk.
func (r *Redis) Start(t testing.TB) {
	t.Helper()
	host, port, err := net.SplitHostPort(r.address)
	if err != nil {
		t.Fatal(err)
	}
	options := append([]string{"--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--dir", r.folder}, r.options...)
	r.process = Start(t, new(Log), exec.Command("redis-server", options...), r.address)
}

// Options adds options for the next start.
func (r *Redis) Options(options ...string) { r.options = append(r.options, options...) }

// Kill ends the server as a crash does.
func (r *Redis) Kill() { r.process.Kill() }

// Stop ends the server as its service manager does.
func (r *Redis) Stop(t testing.TB) {
	t.Helper()
	if !r.process.Stop() {
		t.Fatal("Redis did not end")
	}
}

// SilentRedis returns the URL of a server that takes connections and never answers,
// until the test ends.
func SilentRedis(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // nothing accepts its connections
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return "redis://" + listener.Addr().String() + "/0"
}

// client returns a client of the server, until the test ends.
func (r *Redis) client(t testing.TB) *redis.Client {
	t.Helper()
	options, err := redis.ParseURL(r.URL)
	if err != nil {
		t.Fatal(err)
	}
	options.ReadTimeout, options.DialTimeout = Patience, Patience
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// Dump returns all values that are strings, by their keys.
func (r *Redis) Dump(t testing.TB) map[string]string {
	t.Helper()
	client := r.client(t)
	keys, err := client.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	content := make(map[string]string, len(keys))
	for _, key := range keys {
		if content[key], err = client.Get(t.Context(), key).Result(); err != nil {
			t.Fatal(err)
		}
	}
	return content
}

// TTLs returns how long the keys that match a pattern of the command KEYS still live.
func (r *Redis) TTLs(t testing.TB, pattern string) map[string]time.Duration {
	t.Helper()
	client := r.client(t)
	keys, err := client.Keys(t.Context(), pattern).Result()
	if err != nil {
		t.Fatal(err)
	}
	ttls := make(map[string]time.Duration, len(keys))
	for _, key := range keys {
		ttl, err := client.PTTL(t.Context(), key).Result()
		if err != nil {
			t.Fatal(err)
		}
		if ttl != -2 { // otherwise the key has just ended
			ttls[key] = ttl
		}
	}
	return ttls
}
