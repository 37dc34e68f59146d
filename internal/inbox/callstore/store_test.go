package callstore

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

// TestEveryStoreKeepsTheContract checks the promises of Store on both stores. Each check
// begins with an empty store.
func TestEveryStoreKeepsTheContract(t *testing.T) {
	t.Parallel()
	checks := []struct {
		name string
		run  func(*contract)
	}{
		{"a call is kept once, in its order", (*contract).add},
		{"the first call of an ordering key delays the others", (*contract).delay},
		{"RetryNow makes the first call of every ordering key due", (*contract).retryNow},
		{"RetryNow leaves out refused calls", (*contract).retryNowRefused},
		{"a call that the app may have taken leaves its order, and RetryNow leaves it out", (*contract).maybeTaken},
		{"a call may be kept outside its order from the start", (*contract).addMaybeTaken},
		{"an acked call leaves its ordering key, and its answer is kept", (*contract).ack},
		{"a call that was never kept can be acked", (*contract).ackUnkept},
		{"a dead call leaves its ordering key and can come back", (*contract).bury},
		{"a dead call that comes again is a new call", (*contract).addDead},
		{"calls are listed in the order in which they came", (*contract).list},
		{"a call can be read and dropped", (*contract).getAndDrop},
		{"an update of a call that is gone does not bring it back", (*contract).updateGone},
		{"inboxes are separate", (*contract).inboxes},
		{"a call that is added many times at once is kept once", (*contract).race},
	}
	t.Run("Bolt", func(t *testing.T) {
		t.Parallel()
		for _, check := range checks {
			t.Run(check.name, func(t *testing.T) {
				b := openBolt(t, t.TempDir())
				defer b.Close()
				check.run(&contract{t, b})
			})
		}
	})
	t.Run("Redis", func(t *testing.T) {
		t.Parallel()
		server := doktest.StartRedis(t)
		for n, check := range checks {
			t.Run(check.name, func(t *testing.T) {
				r := openRedis(t, store.RedisConfig{URL: server.URL, Prefix: fmt.Sprint(n, ":")})
				check.run(&contract{t, r})
			})
		}
	})
}

// contract has the checks of one store.
type contract struct {
	*testing.T
	store Store
}

func (c *contract) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *contract) mustAdd(calls ...Call) {
	c.Helper()
	for _, call := range calls {
		if added, acked, err := c.store.Add(c.Context(), call); err != nil || acked != nil || !added {
			c.Fatalf("adding %s: %v, %+v, %v", call.Key, added, acked, err)
		}
	}
}

// mustPeek checks the key of the first call, "" if there is none, and returns the call.
func (c *contract) mustPeek(orderingKey, want string) Call {
	c.Helper()
	first, err := c.store.Peek(c.Context(), "box", orderingKey)
	got := ""
	if first != nil {
		got = first.Key
	}
	if err != nil || got != want {
		c.Fatalf("the first call of %s is %q, %v, expected %q", orderingKey, got, err, want)
	}
	if first == nil {
		return Call{}
	}
	return *first
}

func (c *contract) mustBeDue(at, next time.Time, orderingKeys ...string) {
	c.Helper()
	got, then, err := c.store.Due(c.Context(), "box", at, 10)
	if err != nil || fmt.Sprint(got) != fmt.Sprint(orderingKeys) || !then.Equal(next) {
		c.Fatalf("due are %v, next at %s, %v, expected %v and %s", got, then, err, orderingKeys, next)
	}
}

func (c *contract) mustHaveStats(waiting, dead int, oldest time.Time) {
	c.Helper()
	got, err := c.store.Stats(c.Context(), "box")
	if err != nil || got.Waiting != waiting || got.Dead != dead || !got.Oldest.Equal(oldest) {
		c.Fatalf("stats %+v, %v, expected %d, %d, %s", got, err, waiting, dead, oldest)
	}
}

// calls returns k1 and k2 of va1, and k3 of va2, one second after the other.
func calls() (first, second, third Call) {
	first, second, third = call("k1", "va1"), call("k2", "va1"), call("k3", "va2")
	second.Received, second.Due = epoch.Add(time.Second), epoch.Add(time.Second)
	third.Received, third.Due = epoch.Add(2*time.Second), epoch.Add(2*time.Second)
	return first, second, third
}

// fourth returns k4 of va1, which comes after those of calls.
func fourth() Call {
	c := call("k4", "va1")
	c.Received = epoch.Add(3 * time.Second)
	return c
}

