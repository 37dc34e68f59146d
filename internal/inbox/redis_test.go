package inbox

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

// startCluster starts a cluster of one node, and returns its URL.
func startCluster(t *testing.T) string {
	t.Helper()
	_, bus, err := net.SplitHostPort(doktest.FreeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	url := doktest.StartRedis(t, "--cluster-enabled", "yes", "--cluster-port", bus).URL
	options, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	defer client.Close()
	if err := client.Do(t.Context(), "CLUSTER", "ADDSLOTSRANGE", "0", "16383").Err(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		info, err := client.ClusterInfo(t.Context()).Result()
		if strings.Contains(info, "cluster_state:ok") {
			return strings.TrimSuffix(url, "/0")
		}
		if time.Now().After(deadline) {
			t.Fatalf("the cluster does not come up: %s, %v", info, err)
		}
	}
}

// newRedisEnv returns an inbox in a Redis, as the sidecar makes it.
func newRedisEnv(t *testing.T, cfg store.RedisConfig, secret string) *env {
	t.Helper()
	r, leases, _ := openRedis(t, cfg, secret)
	return newEnv(t, r, leases)
}

func TestReplicasShareTheWorkAndOutliveEachOther(t *testing.T) {
	t.Parallel()
	r, leases := newRedis(t)
	var delivered, twice atomic.Int32
	var mu sync.Mutex
	seen := make(map[string]bool)
	replica := func() *env {
		e := newEnv(t, r, leases)
		e.app.set(func(c callstore.Call) (store.Answer, error) {
			mu.Lock()
			defer mu.Unlock()
			if seen[c.Key] {
				twice.Add(1)
			}
			seen[c.Key] = true
			delivered.Add(1)
			return thanks, nil
		})
		return e
	}
	// A third replica has died and still has a slot.
	two, three := replica(), replica()
	if claim, err := leases.Claim(t.Context(), "lane/of the dead", time.Second, slotName("box", "key0")); err != nil || !claim.Held {
		t.Fatal(claim, err)
	}
	stop2, stop3 := two.run(t.Context()), three.run(t.Context())
	defer func() { stop2(); stop3() }()
	for n := range 100 {
		c := now(fmt.Sprint(n), fmt.Sprint("key", n%10))
		if err := []*env{two, three}[n%2].Enqueue(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	two.await(t, 0)
	if delivered.Load() != 100 || twice.Load() != 0 {
		t.Errorf("%d deliveries, %d of them twice", delivered.Load(), twice.Load())
	}
}

func TestInACluster(t *testing.T) {
	t.Parallel()
	e := newRedisEnv(t, store.RedisConfig{URL: startCluster(t), Cluster: true}, "secret")
	defer e.run(t.Context())()
	for n := range 20 {
		if err := e.Enqueue(t.Context(), now(fmt.Sprint("a", n), fmt.Sprint("account/", n))); err != nil {
			t.Fatal(err)
		}
		if answer, err := e.Forward(t.Context(), now(fmt.Sprint("p", n), fmt.Sprint("account/", n))); err != nil || answer.Status != 200 {
			t.Fatalf("%+v, %v", answer, err)
		}
	}
	e.await(t, 0)
	if names, err := e.store.Inboxes(t.Context()); err != nil || len(names) != 0 {
		t.Errorf("inboxes %v, %v", names, err)
	}
}

func TestWhatCannotBeReadHindersNobody(t *testing.T) {
	t.Parallel()
	cfg := store.RedisConfig{URL: doktest.StartRedis(t).URL}
	before, after := newRedisEnv(t, cfg, "a secret that is forgotten"), newRedisEnv(t, cfg, "secret")
	for n := range 40 { // more than one dispatch reads
		if err := before.Enqueue(t.Context(), now(fmt.Sprint("old", n), fmt.Sprint("account/old", n))); err != nil {
			t.Fatal(err)
		}
	}
	stop := after.run(t.Context())
	defer stop()
	for n := range 5 {
		if err := after.Enqueue(t.Context(), now(fmt.Sprint("new", n), fmt.Sprint("account/new", n))); err != nil {
			t.Fatal(err)
		}
	}
	after.await(t, 40)
	after.cfg.AnswerWithin = time.Second
	if _, err := after.Forward(t.Context(), now("later", "account/old1")); !errors.Is(err, ErrKept) {
		t.Errorf("a call behind one that cannot be read: %v", err)
	}
	if got := after.app.given(); len(got) != 5 {
		t.Errorf("the app was given %v", got)
	}
	listed, _, err := after.List(t.Context(), "", 100)
	if err != nil || len(listed) != 41 {
		t.Errorf("%d are listed, %v", len(listed), err)
	}
	for _, c := range listed {
		unread, old := strings.HasPrefix(c.Error, "it cannot be read"), strings.HasPrefix(c.Key, "old")
		if old != unread || c.Account != "account" || !strings.HasPrefix(c.OrderingKey, "account/old") || c.Received.IsZero() {
			t.Errorf("listed %+v", c)
		}
	}
	if n := strings.Count(after.log.String(), "cannot deliver the kept calls"); n == 0 {
		t.Errorf("it is not logged: %s", after.log)
	}
	stop()
	defer before.run(t.Context())() // with the secret
	before.await(t, 1)
}

func TestAFullRedisIsEmptied(t *testing.T) {
	t.Parallel()
	url := doktest.StartRedis(t, "--maxmemory-policy", "noeviction").URL
	e := newRedisEnv(t, store.RedisConfig{URL: url}, "secret")
	for n := range 50 {
		c := now(fmt.Sprint(n), fmt.Sprint("account/", n))
		c.Body = make([]byte, 50_000)
		if err := e.Enqueue(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	options, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	defer client.Close()
	if err := client.ConfigSet(t.Context(), "maxmemory", "2mb").Err(); err != nil {
		t.Fatal(err)
	}
	if err := e.Enqueue(t.Context(), now("more", "account/more")); !errors.Is(err, callstore.ErrStore) {
		t.Fatalf("it is not full: %v", err)
	}
	defer e.run(t.Context())()
	e.await(t, 0)
}
