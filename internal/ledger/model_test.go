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

// model checks the promises of a ledger for every call, whatever happens:
//
//   - DOKU gets 2xx only if the app has answered 2xx, and that is recorded.
//   - The app is not called again once its 2xx is recorded.
//   - The app does not get a call while it works on the same one, unless a dead sidecar
//     sent the first, or the store has failed.
//
// Recorded means that the store has kept the answer, even if the sidecar that asked for
// it is dead or did not get the store's reply. All replicas of a run share a store. Each
// one reaches it through a door of its own, where faults happen and the model watches.
type model struct {
	t      *testing.T
	faults bool // whether the store fails at times
	mu     sync.Mutex
	calls  map[string]*modelCall // by Idempotency-Key
}

type modelCall struct {
	accepted bool // the app has answered 2xx
	recorded bool // the store has kept the answer
	unsure   bool // the store did not reply to a record, and may have kept the answer
	commits  int  // records under way: the store may have kept the answer already
	toApp    int
	repeated int // calls of the app after an earlier 2xx that was not recorded
	answered int // 2xx that DOKU got

	underWay map[*door]bool // calls of the app, by the door of their sidecar
}

func (m *model) call(key string) *modelCall {
	if m.calls[key] == nil {
		m.calls[key] = &modelCall{underWay: make(map[*door]bool)}
	}
	return m.calls[key]
}

// app is the app's side of a call. through is the door of the sidecar.
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

// commit watches a record of an accepted call.
func (m *model) commit(key string, record func() (bool, error)) (done bool, err error) {
	m.mu.Lock()
	c := m.call(key)
	c.commits++
	m.mu.Unlock()
	done, err = record()
	m.mu.Lock()
	defer m.mu.Unlock()
	c.commits--
	c.recorded = c.recorded || done
	c.unsure = c.unsure || err != nil
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
	if !c.accepted || !c.recorded && !c.unsure && c.commits == 0 {
		m.t.Errorf("%s: DOKU got 2xx though the app's acceptance was %v and its record %v", key, c.accepted, c.recorded)
	}
}

var errFault = fmt.Errorf("%w: fault", store.ErrStore)

// door is the way of a replica to the store.
type door struct {
	store.Store
	dead   atomic.Bool
	faults func() (before, after bool) // whether an operation fails before or after it is done

	commit func(entries []store.Entry, record func() (bool, error)) (bool, error) // watches a record
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
		done, err = d.commit(entries, func() (bool, error) { return d.Store.Commit(ctx, owner, ttl, entries...) })
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
	deliveries int // of all of them together, repeats included
	replicas   int
	lease      time.Duration
	spread     time.Duration // over which the deliveries begin
	faults     bool          // whether the store fails at times
}

// replica is a sidecar.
type replica struct {
	ledger *Ledger
	door   *door
}

// running is a run under way.
type running struct {
	modelRun
	model *model
	store store.Store

	mu     sync.Mutex
	random *rand.Rand
	keys   map[string]string // Idempotency-Key by key in the store

	faulty atomic.Bool // the store fails at times, for a while
	alive  []atomic.Pointer[replica]
	calls  sync.WaitGroup
}

// run plays a run on a store and returns its figures.
func (r modelRun) run(t *testing.T, s store.Store) *model {
	t.Helper()
	m := &model{t: t, faults: r.faults, calls: make(map[string]*modelCall)}
	now := &running{modelRun: r, model: m, store: s, random: rand.New(rand.NewPCG(r.seed, 0)), keys: make(map[string]string)}
	now.alive = make([]atomic.Pointer[replica], r.replicas)
	for i := range now.alive {
		now.alive[i].Store(now.open())
	}
	for range r.deliveries {
		now.deliver(t)
	}
	// Meanwhile sidecars die and are replaced, and the store fails for a while.
	for range 6 {
		time.Sleep(r.spread / 8)
		now.alive[now.pick(r.replicas)].Swap(now.open()).door.dead.Store(true)
		now.faulty.Store(r.faults && !now.faulty.Load())
	}
	now.faulty.Store(false)
	now.calls.Wait()
	for payment := range r.payments {
		now.deliverAtLast(t, payment)
	}
	for key, c := range m.calls {
		if c.toApp > 0 && (!c.accepted || !c.recorded && !c.unsure || c.answered == 0) {
			t.Errorf("%s: in the end %+v", key, c)
		}
	}
	return m
}

