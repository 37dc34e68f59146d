package idempotency

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/internal/store/storetest"
	"github.com/caddy-doku/caddy-doku/snap"
)

func of(body string) [32]byte { return CallDigest("POST", "/create-va", snap.Digest([]byte(body))) }

// records returns the record of one account in n sidecars that share a store. end closes
// the store, so that the synctest bubble can end.
func records(n int) (all []*Record, end func()) {
	memory := store.NewMemory()
	for range n {
		all = append(all, New(memory, 10*time.Second))
	}
	return all, func() { _ = memory.Close() }
}

func request(key string, digest [32]byte, externalID string, callerChosen bool) Request {
	return Request{Key: key, Digest: digest, ExternalID: externalID, CallerChosen: callerChosen}
}

// begin begins a call that is expected to be made.
func begin(t *testing.T, r *Record, key, externalID string, callerChosen bool) *Attempt {
	t.Helper()
	call, err := r.Begin(t.Context(), request(key, of("b"), externalID, callerChosen))
	if err != nil || call.Answer != nil {
		t.Fatalf("found %+v, error %v, expected to make the call", call, err)
	}
	return call
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

var created = store.Answer{
	Status: http.StatusOK,
	Header: http.Header{"Content-Type": {"application/json"}},
	Body:   []byte(`{"responseCode":"2002700"}`),
}

func TestAnAnswerThatCannotBeReadLeavesTheExternalID(t *testing.T) {
	t.Parallel()
	memory := store.NewMemory()
	t.Cleanup(func() { _ = memory.Close() })
	r := New(unreadable{memory}, time.Minute)
	must(t, begin(t, r, "k", "1", false).Complete(t.Context(), created))
	call, err := r.Begin(t.Context(), request("k", of("b"), "2", false))
	if !errors.Is(err, store.ErrStore) || call.ExternalID != "1" || !call.MaybeSent {
		t.Errorf("found %+v, error %v, expected the first one's external id", call, err)
	}
}

// unreadable is a store that spoils answers.
type unreadable struct{ store.Store }

func (u unreadable) Commit(ctx context.Context, owner string, ttl time.Duration, entries ...store.Entry) (bool, error) {
	for i := range entries {
		entries[i].Value = []byte("garbage")
	}
	return u.Store.Commit(ctx, owner, ttl, entries...)
}

func TestARepeatHasTheSameExternalIDAndAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, end := records(2)
		defer end()
		// Just before midnight; the bubble's clock begins at midnight UTC.
		time.Sleep(16*time.Hour + 59*time.Minute)
		must(t, begin(t, all[0], "k", "1", false).Abort(t.Context(), true))
		time.Sleep(2 * time.Minute) // now it is another WIB day
		call := begin(t, all[1], "k", "2", false)
		if call.ExternalID != "1" {
			t.Errorf("the repeat after midnight has external id %s", call.ExternalID)
		}
		must(t, call.Complete(t.Context(), created))
		time.Sleep(24 * time.Hour)
		again, err := all[0].Begin(t.Context(), request("k", of("b"), "3", false))
		if err != nil || !reflect.DeepEqual(again.Answer, &created) {
			t.Errorf("a repeat within the window: %+v, %v", again, err)
		}
	})
}

func TestWhetherAnEarlierAttemptMayHaveReachedDOKUIsKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, end := records(2)
		defer end()
		for i, step := range []struct{ sent, maybeSent bool }{
			{false, false}, // nothing was sent the first time,
			{false, false}, // nor the second,
			{true, false},  // but the third,
			{false, true},  // of which the fourth knows,
			{true, true}, {false, true},
		} {
			call := begin(t, all[i%2], "k", "1", false)
			if call.MaybeSent != step.maybeSent {
				t.Errorf("attempt %d: maybe sent: %v", i+1, call.MaybeSent)
			}
			must(t, call.Abort(t.Context(), step.sent))
		}
		// A sidecar that dies leaves everything open.
		begin(t, all[0], "dies", "1", false).lease.Release(t.Context())
		call := begin(t, all[1], "dies", "1", false)
		if !call.MaybeSent {
			t.Error("after a death the outcome was taken for known")
		}
		must(t, call.Abort(t.Context(), false))
	})
}

// gate is a store whose claims wait until it is opened.
type gate struct {
	store.Store
	asked, opened chan struct{}
}