func (c *contract) add() {
	c.Helper()
	c.mustHaveStats(0, 0, time.Time{})
	c.mustBeDue(epoch, time.Time{})
	c.mustPeek("va1", "")
	first, second, third := calls()
	c.mustAdd(first, second, third)
	if added, acked, err := c.store.Add(c.Context(), first); err != nil || added || acked != nil {
		c.Errorf("a kept call was added again: %v, %+v, %v", added, acked, err)
	}
	c.mustHaveStats(3, 0, epoch)
	got := c.mustPeek("va1", "k1")
	if !reflect.DeepEqual(got.Header, first.Header) || !bytes.Equal(got.Body, first.Body) || got.Target != first.Target ||
		got.Host != first.Host || !got.Received.Equal(first.Received) || got.Service != first.Service || got.ExternalID != first.ExternalID {
		c.Errorf("kept %+v, found %+v", first, got)
	}
	c.mustBeDue(epoch, epoch.Add(2*time.Second), "va1")
	c.mustBeDue(epoch.Add(2*time.Second), time.Time{}, "va1", "va2")
}

// addDelayed adds calls; the first one is due after a minute.
func (c *contract) addDelayed() (first Call) {
	c.Helper()
	first, second, third := calls()
	c.mustAdd(first, second, third)
	first.Attempts, first.Due, first.Error = 3, epoch.Add(time.Minute), "HTTP 503"
	c.must(c.store.Update(c.Context(), first))
	return first
}

func (c *contract) delay() {
	c.Helper()
	first := c.addDelayed()
	if got := c.mustPeek("va1", "k1"); got.Attempts != 3 || got.Error != "HTTP 503" || !got.Due.Equal(first.Due) {
		c.Errorf("found %+v", got)
	}
	c.mustBeDue(epoch.Add(10*time.Second), epoch.Add(time.Minute), "va2")
}

func (c *contract) retryNow() {
	c.Helper()
	c.addDelayed()
	at := epoch.Add(20 * time.Second)
	c.must(c.store.RetryNow(c.Context(), "box", at, false))
	c.mustBeDue(at, time.Time{}, "va2", "va1")
	if got := c.mustPeek("va1", "k1"); !got.Due.Equal(at) {
		c.Errorf("due at %s", got.Due)
	}
}

func (c *contract) retryNowRefused() {
	c.Helper()
	c.addDelayed()
	c.must(c.store.RetryNow(c.Context(), "box", epoch.Add(20*time.Second), false))
	refused := call("k0", "va0")
	c.mustAdd(refused)
	refused.Due, refused.Refused = epoch.Add(time.Minute), true
	c.must(c.store.Update(c.Context(), refused))
	at := epoch.Add(30 * time.Second)
	c.must(c.store.RetryNow(c.Context(), "box", at, false))
	c.mustBeDue(at, epoch.Add(time.Minute), "va2", "va1")
	if got := c.mustPeek("va0", "k0"); !got.Refused {
		c.Errorf("found %+v", got)
	}
	c.must(c.store.RetryNow(c.Context(), "box", at, true))
	c.mustBeDue(at, time.Time{}, "va2", "va1", "va0")
	if dropped, err := c.store.Drop(c.Context(), "box", "k0"); err != nil || !dropped {
		c.Fatal(dropped, err)
	}
}

func (c *contract) maybeTaken() {
	c.Helper()
	first, second, third := calls()
	c.mustAdd(first, second, third)
	c.mustBeMaybeTaken(false)
	first.OrderingKey, first.Due, first.MaybeTaken = "own", epoch.Add(time.Hour), 1
	c.must(c.store.Update(c.Context(), first))
	c.mustPeek("va1", "k2")
	c.mustPeek("own", "k1")
	c.mustBeMaybeTaken(true)
	c.mustHaveStats(3, 0, epoch)
	for _, refused := range []bool{false, true} {
		c.must(c.store.RetryNow(c.Context(), "box", epoch.Add(time.Minute), refused))
	}
	if got := c.mustPeek("own", "k1"); !got.Due.Equal(first.Due) || got.MaybeTaken != 1 || got.OrderingKey != "own" {
		c.Errorf("found %+v", got)
	}
	first.Dead, first.MaybeTaken = true, 6
	c.must(c.store.Update(c.Context(), first))
	c.mustPeek("own", "")
	c.mustBeMaybeTaken(false)
	first.Dead, first.MaybeTaken = false, 0
	c.must(c.store.Update(c.Context(), first))
	c.mustPeek("own", "k1")
	c.must(c.store.Ack(c.Context(), first, thanks, time.Hour))
	c.mustPeek("own", "")
	c.mustHaveStats(2, 0, second.Received)
}