func (r *running) chance(p float64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.random.Float64() < p
}

func (r *running) between(most time.Duration) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Duration(r.random.Int64N(int64(most)))
}

func (r *running) pick(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.random.IntN(n)
}

// open starts a replica.
func (r *running) open() *replica {
	d := &door{Store: r.store, faults: func() (bool, bool) {
		return r.faulty.Load() && r.chance(0.3), r.faulty.Load() && r.chance(0.3)
	}}
	d.commit = func(entries []store.Entry, record func() (bool, error)) (bool, error) {
		r.mu.Lock()
		key := r.keys[entries[1].Key]
		r.mu.Unlock()
		return r.model.commit(key, record)
	}
	return &replica{NewLedger(d, r.lease), d}
}

// deliver starts a delivery of one of the payments to one of the replicas.
func (r *running) deliver(t *testing.T) {
	t.Helper()
	payment := r.pick(r.payments)
	id := identity(fmt.Sprintf("E%d-%d", payment, r.pick(3)), fmt.Sprint("P", payment), fmt.Sprint("body", payment))
	begin, which := r.between(r.spread), r.pick(r.replicas)
	r.mu.Lock()
	r.keys[id.keys().call] = id.Key()
	r.mu.Unlock()
	r.calls.Go(func() {
		time.Sleep(begin)
		at := r.alive[which].Load()
		ctx, cancel := context.WithTimeout(t.Context(), 10*r.lease) // DOKU does not wait for ever
		defer cancel()
		out, err := at.ledger.Deliver(ctx, id, func() (store.Answer, error) {
			return r.model.app(id.Key(), at.door, func() (store.Answer, error) {
				time.Sleep(r.between(2 * r.lease)) // some apps are slower than a lease
				switch {
				case r.chance(0.3):
					return store.Answer{Status: 500}, nil
				case r.chance(0.1):
					return store.Answer{}, errors.New("connection refused")
				}
				return taken, nil
			})
		})
		if err == nil && !at.door.dead.Load() { // a dead sidecar answers nobody
			r.model.answered(id.Key(), out.Answer.Status)
		}
	})
}

// deliverAtLast delivers a payment until it succeeds, with an app that accepts it.
func (r *running) deliverAtLast(t *testing.T, payment int) {
	t.Helper()
	id := identity(fmt.Sprint("last", payment), fmt.Sprint("P", payment), fmt.Sprint("body", payment))
	for {
		last := r.alive[0].Load()
		ctx, cancel := context.WithTimeout(t.Context(), 10*r.lease)
		out, err := last.ledger.Deliver(ctx, id, func() (store.Answer, error) {
			return r.model.app(id.Key(), last.door, func() (store.Answer, error) { return taken, nil })
		})
		cancel()
		if err == nil {
			r.model.answered(id.Key(), out.Answer.Status)
			return
		}
		time.Sleep(r.lease)
	}
}

func TestLedgerHoldsToItsModel(t *testing.T) {
	t.Parallel()
	t.Run("memory", modelInMemory)
	t.Run("Redis", modelInRedis)
}

func modelInMemory(t *testing.T) {
	t.Parallel()
	toApp, repeated := 0, 0
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			memory := store.NewMemory()
			defer memory.Close()
			m := modelRun{
				seed: seed, payments: 8, deliveries: 120, replicas: 3,
				lease: 10 * time.Second, spread: 5 * time.Minute, faults: seed%2 == 0,
			}.run(t, memory)
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
}

// modelInRedis runs in real time. The model holds however short the lease is beside what
// a busy machine takes, because a lease that expires is one of its faults.
func modelInRedis(t *testing.T) {
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
		modelRun{
			seed: seed, payments: 8, deliveries: 120, replicas: 3,
			lease: 300 * time.Millisecond, spread: 3 * time.Second, faults: true,
		}.run(t, scope)
		_ = r.Close()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
