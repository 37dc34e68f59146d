package callstore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore/boltfile"
)

func TestTheFileOfABoltOutlivesIt(t *testing.T) {
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
	dead := call("k2", "va")
	dead.Dead = true
	if err := b.Update(ctx, dead); err != nil {
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
	if first, err := b.Peek(ctx, "box", "va"); err != nil || first == nil || first.Key != "k3" {
		t.Errorf("the first call is %+v, %v", first, err)
	}
	if s, err := b.Stats(ctx, "box"); err != nil || s.Waiting != 2 || s.Dead != 1 {
		t.Errorf("stats %+v, %v", s, err)
	}
	for key, known := range map[string]bool{"k1": true, "gone": false} {
		if acked, _, err := b.Lookup(ctx, "box", key); err != nil || (acked != nil) != known {
			t.Errorf("%s: %+v, %v", key, acked, err)
		}
	}
}

func TestConcurrentChangesAreTheSameAfterARestart(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	c := call("k", "va")
	update := func(b *Bolt) { _ = b.Update(ctx, c) }
	ack := func(b *Bolt) { _ = b.Ack(ctx, c, thanks, time.Second) }
	drop := func(b *Bolt) { _, _ = b.Drop(ctx, c.Inbox, c.Key) }
	add := func(b *Bolt) { _, _, _ = b.Add(ctx, c) }
	for _, test := range []struct {
		name    string
		before  string // kept, dead, or nothing
		changes []func(*Bolt)
		waiting int
	}{
		{"acked and updated", "kept", []func(*Bolt){ack, update}, 0},
		{"dropped and updated", "kept", []func(*Bolt){drop, update}, 0},
		{"dead, added and dropped", "dead", []func(*Bolt){add, drop}, 0},
		{"dead, added and acked", "dead", []func(*Bolt){add, ack}, 0},
		{"dead, added and updated", "dead", []func(*Bolt){add, update}, 1},
		{"dead, revived and acked", "dead", []func(*Bolt){update, ack}, 0},
		{"acked and added", "", []func(*Bolt){ack, add}, 0},
		{"added and acked", "", []func(*Bolt){add, ack}, 0},
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
					dead := c
					dead.Dead = true
					if err := b.Update(ctx, dead); err != nil {
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
					time.Sleep(time.Hour) // until the record has expired
					b = openBolt(t, folder)
				}
				if err := b.Close(); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

func TestARevivedCallStaysTheLastOfItsOrderingKey(t *testing.T) {
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
		if first, err := b.Peek(t.Context(), "box", "va"); err != nil || first == nil || first.Key != "k2" {
			t.Errorf("the first call is %+v, %v", first, err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = openBolt(t, folder)
	}
	_ = b.Close()
}

func TestACallCanBeAddedAgainAfterItsRecordExpired(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := openBolt(t, folder)
		if err := b.Ack(t.Context(), call("k", "va"), thanks, time.Second); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if added, acked, err := b.Add(t.Context(), call("k", "va")); err != nil || acked != nil || !added {
			t.Fatal(added, acked, err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = openBolt(t, folder)
		if first, err := b.Peek(t.Context(), "box", "va"); err != nil || first == nil {
			t.Errorf("after a restart: %+v, %v", first, err)
		}
		_ = b.Close()
	})
}

func TestACallThatIsNotInTheFileLeavesTheIndex(t *testing.T) {
	t.Parallel()
	b := openBolt(t, t.TempDir())
	defer func() { _ = b.Close() }()
	for _, key := range []string{"k1", "k2"} {
		if _, _, err := b.Add(t.Context(), call(key, "va")); err != nil {
			t.Fatal(err)
		}
	}
	first := b.entry("box", "k1")
	err := b.write(t.Context(), &boltWrite{ // as if the disk had made the change and reported an error
		apply: func(tx *boltfile.Tx) error { return tx.Delete(callsBucket, sequenceKey(first.Sequence)) }, updateIndex: func() {},
	})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := b.Peek(t.Context(), "box", "va"); err != nil || first == nil || first.Key != "k2" {
		t.Errorf("the first call is %+v, %v", first, err)
	}
}

func TestAClosedBoltMakesNobodyWait(t *testing.T) {
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
		apply := func(*boltfile.Tx) error { <-hung; return nil }
		if err := b.write(t.Context(), &boltWrite{apply: apply, updateIndex: func() {}}); !errors.Is(err, errHangs) || !errors.Is(err, ErrStore) {
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

func TestAFullBoltRefusesAndRecovers(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) { fillAndEmpty(t, folder) })
}

func fillAndEmpty(t *testing.T, folder string) {
	t.Helper()
	const limit = 256 << 10
	b, err := OpenBolt(BoltConfig{Folder: folder, MaxSize: limit, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
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
	var added, acked error
	together(b,
		func() { _, _, added = b.Add(context.Background(), large) },
		func() { acked = b.Ack(context.Background(), call("0", "va"), thanks, time.Hour) },
	)
	if !errors.Is(added, ErrStore) || acked != nil {
		t.Errorf("a change that frees space failed with one that needs space: %v, %v", added, acked)
	}
	c := call("1", "va")
	c.Body = make([]byte, 4<<10)
	for range 100 { // more than what was free
		c.Attempts++
		c.Error += "HTTP 503. "
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
	if info, err := os.Stat(filepath.Join(folder, BoltFile)); err != nil || info.Size() > limit {
		t.Errorf("the file: %v, %v; expected at most %d bytes", info, err, limit)
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
						key := fmt.Sprintf("%x", sha256.Sum256([]byte{byte(n), byte(n >> 8), byte(m)}))
						failed := b.Ack(context.Background(), call(key, "va"), large, time.Hour)
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
		c := call("new", "va")
		c.Body = make([]byte, 100<<10)
		if _, _, err := b.Add(t.Context(), c); !errors.Is(err, ErrStore) {
			t.Fatalf("it is not full: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		b = open() // a full file opens, too
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		left := 0
		err := b.file.Load().Scrub(t.Context(), func(bucket string, _, _ []byte) error {
			if bucket == ackedBucket {
				left++
			}
			return nil
		})
		if err != nil || left != 0 {
			t.Errorf("%d old records are left, %v", left, err)
		}
		if _, _, err := b.Add(t.Context(), call("new", "va")); err != nil {
			t.Errorf("with room again: %v", err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// together makes changes in one transaction of b, in their order. It must be called
// in a bubble of synctest.
func together(b *Bolt, changes ...func()) {
	gate := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = b.write(context.Background(), &boltWrite{apply: func(*boltfile.Tx) error { <-gate; return nil }, updateIndex: func() {}})
	})
	for _, change := range changes {
		synctest.Wait()
		wg.Go(change)
	}
	synctest.Wait()
	close(gate)
	wg.Wait()
}
