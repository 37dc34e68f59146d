package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

// The model: what must hold of every call whatever happens around it.
//
//   - DOKU sees 2xx only if the app has answered 2xx to the call, and that is
//     recorded.
//   - The app is not called again once its 2xx is recorded.
//   - The app is not called while another call of it is under way, unless that is
//     a dead sidecar's, or the store has failed.
//
// Recorded means that the store has kept it, whether or not the sidecar that asked
// for it still lives, or has heard of it. The store of a run is shared by all
// replicas; what each of them sees of it goes through a replica's own door, where
// faults happen, and where the model looks on.
type model struct {
	t      *testing.T
	faults bool // whether the store fails now and then
	mu     sync.Mutex
	calls  map[string]*modelCall // by Idempotency-Key
}

type modelCall struct {
	accepted bool // the app has answered 2xx
	recorded bool // the store knows
	finishes int  // records under way: the store may know, and others may have heard of it from there
	toApp    int
	repeated int // calls of the app after an earlier 2xx that was not recorded
	answered int // 2xx seen by DOKU

	underWay map[*door]bool // calls of the app, by who has made them
}

func (m *model) call(key string) *modelCall {
	if m.calls[key] == nil {
		m.calls[key] = &modelCall{underWay: make(map[*door]bool)}
	}
	return m.calls[key]
}

// app is the app's side of a call that comes through a door.
func (m *model) app(key string, through *door, answer func() (store.Answer, error)) (store.Answer, error) {
	m.mu.Lock()
	c := m.call(key)
	c.toApp++
	if c.recorded {
		m.t.Errorf("%s: the app was called though its acceptance was recorded", key)
	}
	if c.accepted {
		c.repeated++
	}
	for other := range c.underWay {
		if !m.faults && !other.dead.Load() {
			m.t.Errorf("%s: the app was called twice at once", key)
		}
	}
	c.underWay[through] = true
	m.mu.Unlock()
	got, err := answer()
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(c.underWay, through)
	if err == nil && got.Status == 200 {
		c.accepted = true
	}
	return got, err
}

// finish sees acceptance of a call being recorded.
func (m *model) finish(key string, record func() (bool, error)) (done bool, err error) {
	m.mu.Lock()
	c := m.call(key)
	c.finishes++
	m.mu.Unlock()
	done, err = record()
	m.mu.Lock()
	defer m.mu.Unlock()
	c.finishes--
	c.recorded = c.recorded || done
	return done, err
}

// answered is DOKU's side of a call.
func (m *model) answered(key string, status int) {
	if status != 200 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.call(key)
	c.answered++
	if !c.accepted || !c.recorded && c.finishes == 0 {
		m.t.Errorf("%s: DOKU saw 2xx though the app's acceptance was %v and its record %v", key, c.accepted, c.recorded)
	}
}

var errFault = fmt.Errorf("%w: fault", store.ErrStore)

// door is a replica's way to the store.
type door struct {
	store.Store
	dead   atomic.Bool
	faults func() (before, after bool) // whether an operation fails before or after it has been done

	finish func(entries []store.Entry, record func() (bool, error)) (bool, error) // acceptance is being recorded
}

func (d *door) pass(op func() error) error {
	before, after := d.faults()
	if d.dead.Load() || before {
		return errFault
	}
	if err := op(); err != nil {
		return err
	}
	if after || d.dead.Load() {
		return errFault
	}
	return nil
}

func (d *door) Claim(ctx context.Context, owner string, lease time.Duration, keys ...string) (c store.Claim, err error) {
	err = d.pass(func() (err error) {
		c, err = d.Store.Claim(ctx, owner, lease, keys...)
		return err
	})
	return c, err
}

func (d *door) Commit(ctx context.Context, owner string, ttl time.Duration, entries ...store.Entry) (done bool, err error) {
	err = d.pass(func() (err error) {
		done, err = d.finish(entries, func() (bool, error) { return d.Store.Commit(ctx, owner, ttl, entries...) })
		return err
	})
	return done, err
}

func (d *door) Release(ctx context.Context, owner string, keys ...string) error {
	return d.pass(func() error { return d.Store.Release(ctx, owner, keys...) })
}

// modelRun is one random run.
type modelRun struct {
	seed       uint64
	payments   int // different notifications
	deliveries int // of all of them together, repeats and all
	replicas   int
	lease      time.Duration
	spread     time.Duration // over which the deliveries begin
	faults     bool          // whether the store fails now and then
}