func (g gate) Claim(ctx context.Context, owner string, lease time.Duration, keys ...string) (store.Claim, error) {
	close(g.asked)
	<-g.opened
	return g.Store.Claim(ctx, owner, lease, keys...)
}

// The caller that came first, but got the lease second, knows of the attempt that was made
// meanwhile.
func TestTheNoteOfAnEarlierAttemptIsReadWhenItsLeaseHasEnded(t *testing.T) {
	t.Parallel()
	for _, sent := range []bool{true, false} {
		t.Run(fmt.Sprint("sent: ", sent), func(t *testing.T) {
			t.Parallel()
			memory := store.NewMemory()
			t.Cleanup(func() { _ = memory.Close() })
			g := gate{memory, make(chan struct{}), make(chan struct{})}
			var slow *Attempt
			var wg sync.WaitGroup
			wg.Go(func() { slow = begin(t, New(g, time.Minute), "k", "1", false) })
			<-g.asked
			quick := begin(t, New(memory, time.Minute), "k", "2", false)
			must(t, quick.Abort(t.Context(), sent))
			close(g.opened)
			wg.Wait()
			if slow.MaybeSent != sent || slow.ExternalID != quick.ExternalID {
				t.Errorf("maybe sent: %v with external id %s, the other attempt had %s", slow.MaybeSent, slow.ExternalID, quick.ExternalID)
			}
			must(t, slow.Abort(t.Context(), false))
		})
	}
}

// failing is a store that cannot write over a value.
type failing struct{ store.Store }

func (failing) Set(context.Context, string, []byte, time.Duration) error { return store.ErrStore }

func TestAnErrorOfTheStoreLeavesWhatIsKnownOfTheCall(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name       string
		store      func(store.Store) store.Store
		sent       bool // the earlier attempt
		externalID string
		maybeSent  bool
	}{
		{"the note cannot be read", func(store.Store) store.Store { return storetest.Away{} }, false, "2", true},
		{"the note can be read, and nothing was sent", func(s store.Store) store.Store { return failing{s} }, false, "1", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			memory := store.NewMemory()
			t.Cleanup(func() { _ = memory.Close() })
			must(t, begin(t, New(memory, time.Minute), "k", "1", false).Abort(t.Context(), test.sent))
			call, err := New(test.store(memory), time.Minute).Begin(t.Context(), request("k", of("b"), "2", false))
			if !errors.Is(err, store.ErrStore) || call.ExternalID != test.externalID || call.MaybeSent != test.maybeSent {
				t.Errorf("error %v, with %+v", err, call)
			}
			// It holds nothing up.
			must(t, begin(t, New(memory, time.Minute), "k", "3", false).Abort(t.Context(), false))
		})
	}
}

func TestAKeyIsForOneCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, end := records(1)
		defer end()
		call := begin(t, all[0], "k", "1", false)
		for _, other := range [][32]byte{
			of("other"),
			CallDigest("PUT", "/create-va", snap.Digest([]byte("b"))),
			CallDigest("POST", "/update-va", snap.Digest([]byte("b"))),
		} {
			if _, err := all[0].Begin(t.Context(), request("k", other, "2", false)); !errors.Is(err, ErrKeyReused) {
				t.Errorf("error %v", err)
			}
		}
		must(t, call.Abort(t.Context(), true))
		again := begin(t, all[0], "another", "3", false)
		if again.ExternalID != "3" {
			t.Errorf("another key has external id %s", again.ExternalID)
		}
		must(t, again.Abort(t.Context(), true))
	})
}

func TestTheExternalIDThatTheAppChoosesWins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, end := records(1)
		defer end()
		for _, use := range []struct {
			given        string
			callerChosen bool
			want         string
		}{{"1", false, "1"}, {"77", true, "77"}, {"2", false, "77"}} {
			call := begin(t, all[0], "k", use.given, use.callerChosen)
			if call.ExternalID != use.want {
				t.Errorf("external id %s, expected %s", call.ExternalID, use.want)
			}
			must(t, call.Abort(t.Context(), true))
		}
	})
}

func TestARepeatInFlightWaitsForTheAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all, end := records(3)
		defer end()
		var made atomic.Int32
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				call, err := all[i%3].Begin(t.Context(), request("k", of("b"), fmt.Sprint(i), false))
				if err != nil {
					t.Error(err)
					return
				}
				if call.Answer != nil {
					return
				}
				made.Add(1)
				time.Sleep(30 * time.Second)
				must(t, call.Complete(t.Context(), created))
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		synctest.Wait()
		if _, err := all[0].Begin(ctx, request("k", of("b"), "x", false)); !errors.Is(err, store.ErrInFlight) {
			t.Errorf("a repeat that cannot wait: %v", err)
		}
		wg.Wait()
		if n := made.Load(); n != 1 {
			t.Errorf("the call was made %d times", n)
		}
	})
}

