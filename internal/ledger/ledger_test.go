package ledger

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
)

func identity(externalID, paymentID, body string) Identity {
	return Identity{
		Account: "default", Service: snap.ServiceVAPayment, ExternalID: externalID, Day: "2024-08-27",
		PaymentID: paymentID, Digest: snap.Digest([]byte(body)),
	}
}

// asked is an inquiry.
func asked(externalID, signature, body string) Identity {
	id := identity(externalID, "", body)
	id.Service, id.Signature = snap.ServiceVAInquiry, signature
	return id
}

func newLedger(t testing.TB) *Ledger {
	t.Helper()
	memory := store.NewMemory()
	t.Cleanup(func() { _ = memory.Close() })
	return NewLedger(memory, DefaultLease)
}

var taken = store.Answer{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(`{"responseCode":"2002500"}`)}

// app is the app of a merchant. It gives one answer and counts its calls.
type app struct {
	answer store.Answer
	err    error
	calls  atomic.Int32
}

func (a *app) call() (store.Answer, error) {
	a.calls.Add(1)
	return a.answer, a.err
}

// step is a call of DOKU, with the expected outcome.
type step struct {
	id       Identity
	app      *app
	calls    int32 // of this step's app
	status   int
	replayed bool
	changed  bool
	reused   bool
	err      error
}

type steps struct {
	name  string
	steps []step
}

func accepting() *app { return &app{answer: taken} }

func failing() *app { return &app{answer: store.Answer{Status: 503}} }

func nextDay(id Identity) Identity {
	id.Day = "2024-08-28"
	return id
}

var (
	errApp = errors.New("the app is down")
	first  = identity("1", "p", "b")
)

// repeats are calls after one that the app has accepted.
func repeats() []steps {
	return []steps{
		{"a repeat gets the earlier answer", []step{
			{id: first, app: accepting(), calls: 1, status: 200},
			{id: first, app: failing(), calls: 0, status: 200, replayed: true},
		}},
		{"the same payment under another external id is a repeat", []step{
			{id: first, app: accepting(), calls: 1, status: 200},
			{id: identity("2", "p", "b"), app: failing(), calls: 0, status: 200, replayed: true},
		}},
		{"the same payment id with another body goes to the app, and the outcome says so", []step{
			{id: first, app: accepting(), calls: 1, status: 200},
			{id: identity("2", "p", "other"), app: accepting(), calls: 1, status: 200, changed: true},
			{id: identity("3", "p", "other"), app: failing(), calls: 0, status: 200, replayed: true},
		}},
		{"the same external and payment id with another body is a conflict", []step{
			{id: first, app: accepting(), calls: 1, status: 200},
			{id: identity("1", "p", "other"), app: accepting(), calls: 0, err: ErrConflict},
		}},
		{"another payment is never refused for its external id, and the outcome says so", []step{
			{id: first, app: accepting(), calls: 1, status: 200},
			{id: identity("1", "q", "other"), app: accepting(), calls: 1, status: 200, reused: true},
			{id: identity("1", "", "a third"), app: accepting(), calls: 1, status: 200, reused: true},
			{id: first, app: failing(), calls: 0, status: 200, replayed: true},
		}},
		{"on another day it is another call", []step{
			{id: first, app: accepting(), calls: 1, status: 200},
			{id: nextDay(identity("1", "p", "other")), app: accepting(), calls: 1, status: 200, changed: true},
			{id: nextDay(identity("1", "p", "a third")), app: accepting(), calls: 0, err: ErrConflict},
		}},
		{"the external id of an inquiry with another body is a conflict", []step{
			{id: asked("1", "s1", "b"), app: accepting(), calls: 1, status: 200},
			{id: asked("1", "s2", "other"), app: accepting(), calls: 0, err: ErrConflict},
			{id: nextDay(asked("1", "s3", "other")), app: accepting(), calls: 1, status: 200},
		}},
		{"the same signature is the same inquiry, whatever its external id, which stays free", []step{
			{id: asked("1", "s1", "b"), app: accepting(), calls: 1, status: 200},
			{id: asked("2", "s1", "b"), app: failing(), calls: 0, status: 200, replayed: true},
			{id: asked("2", "s2", "other"), app: accepting(), calls: 1, status: 200},
			{id: asked("2", "s1", "b"), app: failing(), calls: 0, status: 200, replayed: true},
		}},
		{"the same inquiry, signed anew, goes to the app", []step{
			{id: asked("1", "s1", "b"), app: accepting(), calls: 1, status: 200},
			{id: asked("2", "s2", "b"), app: accepting(), calls: 1, status: 200},
			{id: asked("1", "s3", "b"), app: failing(), calls: 0, status: 200, replayed: true},
		}},
		{"the same payment on another day is a repeat", []step{
			{id: first, app: accepting(), calls: 1, status: 200},
			{id: nextDay(first), app: failing(), calls: 0, status: 200, replayed: true},
		}},
		{"a notification without a payment id is known by its body", []step{
			{id: identity("1", "", "b"), app: accepting(), calls: 1, status: 200},
			{id: identity("2", "", "b"), app: failing(), calls: 0, status: 200, replayed: true},
			{id: identity("2", "", "other"), app: accepting(), calls: 1, status: 200},
			{id: identity("3", strings.Repeat("long", 1000), "b"), app: accepting(), calls: 1, status: 200},
			{id: identity("4", strings.Repeat("long", 1000), "b"), app: failing(), calls: 0, status: 200, replayed: true},
		}},
	}
}