// run plays a run on a store and returns its figures.
func (r modelRun) run(t *testing.T, s store.Store) (m *model) {
	t.Helper()
	m = &model{t: t, faults: r.faults, calls: make(map[string]*modelCall)}
	random := rand.New(rand.NewPCG(r.seed, 0))
	var mu sync.Mutex // of random
	chance := func(p float64) bool {
		mu.Lock()
		defer mu.Unlock()
		return random.Float64() < p
	}
	between := func(most time.Duration) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return time.Duration(random.Int64N(int64(most)))
	}
	pick := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n)
	}
	var faulty atomic.Bool // the store fails now and then, for a while
	keys := make(map[string]string)
	type replica struct {
		ledger *Ledger
		door   *door
	}
	open := func() *replica {
		d := &door{Store: s, faults: func() (bool, bool) {
			return faulty.Load() && chance(0.3), faulty.Load() && chance(0.3)
		}}
		d.finish = func(entries []store.Entry, record func() (bool, error)) (bool, error) {
			mu.Lock()
			key := keys[entries[1].Key]
			mu.Unlock()
			return m.finish(key, record)
		}
		return &replica{NewLedger(d, r.lease), d}
	}
	alive := make([]atomic.Pointer[replica], r.replicas)
	for i := range alive {
		alive[i].Store(open())
	}
	var wg sync.WaitGroup
	for range r.deliveries {
		payment := pick(r.payments)
		id := identity(fmt.Sprintf("E%d-%d", payment, pick(3)), fmt.Sprint("P", payment), fmt.Sprint("body", payment))
		begin, which := between(r.spread), pick(r.replicas)
		mu.Lock()
		keys[id.keys().call] = id.Key()
		mu.Unlock()
		wg.Go(func() {
			time.Sleep(begin)
			at := alive[which].Load()
			out, err := at.ledger.Deliver(t.Context(), id, func() (store.Answer, error) {
				return m.app(id.Key(), at.door, func() (store.Answer, error) {
					time.Sleep(between(2 * r.lease)) // some apps are slower than a lease
					switch {
					case chance(0.3):
						return store.Answer{Status: 500}, nil
					case chance(0.1):
						return store.Answer{}, errors.New("connection refused")
					}
					return taken, nil
				})
			})
			if err == nil && !at.door.dead.Load() { // the dead answer nobody
				m.answered(id.Key(), out.Answer.Status)
			}
		})
	}
	// Around them sidecars die and are replaced, and the store fails for a while.
	for range 6 {
		time.Sleep(r.spread / 8)
		which := pick(r.replicas)
		alive[which].Swap(open()).door.dead.Store(true)
		faulty.Store(r.faults && !faulty.Load())
	}
	faulty.Store(false)
	wg.Wait()
	// In the end DOKU tries until it succeeds, and the app is well.
	for payment := range r.payments {
		id := identity("last", fmt.Sprint("P", payment), fmt.Sprint("body", payment))
		id.ExternalID = fmt.Sprint("last", payment)
		for {
			last := alive[0].Load()
			out, err := last.ledger.Deliver(t.Context(), id, func() (store.Answer, error) {
				return m.app(id.Key(), last.door, func() (store.Answer, error) { return taken, nil })
			})
			if err == nil {
				m.answered(id.Key(), out.Answer.Status)
				break
			}
			time.Sleep(r.lease)
		}
	}
	for key, c := range m.calls {
		if c.toApp > 0 && (!c.accepted || !c.recorded || c.answered == 0) {
			t.Errorf("%s: in the end %+v", key, c)
		}
	}
	return m
}

func TestLedgerHoldsToItsModel(t *testing.T) {
	t.Parallel()
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		toApp, repeated := 0, 0
		for seed := range uint64(60) {
			synctest.Test(t, func(t *testing.T) {
				memory := store.NewMemory()
				defer memory.Close()
				m := modelRun{seed: seed, payments: 8, deliveries: 120, replicas: 3, lease: 10 * time.Second, spread: 5 * time.Minute, faults: seed%2 == 0}.run(t, memory)
				for _, c := range m.calls {
					toApp, repeated = toApp+c.toApp, repeated+c.repeated
				}
			})
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
		if repeated == 0 {
			t.Error("no run had a death or fault between the app's answer and its record: the test proves too little")
		}
		t.Logf("%d calls of the app; %d of them again, because a death or fault fell between its answer and the record", toApp, repeated)
	})
	t.Run("Redis", func(t *testing.T) {
		t.Parallel()
		server := doktest.StartRedis(t)
		for seed := range uint64(4) {
			r, err := store.NewRedis(store.RedisConfig{URL: server.URL, Prefix: fmt.Sprint("run", seed, ":")})
			if err != nil {
				t.Fatal(err)
			}
			scope := store.Scope(r, "account")
			if err := scope.SetSecrets([]byte("secret")); err != nil {
				t.Fatal(err)
			}
			// In real time: the lease is short, but long beside what a busy machine takes.
			modelRun{seed: seed, payments: 8, deliveries: 120, replicas: 3, lease: 300 * time.Millisecond, spread: 3 * time.Second, faults: true}.run(t, scope)
			_ = r.Close()
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	})
}
