package callstore

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

// merchant returns the store of a merchant with one account, which is always called
// "account".
func merchant(t *testing.T, server *doktest.Redis, clientID string) *Redis {
	t.Helper()
	r, err := store.NewRedis(store.RedisConfig{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	scope := store.Scope(r, clientID)
	if err := scope.SetSecrets([]byte("secret of " + clientID)); err != nil {
		t.Fatal(err)
	}
	return NewRedis(r, func(string) *store.Scoped { return scope }, "account")
}

// expectEmpty checks that a store sees nothing of the inbox, and fails at nothing.
func expectEmpty(t *testing.T, r *Redis, key, orderingKey string) {
	t.Helper()
	ctx := t.Context()
	calls, _, err := r.List(ctx, "box", "", 10)
	if err != nil || len(calls) != 0 {
		t.Errorf("listed %+v, %v", calls, err)
	}
	stats, err := r.Stats(ctx, "box")
	if err != nil || stats != (Stats{}) {
		t.Errorf("counted %+v, %v", stats, err)
	}
	due, _, err := r.Due(ctx, "box", epoch.Add(time.Hour), 10)
	if err != nil || len(due) != 0 {
		t.Errorf("due are %v, %v", due, err)
	}
	names, err := r.Inboxes(ctx)
	if err != nil || len(names) != 0 {
		t.Errorf("inboxes %v, %v", names, err)
	}
	if first, err := r.Peek(ctx, "box", orderingKey); first != nil || err != nil {
		t.Errorf("the first is %+v, %v", first, err)
	}
	if found, err := r.Get(ctx, "box", key); found != nil || err != nil {
		t.Errorf("got %+v, %v", found, err)
	}
	if acked, maybe, err := r.Lookup(ctx, "box", key); acked != nil || maybe || err != nil {
		t.Errorf("looked up %v, %v, %v", acked, maybe, err)
	}
	if dropped, err := r.Drop(ctx, "box", key); dropped || err != nil {
		t.Errorf("dropped: %v, %v", dropped, err)
	}
	if err := r.RetryNow(ctx, "box", epoch, true); err != nil {
		t.Error(err)
	}
}

func TestMerchantsWithOneRedisAreApart(t *testing.T) {
	t.Parallel()
	server := doktest.StartRedis(t)
	kopi, susu := merchant(t, server, "BRN-1@doku"), merchant(t, server, "BRN-2@doku")
	if added, _, err := susu.Add(t.Context(), call("k", "va")); err != nil || !added {
		t.Fatal(added, err)
	}
	expectEmpty(t, kopi, "k", "va")
	if added, acked, err := kopi.Add(t.Context(), call("k", "va")); err != nil || !added || acked != nil {
		t.Error(added, acked, err)
	}
	if err := kopi.Ack(t.Context(), call("k", "va"), thanks, time.Hour); err != nil {
		t.Error(err)
	}
	if s, err := susu.Stats(t.Context(), "box"); err != nil || s.Waiting != 1 {
		t.Errorf("the other's call is gone: %+v, %v", s, err)
	}
	keys, err := kopi.in.Client.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if strings.Contains(key, "BRN") {
			t.Errorf("the client id can be read in %s", key)
		}
	}
}

// leaveOld keeps a call as versions before this one did.
func (r *Redis) leaveOld(t *testing.T, c Call) {
	t.Helper()
	base := r.in.OldBase(c.Inbox)
	value, err := encodeCall(c)
	if err != nil {
		t.Fatal(err)
	}
	sealed := r.in.Places[0].Scope.Seal(base+"call", value)
	if err := r.in.Run(t.Context(), "add", base, c.Key, c.Account, c.OrderingKey, c.Due.UnixMilli(), c.Received.UnixMilli(),
		sealed, 1000, refusedFlag(c), flag(c.Dead)).Err(); err != nil {
		t.Fatal(err)
	}
	if err := r.in.Client.SAdd(t.Context(), r.in.NamesKey(), c.Inbox).Err(); err != nil {
		t.Fatal(err)
	}
}

func TestWhatEarlierVersionsKeptIsAdopted(t *testing.T) {
	t.Parallel()
	server := doktest.StartRedis(t)
	kopi, susu := merchant(t, server, "BRN-1@doku"), merchant(t, server, "BRN-2@doku")
	for n := range 2*redisPage + 10 { // more than a page
		c := call(fmt.Sprintf("kopi%03d", n), fmt.Sprint("account/", n%7))
		c.Received, c.Dead = epoch.Add(time.Duration(n)*time.Second), n%10 == 9
		kopi.leaveOld(t, c)
		if n < 5 {
			susu.leaveOld(t, call(fmt.Sprint("susu", n), "account/1"))
		}
	}
	all, _, err := kopi.List(t.Context(), "box", "", 1000)
	if err != nil || len(all) != 2*redisPage+10 {
		t.Fatalf("%d calls, %v", len(all), err)
	}
	for n, c := range all {
		if c.Key != fmt.Sprintf("kopi%03d", n) || c.Error != "" || c.Dead != (n%10 == 9) {
			t.Fatalf("call %d: %+v", n, c)
		}
	}
	if s, err := kopi.Stats(t.Context(), "box"); err != nil || s.Waiting != 369 || s.Dead != 41 || !s.Oldest.Equal(epoch) {
		t.Errorf("%+v, %v", s, err)
	}
	if first, err := kopi.Peek(t.Context(), "box", "account/2"); err != nil || first == nil || first.Key != "kopi002" {
		t.Errorf("the first is %+v, %v", first, err)
	}
	if s, err := susu.Stats(t.Context(), "box"); err != nil || s.Waiting != 5 {
		t.Errorf("of the other merchant: %+v, %v", s, err)
	}
	left, err := kopi.in.Client.Keys(t.Context(), kopi.in.OldBase("box")+"*").Result()
	if err != nil || len(left) != 0 {
		t.Errorf("%v are left, %v", left, err)
	}
}

func TestACallThatAnOldSidecarDeliversIsNotAdopted(t *testing.T) {
	t.Parallel()
	r := merchant(t, doktest.StartRedis(t), "BRN-1@doku")
	r.leaveOld(t, call("k", "account/va"))
	lease := r.in.OldLease("box", "account/va")
	if err := r.in.Client.Set(t.Context(), lease, "lane/OLD1", time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	expectEmpty(t, r, "k", "account/va")
	if err := r.in.Client.Del(t.Context(), lease).Err(); err != nil {
		t.Fatal(err)
	}
	doktest.Eventually(t, "the call", func() bool { s, err := r.Stats(t.Context(), "box"); return err == nil && s.Waiting == 1 })
}

func TestARecordOfAnEarlierVersionCounts(t *testing.T) {
	t.Parallel()
	server := doktest.StartRedis(t)
	kopi, susu := merchant(t, server, "BRN-1@doku"), merchant(t, server, "BRN-2@doku")
	base := kopi.in.OldBase("box")
	record := "account\x00" + string(kopi.in.Places[0].Scope.Seal(base+"taken", thanks.Encode()))
	if err := kopi.in.Client.Set(t.Context(), base+"taken:k", record, time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	if added, acked, err := kopi.Add(t.Context(), call("k", "va")); added || acked == nil || err != nil {
		t.Error(added, acked, err)
	}
	if acked, _, err := kopi.Lookup(t.Context(), "box", "k"); acked == nil || err != nil {
		t.Error(acked, err)
	}
	expectEmpty(t, susu, "k", "va")
}

func TestARedisThatLoadsIsNotWithoutAnAppendOnlyFile(t *testing.T) {
	t.Parallel()
	server := doktest.StartRedis(t, "--appendonly", "yes", "--maxmemory-policy", "noeviction")
	r := merchant(t, server, "BRN-1@doku")
	pipe := r.in.Client.Pipeline() // Redis answers after every 1024 commands that it loads
	for n := range 20 * 1024 {
		pipe.Set(t.Context(), fmt.Sprint("key", n), "x", 0)
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Stop(t)
	server.Options("--key-load-delay", "100") // in microseconds
	server.Start(t)
	info, err := r.in.Client.Info(t.Context(), "persistence").Result()
	if err != nil || !strings.Contains(info, "loading:1") || !strings.Contains(info, "aof_enabled:0") {
		t.Skipf("this Redis does not load slowly, or it knows its file meanwhile: %v", err)
	}
	warnings, err := r.DurabilityWarnings(t.Context())
	if err != nil || len(warnings) != 0 {
		t.Errorf("warnings %q, %v", warnings, err)
	}
}