// refusals are calls after one that the app has not accepted.
func refusals() []steps {
	return []steps{
		{"after a refusal the next call goes to the app, even with another body", []step{
			{id: first, app: failing(), calls: 1, status: 503},
			{id: identity("1", "p", "other"), app: failing(), calls: 1, status: 503},
			{id: first, app: accepting(), calls: 1, status: 200},
		}},
		{"after an error the next call goes to the app, too", []step{
			{id: first, app: &app{err: errApp}, calls: 1, err: errApp},
			{id: first, app: accepting(), calls: 1, status: 200},
		}},
		{"a redirect does not accept a call", []step{
			{id: first, app: &app{answer: store.Answer{Status: 302}}, calls: 1, status: 302},
			{id: first, app: accepting(), calls: 1, status: 200},
		}},
	}
}

func TestLedger(t *testing.T) {
	t.Parallel()
	for _, test := range append(repeats(), refusals()...) {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := newLedger(t)
			for i, s := range test.steps {
				out, err := l.Deliver(t.Context(), s.id, s.app.call)
				if !errors.Is(err, s.err) || out.Answer.Status != s.status || out.Replayed != s.replayed ||
					out.Changed != s.changed || out.Reused != s.reused || out.Unkept != nil {
					t.Errorf("step %d: %+v, error %v", i, out, err)
				}
				if n := s.app.calls.Load(); n != s.calls {
					t.Errorf("step %d: the app was called %d times", i, n)
				}
			}
		})
	}
}

// counting is a store that counts the keys that get a value.
type counting struct {
	store.Store
	mu   sync.Mutex
	keys map[string]bool
}

func (c *counting) count(keys ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range keys {
		c.keys[key] = true
	}
}

func (c *counting) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	c.count(key)
	return c.Store.Set(ctx, key, value, ttl)
}

func (c *counting) Add(ctx context.Context, key string, value []byte, ttl time.Duration) ([]byte, error) {
	c.count(key)
	return c.Store.Add(ctx, key, value, ttl)
}

func (c *counting) Commit(ctx context.Context, owner string, ttl time.Duration, entries ...store.Entry) (bool, error) {
	for _, e := range entries {
		c.count(e.Key)
	}
	return c.Store.Commit(ctx, owner, ttl, entries...)
}

