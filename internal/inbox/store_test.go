package inbox

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

func openBolt(t testing.TB, folder string) *Bolt {
	t.Helper()
	b, err := OpenBolt(BoltConfig{Folder: folder, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// newRedis returns the store in a server of its own, and the account's scope in it.
func newRedis(t testing.TB) (*Redis, *store.Scoped) {
	t.Helper()
	r, err := store.NewRedis(store.RedisConfig{URL: doktest.StartRedis(t).URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	scope := store.Scope(r, "account")
	if err := scope.SetSecrets([]byte("secret")); err != nil {
		t.Fatal(err)
	}
	return NewRedis(r, func(account string) *store.Scoped {
		if account != "account" {
			return nil
		}
		return scope
	}), scope
}

var (
	epoch  = time.Date(2024, 3, 26, 16, 0, 0, 0, time.UTC)
	thanks = store.Answer{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(`{"responseCode":"2002500"}`)}
)

func call(key, orderingKey string) Call {
	return Call{
		Key: key, Inbox: "box", Account: "account", OrderingKey: orderingKey, Service: "25", ExternalID: "E-" + key, PaymentID: "P-" + key,
		Host: "merchant.example", Target: "/v1.1/transfer-va/payment?x=%2F", Header: http.Header{"Content-Type": {"application/json"}, "Idempotency-Key": {key}},
		Body: []byte(`{"paymentRequestId":"` + key + `"}`), Received: epoch, Due: epoch,
	}
}

func TestEveryStoreKeepsTheContract(t *testing.T) {
	t.Parallel()
	t.Run("Bolt", func(t *testing.T) {
		t.Parallel()
		b := openBolt(t, t.TempDir())
		t.Cleanup(func() { _ = b.Close() })
		contract(t, b)
	})
	t.Run("Redis", func(t *testing.T) {
		t.Parallel()
		r, _ := newRedis(t)
		contract(t, r)
	})
}

func contract(t *testing.T, s Store) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	add := func(c Call) {
		t.Helper()
		if added, taken, err := s.Add(ctx, c); err != nil || taken != nil || !added {
			t.Fatalf("adding %s: %v, %+v, %v", c.Key, added, taken, err)
		}
	}
	head := func(lane, want string) Call {
		t.Helper()
		c, err := s.Peek(ctx, "box", lane)
		got := ""
		if c != nil {
			got = c.Key
		}
		if err != nil || got != want {
			t.Fatalf("the head of %s is %q, %v, expected %q", lane, got, err, want)
		}
		if c == nil {
			return Call{}
		}
		return *c
	}
	due := func(at time.Time, next time.Time, lanes ...string) {
		t.Helper()
		got, then, err := s.Due(ctx, "box", at, 10)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(lanes) || !then.Equal(next) {
			t.Fatalf("due are %v, next at %s, %v, expected %v and %s", got, then, err, lanes, next)
		}
	}
	stats := func(waiting, dead int, oldest time.Time) {
		t.Helper()
		got, err := s.Stats(ctx, "box")
		if err != nil || got.Waiting != waiting || got.Dead != dead || !got.Oldest.Equal(oldest) {
			t.Fatalf("stats %+v, %v, expected %d, %d, %s", got, err, waiting, dead, oldest)
		}
	}

	stats(0, 0, time.Time{})
	due(epoch, time.Time{})
	head("va1", "")
	first, second, third := call("k1", "va1"), call("k2", "va1"), call("k3", "va2")
	second.Received, second.Due = epoch.Add(time.Second), epoch.Add(time.Second)
	third.Received, third.Due = epoch.Add(2*time.Second), epoch.Add(2*time.Second)
	for _, c := range []Call{first, second, third} {
		add(c)
	}
	if added, taken, err := s.Add(ctx, first); err != nil || added || taken != nil {
		t.Errorf("what is kept was added again: %v, %+v, %v", added, taken, err)
	}
	stats(3, 0, epoch)
	if got := head("va1", "k1"); !reflect.DeepEqual(got.Header, first.Header) || !bytes.Equal(got.Body, first.Body) || got.Target != first.Target ||
		got.Host != first.Host || !got.Received.Equal(first.Received) || got.Service != first.Service || got.ExternalID != first.ExternalID {
		t.Errorf("kept %+v, found %+v", first, got)
	}
	due(epoch, epoch.Add(2*time.Second), "va1")
	due(epoch.Add(2*time.Second), time.Time{}, "va1", "va2")

	t.Run("a lane waits for its head", func(t *testing.T) {
		later := first
		later.Attempts, later.Due, later.Error = 3, epoch.Add(time.Minute), "HTTP 503"
		must(s.Update(ctx, later))
		if got := head("va1", "k1"); got.Attempts != 3 || got.Error != "HTTP 503" || !got.Due.Equal(later.Due) {
			t.Errorf("found %+v", got)
		}
		due(epoch.Add(10*time.Second), epoch.Add(time.Minute), "va2")
	})
	t.Run("all can be hurried", func(t *testing.T) {
		must(s.RetryNow(ctx, "box", epoch.Add(20*time.Second), false))
		due(epoch.Add(20*time.Second), time.Time{}, "va2", "va1")
		if got := head("va1", "k1"); !got.Due.Equal(epoch.Add(20 * time.Second)) {
			t.Errorf("due at %s", got.Due)
		}
	})
	t.Run("but not those that the app has refused", func(t *testing.T) {
		poison := call("k0", "va0")
		add(poison)
		poison.Due, poison.Refused = epoch.Add(time.Minute), true
		must(s.Update(ctx, poison))
		must(s.RetryNow(ctx, "box", epoch.Add(30*time.Second), false))
		due(epoch.Add(30*time.Second), epoch.Add(time.Minute), "va2", "va1")
		if got := head("va0", "k0"); !got.Refused {
			t.Errorf("found %+v", got)
		}
		must(s.RetryNow(ctx, "box", epoch.Add(30*time.Second), true))
		due(epoch.Add(30*time.Second), time.Time{}, "va2", "va1", "va0")
		if dropped, err := s.Drop(ctx, "box", "k0"); err != nil || !dropped {
			t.Fatal(dropped, err)
		}
	})
	t.Run("what the app has taken leaves its lane, and is remembered", func(t *testing.T) {
		if taken, err := s.Acked(ctx, "box", "k1"); err != nil || taken != nil {
			t.Fatalf("taken before it was: %+v, %v", taken, err)
		}
		must(s.Ack(ctx, first, thanks, time.Hour))
		head("va1", "k2")
		stats(2, 0, epoch.Add(time.Second))
		for what, get := range map[string]func() (*store.Answer, error){
			"taken": func() (*store.Answer, error) { return s.Acked(ctx, "box", "k1") },
			"added": func() (*store.Answer, error) {
				_, taken, err := s.Add(ctx, first)
				return taken, err
			},
		} {
			if got, err := get(); err != nil || got == nil || !reflect.DeepEqual(*got, thanks) {
				t.Errorf("%s: %+v, %v", what, got, err)
			}
		}
		head("va1", "k2")
	})
	t.Run("what was never kept can be taken, too", func(t *testing.T) {
		must(s.Ack(ctx, call("direct", "va9"), thanks, time.Hour))
		if got, err := s.Acked(ctx, "box", "direct"); err != nil || got == nil {
			t.Errorf("%+v, %v", got, err)
		}
		head("va9", "")
	})
	t.Run("the dead leave their lane and can come back", func(*testing.T) {
		add(func() Call { c := call("k4", "va1"); c.Received = epoch.Add(3 * time.Second); return c }())
		gone := head("va1", "k2")
		gone.Dead = true
		must(s.Update(ctx, gone))
		head("va1", "k4")
		stats(2, 1, epoch.Add(2*time.Second))
		gone.Dead, gone.Due = false, epoch.Add(time.Minute)
		must(s.Update(ctx, gone))
		head("va1", "k4")
		stats(3, 0, epoch.Add(time.Second))
	})
	t.Run("a dead call that comes again is a new one", func(t *testing.T) {
		buried := call("k5", "va5")
		add(buried)
		buried.Dead = true
		must(s.Update(ctx, buried))
		again := call("k5", "va5")
		again.Received, again.Due = epoch.Add(time.Hour), epoch.Add(time.Hour)
		add(again)
		stats(4, 0, epoch.Add(time.Second))
		if got := head("va5", "k5"); !got.Received.Equal(again.Received) || got.Dead {
			t.Errorf("found %+v", got)
		}
		if all, _, err := s.List(ctx, "box", "", 10); err != nil || len(all) != 4 {
			t.Errorf("listed %d, %v", len(all), err)
		}
		must(s.Ack(ctx, again, thanks, time.Hour))
	})
	t.Run("calls can be listed, shown and dropped", func(t *testing.T) {
		all, _, err := s.List(ctx, "box", "", 10)
		must(err)
		var keys []string
		for _, c := range all {
			keys = append(keys, c.Key)
			if c.Body != nil {
				t.Error("the list has bodies")
			}
		}
		if fmt.Sprint(keys) != "[k2 k3 k4]" {
			t.Errorf("listed %v", keys)
		}
		keys = nil
		for after, more := "", true; more; more = after != "" {
			some, next, err := s.List(ctx, "box", after, 1)
			must(err)
			if len(some) != 1 {
				t.Fatalf("listed %d, expected one", len(some))
			}
			keys, after = append(keys, some[0].Key), next
		}
		if fmt.Sprint(keys) != "[k2 k3 k4]" {
			t.Errorf("listed one by one %v", keys)
		}
		if _, _, err := s.List(ctx, "box", "nowhere", 1); !errors.Is(err, ErrStore) {
			t.Errorf("from a place that is none: %v", err)
		}
		if c, err := s.Get(ctx, "box", "k3"); err != nil || c == nil || !bytes.Equal(c.Body, third.Body) {
			t.Errorf("got %+v, %v", c, err)
		}
		for _, want := range []bool{true, false} {
			if dropped, err := s.Drop(ctx, "box", "k3"); err != nil || dropped != want {
				t.Errorf("dropped: %v, %v, expected %v", dropped, err, want)
			}
		}
		if c, err := s.Get(ctx, "box", "k3"); err != nil || c != nil {
			t.Errorf("after it was dropped: %+v, %v", c, err)
		}
		head("va2", "")
		due(epoch.Add(time.Hour), time.Time{}, "va1")
	})
	t.Run("updating what is gone brings nothing back", func(*testing.T) {
		must(s.Update(ctx, third))
		head("va2", "")
	})
	t.Run("boxes are apart", func(t *testing.T) {
		other := call("k2", "va1")
		other.Inbox = "other"
		if _, _, err := s.Add(ctx, other); err != nil {
			t.Fatal(err)
		}
		if names, err := s.Inboxes(ctx); err != nil || fmt.Sprint(names) != "[box other]" {
			t.Errorf("the boxes are %v, %v", names, err)
		}
		if _, err := s.Drop(ctx, "other", "k2"); err != nil {
			t.Fatal(err)
		}
		if names, err := s.Inboxes(ctx); err != nil || fmt.Sprint(names) != "[box]" {
			t.Errorf("the boxes are %v, %v", names, err)
		}
		if c, err := s.Get(ctx, "box", "k2"); err != nil || c == nil {
			t.Errorf("%+v, %v", c, err)
		}
	})
	t.Run("many at once, some of them the same", func(*testing.T) {
		var wg sync.WaitGroup
		var news atomic.Int32
		for n := range 200 {
			wg.Go(func() {
				c := call(fmt.Sprint("many", n%100), fmt.Sprint("lane", n%10))
				if added, taken, err := s.Add(ctx, c); err != nil || taken != nil {
					t.Errorf("%+v, %v", taken, err)
				} else if added {
					news.Add(1)
				}
			})
		}
		wg.Wait()
		if n := news.Load(); n != 100 {
			t.Errorf("%d were new", n)
		}
		seen := make(map[string]bool)
		for after, more := "", true; more; more = after != "" {
			some, next, err := s.List(ctx, "box", after, 30)
			must(err)
			for _, c := range some {
				if seen[c.Key] {
					t.Errorf("listed twice: %s", c.Key)
				}
				seen[c.Key] = true
			}
			after = next
		}
		if len(seen) != 102 {
			t.Errorf("listed %d", len(seen))
		}
		if got, err := s.Stats(ctx, "box"); err != nil || got.Waiting != 102 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestABoltStaysAfterItIsClosed(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	b := openBolt(t, folder)
	ctx := context.Background()
	for _, key := range []string{"k1", "k2", "k3", "k4"} {
		if _, _, err := b.Add(ctx, call(key, "va")); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Ack(ctx, call("k1", "va"), thanks, time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := b.Ack(ctx, call("gone", "va"), thanks, time.Nanosecond); err != nil {
		t.Fatal(err)
	}
	buried := call("k2", "va")
	buried.Dead = true
	if err := b.Update(ctx, buried); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Add(ctx, call("k5", "va")); !errors.Is(err, ErrStore) {
		t.Errorf("adding to a closed one: %v", err)
	}
	b = openBolt(t, folder)
	defer b.Close()
	if head, err := b.Peek(ctx, "box", "va"); err != nil || head == nil || head.Key != "k3" {
		t.Errorf("head %+v, %v", head, err)
	}
	if s, err := b.Stats(ctx, "box"); err != nil || s.Waiting != 2 || s.Dead != 1 {
		t.Errorf("stats %+v, %v", s, err)
	}
	for key, known := range map[string]bool{"k1": true, "gone": false} {
		if taken, err := b.Acked(ctx, "box", key); err != nil || (taken != nil) != known {
			t.Errorf("%s: %+v, %v", key, taken, err)
		}
	}
}

func TestABoltThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	log := new(strings.Builder)
	open := func(folder string) (*Bolt, error) {
		return OpenBolt(BoltConfig{Folder: folder, Now: func() time.Time { return epoch }, Logger: slog.New(slog.NewTextHandler(log, nil))})
	}
	t.Run("a file in place of the folder", func(t *testing.T) {
		folder := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(folder, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := open(folder); !errors.Is(err, ErrStore) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("in use", func(t *testing.T) {
		folder := t.TempDir()
		b, err := open(folder)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if _, err := open(folder); !errors.Is(err, ErrStore) || !strings.Contains(err.Error(), "give each sidecar a folder of its own") {
			t.Errorf("error %v", err)
		}
	})
	for name, damage := range map[string]func(t *testing.T, path string){
		"overwritten at its beginning": func(t *testing.T, path string) {
			t.Helper()
			overwrite(t, path, 0, 2*os.Getpagesize())
		},
		"overwritten behind that": func(t *testing.T, path string) {
			t.Helper()
			overwrite(t, path, 2*os.Getpagesize(), 64*os.Getpagesize())
		},
		"cut short": func(t *testing.T, path string) {
			t.Helper()
			if err := os.Truncate(path, 100); err != nil {
				t.Fatal(err)
			}
		},
		"cut in half": func(t *testing.T, path string) {
			t.Helper()
			info, err := os.Stat(path)
			if err == nil {
				err = os.Truncate(path, info.Size()/2)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
		"cut short by a page": func(t *testing.T, path string) {
			t.Helper()
			db, err := bolt.Open(path, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			var size int64
			err = db.View(func(tx *bolt.Tx) error { size = tx.Size(); return nil })
			if err = errors.Join(err, db.Close(), os.Truncate(path, size-int64(os.Getpagesize()))); err != nil {
				t.Fatal(err)
			}
		},
		"another file altogether": func(t *testing.T, path string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(strings.Repeat("not a database. ", 10_000)), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run("corrupt: "+name, func(t *testing.T) {
			folder := t.TempDir()
			b := openBolt(t, folder)
			long := thanks
			long.Body = make([]byte, 4000)
			for n := range 50 {
				if _, _, err := b.Add(t.Context(), call(fmt.Sprint(n), "va")); err != nil {
					t.Fatal(err)
				}
				if err := b.Ack(t.Context(), call(fmt.Sprint("t", n), "va"), long, time.Hour); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			damage(t, filepath.Join(folder, BoltFile))
			b, err := open(folder)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if _, _, err := b.Add(t.Context(), call("new", "va")); err != nil {
				t.Errorf("the new one does not work: %v", err)
			}
			aside, err := filepath.Glob(filepath.Join(folder, BoltFile+".corrupt-*"))
			if err != nil || len(aside) != 1 || !strings.Contains(log.String(), aside[0]) {
				t.Errorf("put aside: %v, %v; the log says %s", aside, err, log)
			}
		})
	}
}

func TestAFileThatBecomesShorterIsAnError(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	b := openBolt(t, folder)
	defer func() { _ = b.Close() }()
	for n := range 100 {
		c := call(fmt.Sprint(n), "va")
		c.Body = make([]byte, 10_000)
		if _, _, err := b.Add(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(filepath.Join(folder, BoltFile), int64(4*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(t.Context(), "box", "50"); !errors.Is(err, ErrStore) {
		t.Errorf("error %v", err)
	}
}

// together makes changes in one transaction of b, in their order. It must be called
// in a bubble of synctest.
func together(b *Bolt, changes ...func()) {
	gate := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.write(&boltWrite{apply: func(*bolt.Tx) error { <-gate; return nil }, updateIndex: func() {}}) })
	for _, change := range changes {
		synctest.Wait()
		wg.Go(change)
	}
	synctest.Wait()
	close(gate)
	wg.Wait()
}

func TestWhatChangesAtTheSameTimeIsTheSameAfterARestart(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	c := call("k", "va")
	update := func(b *Bolt) { _ = b.Update(ctx, c) }
	take := func(b *Bolt) { _ = b.Ack(ctx, c, thanks, time.Second) }
	drop := func(b *Bolt) { _, _ = b.Drop(ctx, c.Inbox, c.Key) }
	add := func(b *Bolt) { _, _, _ = b.Add(ctx, c) }
	for _, test := range []struct {
		name    string
		before  string // kept, dead, or nothing
		changes []func(*Bolt)
		waiting int
	}{
		{"taken and updated", "kept", []func(*Bolt){take, update}, 0},
		{"dropped and updated", "kept", []func(*Bolt){drop, update}, 0},
		{"dead, added and dropped", "dead", []func(*Bolt){add, drop}, 0},
		{"dead, added and taken", "dead", []func(*Bolt){add, take}, 0},
		{"dead, added and updated", "dead", []func(*Bolt){add, update}, 1},
		{"dead, revived and taken", "dead", []func(*Bolt){update, take}, 0},
		{"taken and added", "", []func(*Bolt){take, add}, 0},
		{"added and taken", "", []func(*Bolt){add, take}, 0},
		{"added twice", "", []func(*Bolt){add, add}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				b := openBolt(t, folder)
				if test.before != "" {
					add(b)
				}
				if test.before == "dead" {
					buried := c
					buried.Dead = true
					if err := b.Update(ctx, buried); err != nil {
						t.Fatal(err)
					}
				}
				var changes []func()
				for _, change := range test.changes {
					changes = append(changes, func() { change(b) })
				}
				together(b, changes...)
				for range 2 {
					if s, err := b.Stats(ctx, "box"); err != nil || s.Waiting != test.waiting || s.Dead != 0 {
						t.Errorf("%+v, %v, expected that %d waits", s, err, test.waiting)
					}
					if err := b.Close(); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Hour) // until what was taken is forgotten
					b = openBolt(t, folder)
				}
				if err := b.Close(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

func TestARevivedCallStaysAtTheEndOfItsLane(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	b := openBolt(t, folder)
	for _, key := range []string{"k1", "k2"} {
		if _, _, err := b.Add(t.Context(), call(key, "va")); err != nil {
			t.Fatal(err)
		}
	}
	c := call("k1", "va")
	for _, c.Dead = range []bool{true, false} {
		if err := b.Update(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if head, err := b.Peek(t.Context(), "box", "va"); err != nil || head == nil || head.Key != "k2" {
			t.Errorf("head %+v, %v", head, err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = openBolt(t, folder)
	}
	_ = b.Close()
}

func TestWhatWasForgottenCanBeKeptAgain(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := openBolt(t, folder)
		if err := b.Ack(t.Context(), call("k", "va"), thanks, time.Second); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if added, taken, err := b.Add(t.Context(), call("k", "va")); err != nil || taken != nil || !added {
			t.Fatal(added, taken, err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = openBolt(t, folder)
		if head, err := b.Peek(t.Context(), "box", "va"); err != nil || head == nil {
			t.Errorf("after a restart: %+v, %v", head, err)
		}
		_ = b.Close()
	})
}

func TestACallThatIsNotInTheFileIsForgotten(t *testing.T) {
	t.Parallel()
	b := openBolt(t, t.TempDir())
	defer func() { _ = b.Close() }()
	for _, key := range []string{"k1", "k2"} {
		if _, _, err := b.Add(t.Context(), call(key, "va")); err != nil {
			t.Fatal(err)
		}
	}
	first := b.entry("box", "k1")
	err := b.write(&boltWrite{ // as if the disk had said no, and done it
		apply: func(tx *bolt.Tx) error { return tx.Bucket(callsBucket).Delete(sequenceKey(first.sequence)) }, updateIndex: func() {},
	})
	if err != nil {
		t.Fatal(err)
	}
	if head, err := b.Peek(t.Context(), "box", "va"); err != nil || head == nil || head.Key != "k2" {
		t.Errorf("head %+v, %v", head, err)
	}
}

func TestAClosedBoltKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := openBolt(t, folder)
		add := func() {
			if _, _, err := b.Add(context.Background(), call("k", "va")); !errors.Is(err, ErrStore) {
				t.Errorf("error %v", err)
			}
		}
		together(b, add, add, func() { _ = b.Close() })
	})
}

func TestADiskThatHangsIsAnError(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := openBolt(t, folder)
		hung := make(chan struct{})
		apply := func(*bolt.Tx) error { <-hung; return nil }
		if err := b.write(&boltWrite{apply: apply, updateIndex: func() {}}); !errors.Is(err, errHangs) || !errors.Is(err, ErrStore) {
			t.Errorf("what is being written: %v", err)
		}
		if _, _, err := b.Add(t.Context(), call("k", "va")); !errors.Is(err, errHangs) {
			t.Errorf("what would be next: %v", err)
		}
		close(hung)
		if _, _, err := b.Add(t.Context(), call("k", "va")); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		_ = b.Close()
	})
}

func TestADamagedCallIsNotDelivered(t *testing.T) {
	t.Parallel()
	folder, log := t.TempDir(), new(strings.Builder)
	b := openBolt(t, folder)
	for n := range 3 {
		if _, _, err := b.Add(t.Context(), call(fmt.Sprint(n), "va")); err != nil {
			t.Fatal(err)
		}
	}
	err := b.update(func(tx *bolt.Tx) error {
		calls := tx.Bucket(callsBucket)
		sequence, value := calls.Cursor().First()
		altered := bytes.Replace(value, []byte(`"paymentRequestId":"0"`), []byte(`"paymentRequestId":"9"`), 1)
		if bytes.Equal(altered, value) {
			t.Error("nothing was altered")
		}
		return calls.Put(bytes.Clone(sequence), altered)
	})
	if err = errors.Join(err, b.Close()); err != nil {
		t.Fatal(err)
	}
	b, err = OpenBolt(BoltConfig{Folder: folder, Now: time.Now, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if head, err := b.Peek(t.Context(), "box", "va"); err != nil || head == nil || head.Key != "1" {
		t.Errorf("head %+v, %v", head, err)
	}
	if all, _, err := b.List(t.Context(), "box", "", 10); err != nil || len(all) != 2 {
		t.Errorf("%d calls are left, %v", len(all), err)
	}
	aside, err := filepath.Glob(filepath.Join(folder, BoltFile+".corrupt-*"))
	if err != nil || len(aside) != 1 || !strings.Contains(log.String(), aside[0]) {
		t.Errorf("put aside: %v, %v; the log says %s", aside, err, log)
	}
}

func overwrite(t *testing.T, path string, from, to int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	garbage := make([]byte, to-from)
	for i := range garbage {
		garbage[i] = 0xa5
	}
	if _, err := f.WriteAt(garbage, int64(from)); err != nil {
		t.Fatal(err)
	}
}

func TestAFullBoltRefusesAndRecovers(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) { fillAndEmpty(t, folder) })
}

func fillAndEmpty(t *testing.T, folder string) {
	t.Helper()
	b, err := OpenBolt(BoltConfig{Folder: folder, MaxSize: 256 << 10, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	kept := 0
	for ; kept < 1000; kept++ {
		c := call(fmt.Sprint(kept), "va")
		c.Body = make([]byte, 4<<10)
		if _, _, err = b.Add(t.Context(), c); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrStore) || kept == 0 {
		t.Fatalf("%d calls were kept, error %v", kept, err)
	}
	if s, _ := b.Stats(t.Context(), "box"); s.Waiting != kept {
		t.Errorf("%d wait, expected %d", s.Waiting, kept)
	}
	synctest.Wait()
	large := call("large", "other")
	large.Body = make([]byte, 100<<10)
	var added, taken error
	together(b,
		func() { _, _, added = b.Add(context.Background(), large) },
		func() { taken = b.Ack(context.Background(), call("0", "va"), thanks, time.Hour) },
	)
	if !errors.Is(added, ErrStore) || taken != nil {
		t.Errorf("what makes room fails with what needs it: %v, %v", added, taken)
	}
	c := call("1", "va")
	c.Body, c.Attempts = make([]byte, 4<<10), 1
	for range 100 { // more than what was free
		c.Attempts++
		c.Body = append(c.Body, make([]byte, 500)...)
		if err := b.Update(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	for n := range kept - 1 {
		if _, err := b.Drop(t.Context(), "box", fmt.Sprint(n+1)); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := b.Add(t.Context(), call("again", "va")); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

func TestABoltFullOfOldRecordsIsSwept(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		open := func() *Bolt {
			b, err := OpenBolt(BoltConfig{Folder: folder, MaxSize: 1 << 20, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		b := open()
		large := thanks
		large.Body = make([]byte, 1000)
		full := func() (err error) {
			for n := 0; err == nil; n++ {
				var wg sync.WaitGroup
				var mu sync.Mutex
				for m := range 20 {
					wg.Go(func() {
						failed := b.Ack(context.Background(), call(fmt.Sprintf("%x", sha256.Sum256([]byte{byte(n), byte(n >> 8), byte(m)})), "va"), large, time.Hour)
						mu.Lock()
						defer mu.Unlock()
						err = errors.Join(err, failed)
					})
				}
				wg.Wait()
			}
			return err
		}
		if err := full(); !errors.Is(err, ErrStore) {
			t.Fatal(err)
		}
		if _, _, err := b.Add(t.Context(), func() Call { c := call("new", "va"); c.Body = make([]byte, 100<<10); return c }()); !errors.Is(err, ErrStore) {
			t.Fatalf("it is not full: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = open() // though it is full
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		err := b.view(func(tx *bolt.Tx) error {
			if n := tx.Bucket(ackedBucket).Stats().KeyN; n != 0 {
				t.Errorf("%d old records are left", n)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if _, _, err := b.Add(t.Context(), call("new", "va")); err != nil {
			t.Errorf("with room again: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestWhatRedisHasThrownAwayHindersNothing(t *testing.T) {
	t.Parallel()
	r, _ := newRedis(t)
	ctx := t.Context()
	for _, key := range []string{"ghost", "kept", "ghost2", "kept2"} {
		if _, _, err := r.Add(ctx, call(key, "va")); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"ghost", "ghost2"} {
		if err := r.client.Del(ctx, r.base("box")+"call:"+key).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if added, taken, err := r.Add(ctx, call("next", "va")); err != nil || taken != nil || !added {
		t.Fatal(added, taken, err)
	}
	for _, key := range []string{"kept", "kept2", "next"} {
		if head, err := r.Peek(ctx, "box", "va"); err != nil || head == nil || head.Key != key {
			t.Fatalf("head %+v, %v, expected %s", head, err, key)
		}
		if err := r.Ack(ctx, call(key, "va"), thanks, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := r.Stats(ctx, "box"); err != nil || s.Waiting != 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if lanes, _, err := r.Due(ctx, "box", epoch.Add(time.Hour), 10); err != nil || len(lanes) != 0 {
		t.Errorf("due are %v, %v", lanes, err)
	}
}

func TestWhatIsDeadStaysInRedis(t *testing.T) {
	t.Parallel()
	r, _ := newRedis(t)
	ctx := t.Context()
	lives := func(name string) time.Duration {
		t.Helper()
		ttl, err := r.client.TTL(ctx, r.base("box")+name).Result()
		if err != nil {
			t.Fatal(err)
		}
		return ttl
	}
	c := call("k", "va")
	if _, _, err := r.Add(ctx, c); err != nil {
		t.Fatal(err)
	}
	if err := r.client.Expire(ctx, r.base("box")+"call:k", time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	for _, c.Dead = range []bool{false, true, false} {
		if err := r.Update(ctx, c); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"call:k", "all"} {
			if ttl := lives(name); c.Dead != (ttl < 0) || !c.Dead && ttl < time.Hour {
				t.Errorf("dead: %v: %s lives for %s", c.Dead, name, ttl)
			}
		}
	}
}

func TestNothingInRedisCanBeRead(t *testing.T) {
	t.Parallel()
	r, _ := newRedis(t)
	if _, _, err := r.Add(t.Context(), call("k1", "va1")); err != nil {
		t.Fatal(err)
	}
	if err := r.Ack(t.Context(), call("k2", "va1"), thanks, time.Hour); err != nil {
		t.Fatal(err)
	}
	hash, err := r.client.HGetAll(t.Context(), r.base("box")+"call:k1").Result()
	if err != nil {
		t.Fatal(err)
	}
	taken, err := r.client.Get(t.Context(), r.base("box")+"taken:k2").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{hash["call"], taken} {
		if strings.Contains(text, "paymentRequestId") || strings.Contains(text, "responseCode") || strings.Contains(text, "merchant.example") {
			t.Errorf("can be read: %q", text)
		}
	}
	if _, _, err := r.Add(t.Context(), Call{Key: "k3", Inbox: "box", Account: "stranger"}); !errors.Is(err, ErrStore) {
		t.Errorf("of an unknown account: %v", err)
	}
	keys, err := r.client.Keys(t.Context(), "*").Result()
	if err != nil || len(keys) < 5 {
		t.Fatalf("keys %v, %v", keys, err)
	}
	for _, key := range keys {
		if key == r.inboxesKey() {
			continue // names alone
		}
		if ttl, err := r.client.TTL(t.Context(), key).Result(); err != nil || ttl <= 0 {
			t.Errorf("%s lives for %s, %v", key, ttl, err)
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			s := openBolt(b, b.TempDir())
			defer s.Close()
			b.SetParallelism(max(1, callers/2)) // of GOMAXPROCS, which is 2 where it was measured
			var n int64
			var mu sync.Mutex
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					mu.Lock()
					n++
					key := fmt.Sprint(n)
					mu.Unlock()
					if _, _, err := s.Add(context.Background(), call(key, key)); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
