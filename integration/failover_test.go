package integration

import (
	"bufio"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// startSentinel starts a Redis with a replica, and a Sentinel that watches over both.
func startSentinel(t *testing.T) (url string, master, replica *doktest.Redis) {
	t.Helper()
	durable := []string{"--appendonly", "yes", "--repl-diskless-sync-delay", "0"}
	master = doktest.StartRedis(t, durable...)
	host, port, err := net.SplitHostPort(strings.TrimSuffix(strings.TrimPrefix(master.URL, "redis://"), "/0"))
	if err != nil {
		t.Fatal(err)
	}
	replica = doktest.StartRedis(t, append(durable, "--replicaof", host+" "+port)...)
	client := connectRedis(t, replica.URL)
	doktest.Eventually(t, "the replica to be in step", func() bool {
		info, err := client.Info(t.Context(), "replication").Result()
		return err == nil && strings.Contains(info, "master_link_status:up")
	})
	sentinel := doktest.FreeAddress(t)
	_, sentinelPort, err := net.SplitHostPort(sentinel)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "sentinel.conf")
	config := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\nsentinel monitor m %s %s 1\n"+
		"sentinel down-after-milliseconds m 1000\nsentinel failover-timeout m 10000\n", sentinelPort, filepath.Dir(file), host, port)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	doktest.Start(t, new(doktest.Log), exec.Command("redis-server", file, "--sentinel"), sentinel)
	watching := connectRedis(t, "redis://"+sentinel)
	doktest.Eventually(t, "the Sentinel to know the replica", func() bool {
		known, err := watching.Do(t.Context(), "SENTINEL", "REPLICAS", "m").Slice()
		return err == nil && len(known) == 1
	})
	return "redis://" + sentinel + "/0?master_name=m", master, replica
}

// awaitCopy waits until the replica has everything that the master has now.
func awaitCopy(t *testing.T, master *redis.Client) {
	t.Helper()
	conn := master.Conn()
	defer conn.Close()
	doktest.Eventually(t, "the replica to have a copy", func() bool {
		if err := conn.Set(t.Context(), "probe", "x", time.Minute).Err(); err != nil {
			return false
		}
		n, err := conn.Wait(t.Context(), 1, 500*time.Millisecond).Result()
		return err == nil && n == 1
	})
}

// TestAFailoverLosesNothingThatRedisHasKept kills the master of a Redis with Sentinel under
// load. Redis copies writes to its replica a moment later, so it may lose the last ones. What
// was copied must be delivered.
func TestAFailoverLosesNothingThatRedisHasKept(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"after_app", "durable"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			failOverUnderLoad(t, policy)
		})
	}
}

func failOverUnderLoad(t *testing.T, policy string) {
	t.Helper()
	url, master, replica := startSentinel(t)
	config := options{global: "store redis " + url, inbox: "{\n policy " + policy + "\n answer_within 200ms\n}"}
	first := newEnv(t)
	all := []*testEnv{first, first.another(t)}
	for _, env := range all {
		env.run(t, env.caddyfile(config))
	}
	app := &counted{takes: 5 * time.Millisecond, begun: make(map[string]int)}
	first.app.forget()
	var down atomic.Bool
	first.app.setAnswer(func(call appCall) (int, string) {
		if down.Load() {
			return answering(http.StatusServiceUnavailable)(call)
		}
		return app.answer(call)
	})
	token := first.token(t)

	var mu sync.Mutex
	acknowledged := make(map[string]bool)
	acknowledge := func(id string) {
		mu.Lock()
		defer mu.Unlock()
		acknowledged[id] = true
	}
	known := func() map[string]bool {
		mu.Lock()
		defer mu.Unlock()
		return maps.Clone(acknowledged)
	}
	var load sync.WaitGroup
	stop := make(chan struct{})
	for client := range 6 {
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("P-%d-%d", client, n)
				call := simulator.Outgoing{Bearer: token, ExternalID: id, Body: paymentTo(fmt.Sprint(client, n%5), id)}
				call.URL = all[n%2].inward + paymentPath
				if got, err := first.doku.Call(t.Context(), call); err == nil && got.OK() {
					acknowledge(id)
				}
			}
		})
	}
	more := func(n int) {
		t.Helper()
		before := len(known())
		doktest.Eventually(t, "acknowledged payments", func() bool { return len(known()) >= before+n })
	}
	more(50)
	if policy == "durable" { // so that some are only in Redis when it fails over
		down.Store(true)
		more(20)
	}
	safe := known()
	awaitCopy(t, connectRedis(t, master.URL))
	master.Kill()
	more(20) // on the new master
	down.Store(false)
	more(20)
	close(stop)
	load.Wait()
	doktest.Eventually(t, "the inbox to be empty", func() bool { waiting, _ := first.kept(t); return waiting == 0 })
	role, err := connectRedis(t, replica.URL).Do(t.Context(), "ROLE").Slice()
	if err != nil || fmt.Sprint(role[0]) != "master" {
		t.Errorf("the replica has not taken over: %v, %v", role, err)
	}
	taken := app.calls()
	lost, doubled := 0, 0
	for id := range known() {
		switch {
		case taken[id] == 0 && safe[id]:
			t.Errorf("%s was acknowledged and copied, and never delivered", id)
		case taken[id] == 0:
			lost++
		case taken[id] > 1:
			doubled++
		}
	}
	t.Logf("%d acknowledged, %d of them before the fail-over and copied; of the others Redis lost %d; the app got %d more than once",
		len(known()), len(safe), lost, doubled)
}

