package doktest

import (
	"net"
	"os/exec"
	"testing"

	"github.com/redis/go-redis/v9"
)

// Redis is a Redis server for one test.
type Redis struct {
	URL string

	address string
	options []string
	process *Process
}

// StartRedis starts a server that keeps nothing on disk, unless options say
// otherwise, and ends with the test.
func StartRedis(t testing.TB, options ...string) *Redis {
	t.Helper()
	Need(t, "redis-server")
	r := &Redis{address: FreeAddress(t), options: options}
	r.URL = "redis://" + r.address + "/0"
	r.Start(t)
	return r
}

// Start starts the server again, empty, after it was killed.
func (r *Redis) Start(t testing.TB) {
	t.Helper()
	host, port, err := net.SplitHostPort(r.address)
	if err != nil {
		t.Fatal(err)
	}
	options := append([]string{"--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--dir", t.TempDir()}, r.options...)
	r.process = Start(t, new(Log), exec.Command("redis-server", options...), r.address)
}

// Kill ends the server as a crash does.
func (r *Redis) Kill() { r.process.Kill() }

// SilentRedis returns the URL of a server that takes connections and says nothing,
// until the test ends.
func SilentRedis(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // who connects is never accepted
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return "redis://" + listener.Addr().String() + "/0"
}

// Dump returns all values that are strings, by their keys.
func (r *Redis) Dump(t testing.TB) map[string]string {
	t.Helper()
	options, err := redis.ParseURL(r.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	defer func() { _ = client.Close() }()
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
