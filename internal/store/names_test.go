package store

import (
	"strings"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

func TestNoIDIsInAKey(t *testing.T) {
	t.Parallel()
	r := newRedis(t, doktest.StartRedis(t))
	s := scoped(t, r, "BRN-1@api.doku.com", "secret")
	ctx := t.Context()
	if err := s.Set(ctx, "ledger/25/external/2026-11-28/EXT-1", []byte("x"), time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add(ctx, "ledger/25/paid/PAY-1", []byte("x"), time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Claim(ctx, "me", time.Hour, "ledger/25/external/2026-11-28/EXT-2", "token"); err != nil {
		t.Fatal(err)
	}
	keys, err := r.client.Keys(ctx, "*").Result()
	if err != nil || len(keys) < 6 {
		t.Fatalf("keys %v, %v", keys, err)
	}
	slots := make(map[string]bool)
	for _, key := range keys {
		for _, id := range []string{"BRN", "EXT", "PAY", "ledger", "token", "2026"} {
			if strings.Contains(key, id) {
				t.Errorf("%s can be read in %s", id, key)
			}
		}
		_, tag, _ := strings.Cut(key, "{")
		tag, _, found := strings.Cut(tag, "}")
		slots[tag] = true
		if !found || tag == "" {
			t.Errorf("the slot of %s in a cluster is not that of the others", key)
		}
	}
	if len(slots) != 1 {
		t.Errorf("the keys of one account are in the slots %v", slots)
	}
}

// TestWhatIsKeptUnderAnOldKeyIsUsed has values and leases as versions before wrote them.
func TestWhatIsKeptUnderAnOldKeyIsUsed(t *testing.T) {
	t.Parallel()
	r := newRedis(t, doktest.StartRedis(t))
	s := scoped(t, r, "brand", "secret")
	ctx := t.Context()
	for _, key := range []string{"got", "added", "claimed"} {
		key = "{brand}:" + key
		if err := r.client.Set(ctx, "doku:value:"+key, s.(*Scoped).Seal(key, []byte("old")), time.Hour).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.client.Set(ctx, "doku:lease:{brand}:leased", "label/OLD1", time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	if value, err := s.Get(ctx, "got"); err != nil || string(value) != "old" {
		t.Errorf("Get: %q, %v", value, err)
	}
	for range 2 {
		if earlier, err := s.Add(ctx, "added", []byte("new"), 2*time.Hour); err != nil || string(earlier) != "old" {
			t.Errorf("Add: %q, %v", earlier, err)
		}
	}
	if ttl, err := r.client.PTTL(ctx, r.value("{brand}:added")).Result(); err != nil || ttl <= 0 || ttl > time.Hour {
		t.Errorf("the old value lives for %s now, %v", ttl, err)
	}
	c, err := s.Claim(ctx, "me", time.Hour, "other", "claimed")
	if err != nil || c.Held || string(c.Values[1]) != "old" || c.Values[0] != nil {
		t.Errorf("Claim: %+v, %v", c, err)
	}
	if c, err := s.Claim(ctx, "somebody", time.Hour, "other"); err != nil || !c.Held {
		t.Errorf("a claim that failed has left a lease: %+v, %v", c, err)
	}
	if c, err := s.Claim(ctx, "me", time.Hour, "leased"); err != nil || c.Held || c.Holders[0] != "label/OLD1" {
		t.Errorf("a sidecar of the version before is at work: %+v, %v", c, err)
	}
	if err := s.Set(ctx, "got", []byte("new"), time.Hour); err != nil {
		t.Fatal(err)
	}
	if value, err := s.Get(ctx, "got"); err != nil || string(value) != "new" {
		t.Errorf("Get after Set: %q, %v", value, err)
	}
}