// startCluster starts a cluster of three masters, and returns its URL and its nodes.
func startCluster(t *testing.T) (url string, nodes []*redis.Client) {
	t.Helper()
	var addresses []string
	for n := range 3 {
		_, bus, err := net.SplitHostPort(doktest.FreeAddress(t))
		if err != nil {
			t.Fatal(err)
		}
		server := doktest.StartRedis(t, "--cluster-enabled", "yes", "--cluster-port", bus)
		node := connectRedis(t, server.URL)
		nodes, addresses = append(nodes, node), append(addresses, strings.TrimSuffix(strings.TrimPrefix(server.URL, "redis://"), "/0"))
		slots := [3][2]int{{0, 5460}, {5461, 10922}, {10923, 16383}}[n]
		if err := node.ClusterAddSlotsRange(t.Context(), slots[0], slots[1]).Err(); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			continue
		}
		host, port, err := net.SplitHostPort(addresses[n])
		if err != nil {
			t.Fatal(err)
		}
		if err := nodes[0].Do(t.Context(), "CLUSTER", "MEET", host, port, bus).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for _, node := range nodes {
		doktest.Eventually(t, "the cluster", func() bool {
			info, err := node.ClusterInfo(t.Context()).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3")
		})
	}
	return "redis://" + addresses[0] + "?addr=" + addresses[1], nodes
}

// monitored are the commands that a Redis has run, as MONITOR tells them.
type monitored struct {
	mu    sync.Mutex
	lines []string
}

// monitor notes the commands that a Redis runs, until the test ends.
func (m *monitored) monitor(t *testing.T, address string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("MONITOR\r\n")); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			m.mu.Lock()
			m.lines = append(m.lines, lines.Text())
			m.mu.Unlock()
		}
	}()
	t.Cleanup(func() { _, _ = conn.Close(), <-done })
}

var (
	monitorLine = regexp.MustCompile(`^\+?[0-9.]+ \[\d+ ([^\]]+)\] "([^"]+)"(.*)$`)
	hashTag     = regexp.MustCompile(`"doku:[^"{]*\{([^}"]+)\}`)
)

// scripts returns, for each script that was run, the parts in braces of the keys that it
// used, which decide about their slots.
func (m *monitored) scripts() (all []map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, line := range m.lines {
		found := monitorLine.FindStringSubmatch(line)
		switch {
		case found == nil:
		case strings.HasPrefix(strings.ToLower(found[2]), "eval"):
			all = append(all, make(map[string]bool))
			fallthrough
		case found[1] == "lua" && len(all) > 0:
			for _, tag := range hashTag.FindAllStringSubmatch(found[3], -1) {
				all[len(all)-1][tag[1]] = true
			}
		}
	}
	return all
}

func TestInAClusterAllKeysOfAScriptAreInOneSlot(t *testing.T) {
	t.Parallel()
	url, nodes := startCluster(t)
	seen := make([]monitored, len(nodes))
	for i, node := range nodes {
		seen[i].monitor(t, node.Options().Addr)
	}
	env := start(t, options{global: "store redis " + url, inbox: "{\n answer_within 200ms\n give_up_after 1h\n}"})

	for range 2 {
		env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", ""), "Idempotency-Key", "A").expect(t, http.StatusOK, "2002700")
	}
	env.notify(t, simulator.Outgoing{Body: payment("P-1")}).expect(t, http.StatusOK, "2002500")
	env.app.setAnswer(answering(http.StatusServiceUnavailable))
	for n := range 4 {
		kept := simulator.Outgoing{Body: paymentTo(fmt.Sprint(n%2), fmt.Sprint("P-2", n))}
		env.notify(t, kept).expect(t, http.StatusInternalServerError, "5002502")
	}
	list, err := env.inboxCommand(t, "list")
	if err != nil || strings.Count(list, "\n") != 5 {
		t.Errorf("list: %v\n%s", err, list)
	}
	key, _, _ := strings.Cut(strings.SplitN(list, "\n", 3)[1], " ")
	if _, err := env.inboxCommand(t, "drop", key); err != nil {
		t.Error(err)
	}
	env.app.setAnswer(nil)
	doktest.Eventually(t, "the deliveries", func() bool { waiting, _ := env.kept(t); return waiting == 0 })

	scripts := 0
	for i := range seen {
		for _, tags := range seen[i].scripts() {
			scripts++
			if len(tags) != 1 {
				t.Errorf("a script has used keys of the slots of %v", tags)
			}
		}
	}
	if scripts < 50 {
		t.Errorf("%d scripts: the test proves too little", scripts)
	}
}