func (c *contract) addMaybeTaken() {
	c.Helper()
	only := call("k1", "own")
	only.MaybeTaken, only.Due = 1, epoch.Add(time.Hour)
	c.mustAdd(only)
	c.mustBeMaybeTaken(true)
	c.must(c.store.RetryNow(c.Context(), "box", epoch, true))
	c.mustBeDue(epoch.Add(time.Minute), only.Due)
}

// mustBeMaybeTaken fails the test if Lookup says otherwise of k1.
func (c *contract) mustBeMaybeTaken(want bool) {
	c.Helper()
	if _, got, err := c.store.Lookup(c.Context(), "box", "k1"); err != nil || got != want {
		c.Errorf("maybe taken is %v, %v", got, err)
	}
}

func (c *contract) ack() {
	c.Helper()
	first, second, third := calls()
	c.mustAdd(first, second, third)
	if acked, _, err := c.store.Lookup(c.Context(), "box", "k1"); err != nil || acked != nil {
		c.Fatalf("acked before it was: %+v, %v", acked, err)
	}
	c.must(c.store.Ack(c.Context(), first, thanks, time.Hour))
	c.mustPeek("va1", "k2")
	c.mustHaveStats(2, 0, epoch.Add(time.Second))
	for name, get := range map[string]func() (*store.Answer, error){
		"Lookup": func() (*store.Answer, error) {
			acked, _, err := c.store.Lookup(c.Context(), "box", "k1")
			return acked, err
		},
		"Add": func() (*store.Answer, error) {
			_, acked, err := c.store.Add(c.Context(), first)
			return acked, err
		},
	} {
		if got, err := get(); err != nil || got == nil || !reflect.DeepEqual(*got, thanks) {
			c.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	c.mustPeek("va1", "k2")
}

func (c *contract) ackUnkept() {
	c.Helper()
	c.must(c.store.Ack(c.Context(), call("direct", "va9"), thanks, time.Hour))
	if got, _, err := c.store.Lookup(c.Context(), "box", "direct"); err != nil || got == nil {
		c.Errorf("%+v, %v", got, err)
	}
	c.mustPeek("va9", "")
}

// addThree adds k2 and k4 of va1, and k3 of va2.
func (c *contract) addThree() (third Call) {
	c.Helper()
	_, second, third := calls()
	c.mustAdd(second, third, fourth())
	return third
}

func (c *contract) bury() {
	c.Helper()
	c.addThree()
	c.buryAndRevive()
}

// buryAndRevive makes k2 dead and revives it after that.
func (c *contract) buryAndRevive() {
	c.Helper()
	dead := c.mustPeek("va1", "k2")
	dead.Dead = true
	c.must(c.store.Update(c.Context(), dead))
	c.mustPeek("va1", "k4")
	c.mustHaveStats(2, 1, epoch.Add(2*time.Second))
	dead.Dead, dead.Due = false, epoch.Add(time.Minute)
	c.must(c.store.Update(c.Context(), dead))
	c.mustPeek("va1", "k4")
	c.mustHaveStats(3, 0, epoch.Add(time.Second))
}

func (c *contract) addDead() {
	c.Helper()
	c.addThree()
	dead := call("k5", "va5")
	c.mustAdd(dead)
	dead.Dead = true
	c.must(c.store.Update(c.Context(), dead))
	again := call("k5", "va5")
	again.Received, again.Due = epoch.Add(time.Hour), epoch.Add(time.Hour)
	c.mustAdd(again)
	c.mustHaveStats(4, 0, epoch.Add(time.Second))
	if got := c.mustPeek("va5", "k5"); !got.Received.Equal(again.Received) || got.Dead {
		c.Errorf("found %+v", got)
	}
	if all, _, err := c.store.List(c.Context(), "box", "", 10); err != nil || len(all) != 4 {
		c.Errorf("listed %d, %v", len(all), err)
	}
	c.must(c.store.Ack(c.Context(), again, thanks, time.Hour))
}

func (c *contract) list() {
	c.Helper()
	c.addThree()
	c.buryAndRevive()
	all, _, err := c.store.List(c.Context(), "box", "", 10)
	c.must(err)
	var keys []string
	for _, listed := range all {
		keys = append(keys, listed.Key)
		if listed.Body != nil {
			c.Error("the list has bodies")
		}
	}
	if fmt.Sprint(keys) != "[k2 k3 k4]" {
		c.Errorf("listed %v", keys)
	}
	keys = nil
	for after, more := "", true; more; more = after != "" {
		page, next, err := c.store.List(c.Context(), "box", after, 1)
		c.must(err)
		if len(page) != 1 {
			c.Fatalf("listed %d, expected one", len(page))
		}
		keys, after = append(keys, page[0].Key), next
	}
	if fmt.Sprint(keys) != "[k2 k3 k4]" {
		c.Errorf("listed one by one %v", keys)
	}
	if _, _, err := c.store.List(c.Context(), "box", "nowhere", 1); !errors.Is(err, ErrPosition) {
		c.Errorf("from a position that does not exist: %v", err)
	}
}

func (c *contract) getAndDrop() {
	c.Helper()
	third := c.addThree()
	if got, err := c.store.Get(c.Context(), "box", "k3"); err != nil || got == nil || !bytes.Equal(got.Body, third.Body) {
		c.Errorf("got %+v, %v", got, err)
	}
	for _, want := range []bool{true, false} {
		if dropped, err := c.store.Drop(c.Context(), "box", "k3"); err != nil || dropped != want {
			c.Errorf("dropped: %v, %v, expected %v", dropped, err, want)
		}
	}
	if got, err := c.store.Get(c.Context(), "box", "k3"); err != nil || got != nil {
		c.Errorf("after it was dropped: %+v, %v", got, err)
	}
	c.mustPeek("va2", "")
	c.mustBeDue(epoch.Add(time.Hour), time.Time{}, "va1")
}

func (c *contract) updateGone() {
	c.Helper()
	third := c.addThree()
	if dropped, err := c.store.Drop(c.Context(), "box", "k3"); err != nil || !dropped {
		c.Fatal(dropped, err)
	}
	c.must(c.store.Update(c.Context(), third))
	c.mustPeek("va2", "")
}

func (c *contract) inboxes() {
	c.Helper()
	c.addThree()
	c.mustBeInboxes("box")
	other := call("k2", "va1")
	other.Inbox = "other"
	c.mustAdd(other)
	c.mustBeInboxes("box", "other")
	if _, err := c.store.Drop(c.Context(), "other", "k2"); err != nil {
		c.Fatal(err)
	}
	c.mustBeInboxes("box")
	if got, err := c.store.Get(c.Context(), "box", "k2"); err != nil || got == nil {
		c.Errorf("%+v, %v", got, err)
	}
}

func (c *contract) mustBeInboxes(want ...string) {
	c.Helper()
	if names, err := c.store.Inboxes(c.Context()); err != nil || fmt.Sprint(names) != fmt.Sprint(want) {
		c.Errorf("the inboxes are %v, %v, expected %v", names, err, want)
	}
}

func (c *contract) race() {
	c.Helper()
	_, second, _ := calls()
	c.mustAdd(second, fourth())
	var wg sync.WaitGroup
	var added atomic.Int32
	for n := range 200 {
		wg.Go(func() {
			same := call(fmt.Sprint("many", n%100), fmt.Sprint("key", n%10))
			if kept, acked, err := c.store.Add(c.Context(), same); err != nil || acked != nil {
				c.Errorf("%+v, %v", acked, err)
			} else if kept {
				added.Add(1)
			}
		})
	}
	wg.Wait()
	if n := added.Load(); n != 100 {
		c.Errorf("%d were added, expected 100", n)
	}
	seen := make(map[string]bool)
	for after, more := "", true; more; more = after != "" {
		page, next, err := c.store.List(c.Context(), "box", after, 30)
		c.must(err)
		for _, listed := range page {
			if seen[listed.Key] {
				c.Errorf("listed twice: %s", listed.Key)
			}
			seen[listed.Key] = true
		}
		after = next
	}
	if len(seen) != 102 {
		c.Errorf("listed %d", len(seen))
	}
	if got, err := c.store.Stats(c.Context(), "box"); err != nil || got.Waiting != 102 {
		c.Errorf("%+v, %v", got, err)
	}
}