func TestACapturedCallTakesNoMemoryHoweverOftenItIsSent(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		call  func(externalID string) Identity
		first func() *app
		most  int // keys
	}{
		{"an inquiry that the app has accepted", func(id string) Identity { return asked(id, "s", "b") }, accepting, 3},
		{"an inquiry that the app fails on", func(id string) Identity { return asked(id, "s", "b") }, failing, 0},
		{"a notification that the app has accepted", func(id string) Identity { return identity(id, "p", "b") }, accepting, 4},
		{"a notification that the app fails on", func(id string) Identity { return identity(id, "p", "b") }, failing, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			memory := store.NewMemory()
			t.Cleanup(func() { _ = memory.Close() })
			counted := &counting{Store: memory, keys: make(map[string]bool)}
			l, a := NewLedger(counted, DefaultLease), test.first()
			for n := range 1000 {
				if _, err := l.Deliver(t.Context(), test.call(strconv.Itoa(n)), a.call); err != nil {
					t.Fatal(err)
				}
			}
			if len(counted.keys) != test.most {
				t.Errorf("%d keys, expected %d", len(counted.keys), test.most)
			}
			if calls := a.calls.Load(); test.most > 0 && calls != 1 {
				t.Errorf("the app was called %d times", calls)
			}
		})
	}
}

func TestServicesAreSeparate(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	a := accepting()
	other := first
	other.Service = snap.ServiceDebitNotify
	for _, id := range []Identity{first, other} {
		if _, err := l.Deliver(t.Context(), id, a.call); err != nil {
			t.Fatal(err)
		}
	}
	if n := a.calls.Load(); n != 2 {
		t.Errorf("the app was called %d times", n)
	}
}

func TestALargeAnswerIsRepeatedAsAnAcknowledgement(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	header := http.Header{"Content-Encoding": {"gzip"}, "Etag": {"1"}}
	a := &app{answer: store.Answer{Status: 200, Header: header, Body: make([]byte, AnswerLargest+1)}}
	for i, want := range []store.Answer{a.answer, {
		Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: snap.Successful.Answer(snap.ServiceVAPayment),
	}} {
		if out, err := l.Deliver(t.Context(), first, a.call); err != nil || !reflect.DeepEqual(out.Answer, want) {
			t.Errorf("%d: %d bytes, %v, %v", i, len(out.Answer.Body), out.Answer.Header, err)
		}
	}
}

func TestAfterAPanicOfTheAppTheNextCallGoesThrough(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	func() {
		defer func() { _ = recover() }()
		_, _ = l.Deliver(t.Context(), first, func() (store.Answer, error) { panic(http.ErrAbortHandler) })
	}()
	if out, err := l.Deliver(t.Context(), first, accepting().call); err != nil || out.Replayed {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestAnAnswerIsKeptPastMidnightAndForADay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := store.NewMemory()
		defer memory.Close()
		l := NewLedger(memory, DefaultLease)
		time.Sleep(18 * time.Hour) // 01:00 WIB
		a := &app{answer: taken}
		for _, after := range []time.Duration{0, 22 * time.Hour, 30 * time.Minute} {
			time.Sleep(after)
			if _, err := l.Deliver(t.Context(), identity("1", "p", "b"), a.call); err != nil || a.calls.Load() != 1 {
				t.Errorf("after %s: %d calls, %v", after, a.calls.Load(), err)
			}
		}
		time.Sleep(3 * time.Hour)
		if _, err := l.Deliver(t.Context(), identity("1", "p", "b"), a.call); err != nil || a.calls.Load() != 2 {
			t.Errorf("after more than a day: %d calls, %v", a.calls.Load(), err)
		}
	})
}

func TestRepeatsInFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := store.NewMemory()
		defer memory.Close()
		replicas := []*Ledger{NewLedger(memory, DefaultLease), NewLedger(memory, DefaultLease)}
		var calls atomic.Int32
		var wg sync.WaitGroup
		for i := range 100 {
			if i == 1 {
				synctest.Wait() // the first one is with the app
			}
			externalID := string(rune('1' + i%5))
			wg.Go(func() {
				out, err := replicas[i%2].Deliver(t.Context(), identity(externalID, "p", "b"), func() (store.Answer, error) {
					calls.Add(1)
					time.Sleep(15 * time.Second) // longer than the lease
					return taken, nil
				})
				if err != nil || out.Answer.Status != 200 {
					t.Errorf("%+v, %v", out, err)
				}
			})
		}
		synctest.Wait()
		for _, l := range replicas {
			if _, err := l.Deliver(t.Context(), identity("1", "p", "other"), nil); !errors.Is(err, ErrConflict) {
				t.Errorf("another body in flight: %v", err)
			}
			if out, err := l.Deliver(t.Context(), identity("1", "q", "other"), accepting().call); err != nil || out.Answer.Status != 200 {
				t.Errorf("another payment, while the external id is in flight: %+v, %v", out, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := l.Deliver(ctx, identity("1", "p", "b"), nil); !errors.Is(err, ErrInFlight) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a repeat that cannot wait: %v", err)
			}
			cancel()
		}
		wg.Wait()
		if n := calls.Load(); n != 1 {
			t.Errorf("the app was called %d times", n)
		}
	})
}

var errAway = errors.New("away")

// away is a store some of whose operations fail.
type away struct {
	store.Store
	claim, commit bool
}

func (a away) Claim(ctx context.Context, owner string, lease time.Duration, keys ...string) (store.Claim, error) {
	if a.claim {
		return store.Claim{}, errAway
	}
	return a.Store.Claim(ctx, owner, lease, keys...)
}

func (a away) Commit(ctx context.Context, owner string, ttl time.Duration, entries ...store.Entry) (bool, error) {
	if a.commit {
		return false, errAway
	}
	return a.Store.Commit(ctx, owner, ttl, entries...)
}

func TestWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name          string
		claim, commit bool
		lenient       bool
		calls         int32
		err           error
	}{
		{"a call is refused", true, false, false, 0, ErrLedger},
		{"or handed to the app", true, false, true, 1, nil},
		{"what the app has accepted is not acknowledged", false, true, false, 1, ErrNotRecorded},
		{"or acknowledged, though not recorded", false, true, true, 1, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			memory := store.NewMemory()
			t.Cleanup(func() { _ = memory.Close() })
			l := NewLedger(away{memory, test.claim, test.commit}, DefaultLease)
			l.Lenient = test.lenient
			a := &app{answer: taken}
			out, err := l.Deliver(t.Context(), identity("1", "p", "b"), a.call)
			if !errors.Is(err, test.err) || a.calls.Load() != test.calls {
				t.Errorf("%+v, error %v, %d calls of the app", out, err, a.calls.Load())
			}
			if test.lenient && (out.Answer.Status != 200 || !errors.Is(out.Unkept, errAway)) {
				t.Errorf("%+v", out)
			}
		})
	}
}

// forgetful is a store that fails in the operations that are only for a warning.
type forgetful struct{ store.Store }

func (forgetful) Get(context.Context, string) ([]byte, error) { return nil, errAway }
func (forgetful) Add(context.Context, string, []byte, time.Duration) ([]byte, error) {
	return nil, errAway
}

func TestAFailureToWarnOfAChangedPaymentIsNoError(t *testing.T) {
	t.Parallel()
	memory := store.NewMemory()
	t.Cleanup(func() { _ = memory.Close() })
	l := NewLedger(forgetful{memory}, DefaultLease)
	for _, body := range []string{"b", "other"} {
		a := &app{answer: taken}
		out, err := l.Deliver(t.Context(), identity(body, "p", body), a.call)
		if err != nil || out.Unkept != nil || out.Changed || a.calls.Load() != 1 {
			t.Errorf("%s: %+v, %v, %d calls of the app", body, out, err, a.calls.Load())
		}
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	key := identity("1", "p", "b").Key()
	if again := identity("2", "p", "b").Key(); again != key {
		t.Error("the same payment under another external id has another key")
	}
	if other := identity("1", "p", "other").Key(); other == key {
		t.Error("another body has the same key")
	}
	if strings.ContainsAny(key, " {}") || len(key) != 32 {
		t.Errorf("key %q", key)
	}
}