func TestOnlyFinalAnswersAreKept(t *testing.T) {
	t.Parallel()
	final := map[int]bool{
		200: true, 202: true, 400: true, 403: true, 404: true, 422: true,
		401: false, 408: false, 409: false, 425: false, 429: false, 500: false, 502: false, 503: false, 504: false, 302: false,
	}
	for status, kept := range final {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				all, end := records(1)
				defer end()
				call := begin(t, all[0], "k", "1", false)
				must(t, call.Complete(t.Context(), store.Answer{Status: status, Body: []byte("{}")}))
				again, err := all[0].Begin(t.Context(), request("k", of("b"), "2", false))
				if err != nil {
					t.Fatal(err)
				}
				if (again.Answer != nil) != kept {
					t.Errorf("kept: %v, expected %v", again.Answer != nil, kept)
				}
				if again.Answer == nil {
					must(t, again.Abort(t.Context(), true))
				}
			})
		})
	}
	t.Run("too large", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			all, end := records(1)
			defer end()
			call := begin(t, all[0], "k", "1", false)
			must(t, call.Complete(t.Context(), store.Answer{Status: 200, Body: make([]byte, AnswerLargest+1)}))
			again := begin(t, all[0], "k", "2", false)
			if again.ExternalID != "1" {
				t.Errorf("external id %s", again.ExternalID)
			}
			must(t, again.Abort(t.Context(), true))
		})
	})
}

func TestWithoutItsStoreNothingIsPromised(t *testing.T) {
	t.Parallel()
	r := New(storetest.Away{}, time.Second)
	if _, err := r.Begin(t.Context(), request("k", of("b"), "1", false)); !errors.Is(err, store.ErrStore) {
		t.Errorf("error %v", err)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("k", 255)
	for key, ok := range map[string]bool{
		"INV-1": true, "8e03978e-40d5-43dd-bc93-6894a57f9324": true, long: true,
		"": false, "a b": false, "a\nb": false, "é": false, long + "k": false,
	} {
		if ValidKey(key) != ok {
			t.Errorf("ValidKey(%q) = %v", key, !ok)
		}
	}
}

// stuck is a store that never answers when a value is replaced.
type stuck struct{ store.Store }

func (stuck) Set(ctx context.Context, _ string, _ []byte, _ time.Duration) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestAbortDoesNotWaitForAStuckStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := store.NewMemory()
		defer memory.Close()
		ctx, hangUp := context.WithCancel(t.Context())
		call := begin(t, New(stuck{memory}, time.Minute), "k", "1", false)
		hangUp()
		start := time.Now()
		if err := call.Abort(ctx, false); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != noteTimeout {
			t.Errorf("error %v after %s", err, time.Since(start))
		}
		must(t, begin(t, New(memory, time.Minute), "k", "2", false).Abort(t.Context(), false)) // the lease has ended
	})
}

// cutOff is a store that renews no lease while off is set.
type cutOff struct {
	store.Store
	off *atomic.Bool
}

func (c cutOff) Claim(ctx context.Context, owner string, lease time.Duration, keys ...string) (store.Claim, error) {
	if c.off.Load() {
		return store.Claim{}, store.ErrStore
	}
	return c.Store.Claim(ctx, owner, lease, keys...)
}

func TestAnAttemptWhoseLeaseHasExpiredDoesNotNoteThatNothingWasSent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := store.NewMemory()
		defer memory.Close()
		var off atomic.Bool
		paused := begin(t, New(cutOff{memory, &off}, 10*time.Second), "k", "1", false)
		off.Store(true)
		time.Sleep(time.Minute)
		other := New(memory, 10*time.Second)
		must(t, begin(t, other, "k", "2", false).Abort(t.Context(), true)) // sent, and no answer came
		must(t, paused.Abort(t.Context(), false))
		third := begin(t, other, "k", "3", false)
		if !third.MaybeSent {
			t.Error("the outcome was taken for known")
		}
		must(t, third.Abort(t.Context(), false))
	})
}
