package store

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

// TestEveryStoreKeepsTheContract checks the promises of Store on both stores, bare
// and within a scope.
func TestEveryStoreKeepsTheContract(t *testing.T) {
	t.Parallel()
	for _, store := range []struct {
		name string
		open func(t *testing.T) Store
	}{
		{"memory", func(t *testing.T) Store { t.Helper(); return newMemory(t) }},
		{"memory within a scope", func(t *testing.T) Store { t.Helper(); return scoped(t, newMemory(t), "brand") }},
		{"Redis", func(t *testing.T) Store { t.Helper(); return newRedis(t, doktest.StartRedis(t)) }},
		{"Redis within a scope", func(t *testing.T) Store {
			t.Helper()
			return scoped(t, newRedis(t, doktest.StartRedis(t)), "brand", "secret")
		}},
	} {
		t.Run(store.name, func(t *testing.T) {
			t.Parallel()
			s := store.open(t)
			for _, test := range []struct {
				name  string
				check func(c *contract)
			}{
				{"Set replaces a value", (*contract).set},
				{"Add does not", (*contract).add},
				{"a claim is for all keys or none, and only its owner releases it", (*contract).claimAndRelease},
				{"Commit stores values and ends the leases", (*contract).commitValues},
				{"Commit succeeds after the lease expired, unless another owner has the key", (*contract).commitLate},
				{"a value set for a leased key blocks the owner of the lease", (*contract).setLeased},
				{"no key collides with the lease of another", (*contract).keysAndLeases},
				{"if many claim at once, one succeeds", (*contract).race},
				{"an empty value and a time to live of zero are errors", (*contract).wrongUse},
			} {
				t.Run(test.name, func(t *testing.T) {
					t.Helper()
					test.check(&contract{t, s})
				})
			}
		})
	}
}

const long = time.Hour

// contract has the checks of one store. Each check uses keys of its own.
type contract struct {
	*testing.T
	store Store
}

func (c *contract) get(key, want string) {
	c.Helper()
	if got, err := c.store.Get(c.Context(), key); err != nil || string(got) != want {
		c.Errorf("%s: found %q, %v, expected %q", key, got, err, want)
	}
}

func (c *contract) claim(owner string, held bool, keys ...string) Claim {
	c.Helper()
	claim, err := c.store.Claim(c.Context(), owner, long, keys...)
	if err != nil || claim.Held != held || !held && (len(claim.Values) != len(keys) || len(claim.Holders) != len(keys)) {
		c.Fatalf("claim of %v for %s: %+v, %v, expected held %v", keys, owner, claim, err, held)
	}
	return claim
}

func (c *contract) commit(owner string, done bool, entries ...Entry) {
	c.Helper()
	if got, err := c.store.Commit(c.Context(), owner, long, entries...); err != nil || got != done {
		c.Errorf("commit of %v for %s: %v, %v, expected %v", entries, owner, got, err, done)
	}
}

func (c *contract) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *contract) set() {
	c.Helper()
	c.get("absent", "")
	c.must(c.store.Set(c.Context(), "set", []byte("one"), long))
	c.must(c.store.Set(c.Context(), "set", []byte("two"), long))
	c.get("set", "two")
}

func (c *contract) add() {
	c.Helper()
	for _, add := range []struct{ value, earlier string }{{"first", ""}, {"second", "first"}, {"first", "first"}} {
		if earlier, err := c.store.Add(c.Context(), "added", []byte(add.value), long); err != nil || string(earlier) != add.earlier {
			c.Errorf("adding %s: %q, %v", add.value, earlier, err)
		}
	}
	c.get("added", "first")
}

func (c *contract) claimAndRelease() {
	c.Helper()
	c.claim("a", true, "k1", "k2")
	claim := c.claim("b", false, "k2", "k3")
	if claim.Holders[0] != "a" || claim.Holders[1] != "" {
		c.Errorf("holders %q", claim.Holders)
	}
	c.claim("b", true, "k3")
	c.claim("a", true, "k1", "k2") // renews
	c.must(c.store.Release(c.Context(), "b", "k1", "k2"))
	c.claim("b", false, "k1")
	c.must(c.store.Release(c.Context(), "a", "k1", "k2"))
	c.claim("b", true, "k1")
	c.must(c.store.Release(c.Context(), "b", "k1"))
}

func (c *contract) commitValues() {
	c.Helper()
	c.claim("a", true, "f1", "f2")
	c.commit("b", false, Entry{"f1", []byte("x")}, Entry{"f2", []byte("y")})
	c.get("f1", "")
	c.commit("a", true, Entry{"f1", []byte("x")}, Entry{"f2", []byte("y")})
	c.get("f1", "x")
	claim := c.claim("b", false, "f0", "f2")
	if claim.Values[0] != nil || string(claim.Values[1]) != "y" || claim.Holders[1] != "" {
		c.Errorf("claim %q %q", claim.Values, claim.Holders)
	}
	c.commit("b", false, Entry{"f2", []byte("z")})
	c.get("f2", "y")
}

func (c *contract) commitLate() {
	c.Helper()
	c.commit("late", true, Entry{"never claimed", []byte("x")})
	c.claim("new", true, "taken over")
	c.commit("late", false, Entry{"taken over", []byte("x")})
}

func (c *contract) setLeased() {
	c.Helper()
	c.claim("a", true, "l1", "l2")
	c.must(c.store.Set(c.Context(), "l2", []byte("x"), long))
	c.claim("a", false, "l1", "l2")
	c.commit("a", false, Entry{"l1", []byte("y")}, Entry{"l2", []byte("y")})
	c.get("l1", "")
	c.get("l2", "x")
	c.must(c.store.Release(c.Context(), "a", "l1", "l2"))
	c.claim("b", true, "l1")
}

func (c *contract) keysAndLeases() {
	c.Helper()
	similar := []string{"n:lease", "lease:n", "n/lease"}
	for _, key := range similar {
		c.must(c.store.Set(c.Context(), key, []byte("mine"), long))
	}
	c.claim("a", true, "n")
	c.commit("a", true, Entry{"n", []byte("x")})
	for _, key := range similar {
		c.get(key, "mine")
	}
}

func (c *contract) race() {
	c.Helper()
	var held atomic.Int32
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			claim, err := c.store.Claim(c.Context(), fmt.Sprint("owner", i), long, "race", "race2")
			if err != nil {
				c.Error(err)
			}
			if claim.Held {
				held.Add(1)
			}
		})
	}
	wg.Wait()
	if n := held.Load(); n != 1 {
		c.Errorf("%d callers hold the lease, expected one", n)
	}
}

func (c *contract) wrongUse() {
	c.Helper()
	ctx := c.Context()
	_, added := c.store.Add(ctx, "empty", nil, long)
	_, committed := c.store.Commit(ctx, "a", long, Entry{"empty", nil})
	_, claimed := c.store.Claim(ctx, "a", 0, "empty")
	for name, err := range map[string]error{
		"Set with no value": c.store.Set(ctx, "empty", nil, long), "Set for no time": c.store.Set(ctx, "empty", []byte("x"), 0),
		"Add with no value": added, "Commit with no value": committed, "Claim for no time": claimed,
	} {
		if !errors.Is(err, ErrStore) {
			c.Errorf("%s: error %v", name, err)
		}
	}
}
