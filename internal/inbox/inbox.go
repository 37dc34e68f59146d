// Package inbox sees to it that no payment is lost: it keeps verified notifications
// that the app has not taken, and hands them to the app until it has.
//
// DOKU tries again only after 30 minutes, 6 hours and 12 hours, and then never. An
// [Inbox] tries for days, soon and often, and keeps the order of each virtual
// account's notifications. It works in one of two ways: with [Inbox.Pass] the app's
// answer is DOKU's, and only what the app does not take in time is kept; with
// [Inbox.Accept] a call is kept first, and DOKU can be answered at once.
//
// What is kept is in a [Store]: [Bolt], a file for a single sidecar, or [Redis],
// for several that share the work. Whatever is acknowledged survives the death of
// the process at any instant. The app is called again after it has taken a call
// only if the process dies between its answer and the record of it; each time the
// call has the same key.
package inbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
)

// Config says how an inbox works. All fields are required but for Observe.
type Config struct {
	Box   string // its name in the store
	Store Store

	// Lanes keeps two sidecars, or two goroutines, from handing over calls of the
	// same lane at once. All inboxes of this process with the same Store share it.
	Lanes *Lanes

	// Deliver hands a call to the app, as its attempt number c.Attempts, and
	// returns the app's answer, which is judged by [snap.AnswerStatus].
	Deliver func(ctx context.Context, c Call) (store.Answer, error)

	// Lenient says whether Pass hands calls over while the store is away.
	Lenient bool

	AnswerWithin   time.Duration // that Pass may take
	AttemptTimeout time.Duration // of one attempt
	GiveUpAfter    time.Duration // from when a call came, or was retried by hand, until it is dead
	Remember       time.Duration // for how long it is known that the app has taken a call
	Concurrency    int           // lanes that are delivered at once

	Now    func() time.Time
	Logger *slog.Logger

	// Observe is told what happens to kept calls, for figures and events. It may be
	// nil, and must not block.
	Observe func(Event, Call)
}

// Event is what has happened to a call.
type Event string

// The events.
const (
	EventKept        Event = "kept"        // it is kept, to be delivered later
	EventRedelivered Event = "redelivered" // the app has taken it
	EventFailed      Event = "failed"      // the app has not, this time
	EventDead        Event = "dead"        // it is given up
)

// Errors of an inbox, besides the store's.
var (
	// ErrKept says that the app has not taken a call in time, and that it is kept.
	ErrKept = errors.New("the app has not taken the call in time; it is kept and will be delivered")

	// ErrLost says that the app has not taken a call in time, and that it could not
	// be kept: only DOKU's own retry brings it again.
	ErrLost = errors.New("the app has not taken the call in time, and it could not be kept")
)

// waits are the times between attempts at a kept call; the last one goes on.
var waits = []time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute,
}

const (
	passShortest = 250 * time.Millisecond // between attempts while DOKU waits
	passLongest  = 2 * time.Second

	pollLongest = time.Second // between looks at the store, which others write to
	hurryEvery  = 30 * time.Second
	tellEvery   = 10 * time.Second // at most, of lanes whose calls cannot be delivered
	stopWithin  = 5 * time.Second  // for attempts under way
	clockBack   = time.Second      // from here on, what waits would wait for longer

	// Of a call that nobody has tried for longer than interrupted, such as while the
	// machine was off, it is not known whether the app would take it: it is tried for
	// patience at least, or GiveUpAfter if that is less, before it is dead.
	interrupted = time.Hour
	patience    = 10 * time.Minute

	passLeast = 2 * time.Second // that an attempt needs while DOKU waits, or a quarter of what there is in all

	answerLargest = 4 << 10         // of an answer that is remembered, in bytes
	storeWithin   = 5 * time.Second // for what must be written whoever has gone meanwhile
)

// Inbox is a box with its deliveries. It is safe for concurrent use.
type Inbox struct {
	cfg  Config
	wake chan struct{}

	mu       sync.Mutex
	failing  bool // whether the app has not taken the last call that is kept
	hurryAt  time.Time
	underWay map[string]bool // lanes that a worker has
	resting  map[string]rest // lanes whose calls cannot be delivered from here
	toldAt   time.Time       // of those that rest
}

// rest is for how long a lane is let alone that could not be leased, read or
// written: there may be many of them, and others must not wait for these.
type rest struct {
	failures int
	until    time.Time
}

// New returns an inbox. Its deliveries begin with [Inbox.Run].
func New(cfg Config) *Inbox {
	if cfg.Observe == nil {
		cfg.Observe = func(Event, Call) {}
	}
	return &Inbox{cfg: cfg, wake: make(chan struct{}, 1), underWay: make(map[string]bool), resting: make(map[string]rest)}
}

// Accept keeps a call, for deliveries to come. When it returns without an error,
// the call will not be lost, and DOKU can be told so.
func (i *Inbox) Accept(ctx context.Context, c Call) error {
	c.GiveUp = c.Received.Add(i.cfg.GiveUpAfter)
	added, _, err := i.cfg.Store.Add(ctx, c)
	if err != nil {
		return err
	}
	if added {
		i.cfg.Observe(EventKept, c)
		i.nudge()
	}
	return nil
}

// Pass hands a call to the app, again and again within the time that it may take,
// and returns the app's answer: any but those that say that the app is not well,
// 5xx, 408, 425 and 429. If there is none, the call is kept, with [ErrKept], or
// cannot be, with [ErrLost]. If the app has taken the call before, that answer is
// given again. Pass goes on if ctx is cancelled, until its deadline: an app that is
// left alone in the middle may have taken the call, and nobody would know.
func (i *Inbox) Pass(ctx context.Context, c Call) (store.Answer, error) {
	within := i.cfg.AnswerWithin
	if deadline, ok := ctx.Deadline(); ok {
		within = min(within, deadline.Sub(i.cfg.Now()))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	defer cancel()
	least := min(passLeast, i.cfg.AttemptTimeout, within/4)
	c.GiveUp = c.Received.Add(i.cfg.GiveUpAfter)
	place, err := i.cfg.Lanes.take(ctx, c.Box, c.Lane)
	switch {
	case err == nil:
		defer place.leave(ctx)
	case ctx.Err() == nil && i.cfg.Lenient:
		i.cfg.Logger.WarnContext(ctx, "the store is away: a call is handed over without regard to others", "error", err)
	default: // others of its lane are at it, or the store is away
		return store.Answer{}, i.keep(ctx, c, err)
	}
	taken, err := i.cfg.Store.Taken(ctx, c.Box, c.Key)
	switch {
	case err == nil && taken != nil:
		return *taken, nil
	case err != nil && !i.cfg.Lenient:
		return store.Answer{}, i.keep(ctx, c, err)
	}
	for wait := passShortest; ; wait = min(2*wait, passLongest) {
		answer, err := i.pass(ctx, place, &c, least)
		if err == nil {
			return answer, nil
		}
		if deadline, _ := ctx.Deadline(); errors.Is(err, errLost) || deadline.Sub(i.cfg.Now()) < wait+least {
			return store.Answer{}, i.keep(ctx, c, err)
		}
		time.Sleep(wait)
	}
}

// Why Pass makes no further attempt.
var (
	errLost = errors.New("another sidecar may be at the calls of the same virtual account by now")
	errLate = errors.New("no time is left for an attempt")
)

// pass makes one attempt at c, and before it at those of its lane that came
// earlier, while there is at least so much time left. place is nil while the store
// is away.
func (i *Inbox) pass(ctx context.Context, place *place, c *Call, least time.Duration) (store.Answer, error) {
	for {
		deadline, _ := ctx.Deadline()
		switch {
		case place != nil && place.lost():
			return store.Answer{}, errLost
		case deadline.Sub(i.cfg.Now()) < least:
			return store.Answer{}, errLate
		}
		head, err := i.cfg.Store.Head(ctx, c.Box, c.Lane)
		if err != nil && !i.cfg.Lenient {
			return store.Answer{}, fmt.Errorf("whether earlier calls of the same virtual account wait cannot be told: %w", err)
		}
		if err != nil {
			i.cfg.Logger.WarnContext(ctx, "whether earlier calls of the same virtual account wait cannot be told; this one is handed over", "error", err)
			head = nil
		}
		if head == nil {
			break
		}
		answer, err := i.attempt(ctx, head)
		switch {
		case head.Key == c.Key && answer.Status != 0: // taken, whether or not that is recorded
			return answer, nil
		case head.Key == c.Key: // it is kept since an earlier attempt of DOKU's
			return answer, err
		case err != nil:
			return store.Answer{}, fmt.Errorf("an earlier call of the same virtual account: %w", err)
		}
	}
	c.Attempts++
	answer, err := i.deliver(ctx, *c)
	switch {
	case err != nil:
		return store.Answer{}, err
	case unwell(answer.Status):
		return store.Answer{}, fmt.Errorf("the app has answered HTTP %d", answer.Status)
	case answer.Status < 200 || answer.Status > 299:
		return answer, nil
	}
	if err := i.take(ctx, *c, answer); err != nil {
		i.cfg.Logger.WarnContext(ctx, "that the app has taken a call could not be recorded; if this process dies, a repeat will be handed over again",
			"key", c.Key, "error", err)
	}
	i.succeeded(ctx)
	return answer, nil
}

// unwell reports whether a status says that the app cannot take a call now.
func unwell(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return status >= 500
}

// keep keeps a call that the app has not taken because of err.
func (i *Inbox) keep(ctx context.Context, c Call, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeWithin)
	defer cancel()
	now := i.cfg.Now()
	c.Error, c.Due, c.Uncounted = err.Error(), now.Add(wait(1)), max(c.Attempts-1, 0)
	added, _, failed := i.cfg.Store.Add(ctx, c)
	if failed != nil {
		return fmt.Errorf("%w: %w (because: %w)", ErrLost, failed, err)
	}
	if added {
		i.mu.Lock()
		i.failing = true
		i.mu.Unlock()
		i.cfg.Observe(EventKept, c)
		i.nudge()
	}
	return fmt.Errorf("%w: %w", ErrKept, err)
}

// wait returns how long to wait after a number of attempts, with some jitter.
func wait(attempts int) time.Duration {
	d := waits[min(attempts, len(waits))-1]
	return d + rand.N(d/10+1) //nolint:gosec // spreads load, guards nothing
}

// deliver makes an attempt, and returns the app's answer with the status by which
// it is judged.
func (i *Inbox) deliver(ctx context.Context, c Call) (store.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, i.cfg.AttemptTimeout)
	defer cancel()
	answer, err := i.cfg.Deliver(ctx, c)
	answer.Status = snap.AnswerStatus(answer.Status, answer.Body)
	return answer, err
}

// take records that the app has taken a call, whoever has gone meanwhile.
func (i *Inbox) take(ctx context.Context, c Call, answer store.Answer) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeWithin)
	defer cancel()
	return i.cfg.Store.Take(ctx, c, short(c, answer), i.cfg.Remember)
}

// short returns what is remembered of the app's answer to a call: there are many of
// them, for days. Instead of a long one, DOKU's repeat gets an acknowledgement.
func short(c Call, answer store.Answer) store.Answer {
	size := len(answer.Body)
	for name, values := range answer.Header {
		for _, value := range values {
			size += len(name) + len(value)
		}
	}
	if size <= answerLargest {
		return answer
	}
	body := snap.Acknowledge(c.Service, c.Body)
	if len(body) > answerLargest {
		body = snap.Successful.Answer(c.Service)
	}
	return store.Answer{Status: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: body}
}

// errStopped is why an attempt ends when the deliveries do.
var errStopped = errors.New("the deliveries have been stopped")

// attempt makes an attempt at a kept call, whose lane is held, and records what has
// become of it. The error says why the app has not taken it, or wraps [ErrStore].
// One that is ended by [Inbox.Run]'s end is as if it had not been made.
func (i *Inbox) attempt(ctx context.Context, c *Call) (store.Answer, error) {
	answer, known := i.cfg.Lanes.settle(c.Box, c.Key)
	if !known {
		c.Attempts++
		var err error
		if answer, err = i.deliver(ctx, *c); err == nil && (answer.Status < 200 || answer.Status > 299) {
			err = fmt.Errorf("the app has answered HTTP %d", answer.Status)
		}
		switch {
		case err != nil && errors.Is(context.Cause(ctx), errStopped):
			return store.Answer{}, errStopped
		case err != nil:
			return store.Answer{}, i.failed(ctx, c, answer, err)
		}
	}
	if err := i.take(ctx, *c, answer); err != nil {
		i.cfg.Logger.ErrorContext(ctx, "that the app has taken a call could not be recorded; if this process dies before it can, the call will be handed over again",
			"key", c.Key, "error", err)
		i.cfg.Lanes.remember(c.Box, c.Key, answer)
		return answer, err
	}
	i.cfg.Logger.InfoContext(ctx, "the app has taken a kept notification", "key", c.Key, "account", c.Account, "attempts", c.Attempts)
	i.cfg.Observe(EventRedelivered, *c)
	i.succeeded(ctx)
	return answer, nil
}

// failed records that the app has not taken a kept call because of err, and returns
// err, or the store's if that could not be recorded.
func (i *Inbox) failed(ctx context.Context, c *Call, answer store.Answer, err error) error {
	i.mu.Lock()
	i.failing = true
	i.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeWithin)
	defer cancel()
	if kept, _ := i.cfg.Store.Get(ctx, c.Box, c.Key); kept != nil {
		c.GiveUp = latest(c.GiveUp, kept.GiveUp) // it may have been retried by hand meanwhile
	}
	i.judge(c, answer, err)
	event := EventFailed
	if c.Dead {
		event = EventDead
		i.cfg.Logger.ErrorContext(ctx, "a notification is given up: the app has not taken it. See `caddy-doku doku inbox list`; `retry` delivers it again",
			"key", c.Key, "account", c.Account, "service", string(c.Service), "external_id", c.ExternalID, "attempts", c.Attempts, "error", c.Error)
	} else {
		i.cfg.Logger.WarnContext(ctx, "the app has not taken a kept notification",
			"key", c.Key, "account", c.Account, "attempts", c.Attempts, "error", c.Error, "next", c.Due)
	}
	if failed := i.cfg.Store.Update(ctx, *c); failed != nil {
		i.cfg.Logger.ErrorContext(ctx, "the inbox could not be written; a call will be handed over again soon", "key", c.Key, "error", failed)
		return fmt.Errorf("%w (because: %w)", failed, err)
	}
	i.cfg.Observe(event, *c)
	return err
}

// judge says what is to become of a call that the app has not taken: when it is due
// again, or that it is dead.
func (i *Inbox) judge(c *Call, answer store.Answer, err error) {
	now := i.cfg.Now()
	if now.Sub(c.Tried) > interrupted {
		c.GiveUp = latest(c.GiveUp, now.Add(min(patience, i.cfg.GiveUpAfter)))
	}
	c.Error, c.Tried, c.Dead = err.Error(), now, !now.Before(c.GiveUp)
	c.Refused = answer.Status >= 400 && answer.Status < 500 && (!unwell(answer.Status) || answer.Status == http.StatusTooManyRequests)
	c.Due = now.Add(max(wait(c.Attempts-c.Uncounted), min(retryAfter(answer.Header, now), waits[len(waits)-1])))
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// retryAfter returns how long an answer asks to be waited, or 0.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return at.Sub(now)
	}
	return 0
}

// succeeded has everything that waits delivered now, if the app has just come back.
func (i *Inbox) succeeded(ctx context.Context) {
	now := i.cfg.Now()
	i.mu.Lock()
	back := i.failing && now.Sub(i.hurryAt) >= hurryEvery
	i.failing = false
	if back {
		i.hurryAt = now
	}
	i.mu.Unlock()
	if !back {
		return
	}
	if err := i.cfg.Store.Hurry(ctx, i.cfg.Box, now, false); err == nil {
		i.nudge()
	}
}

// nudge wakes the deliveries.
func (i *Inbox) nudge() {
	select {
	case i.wake <- struct{}{}:
	default: // they are about to wake
	}
}

// Run delivers what is kept and due, until ctx ends, and returns when all attempts
// under way have ended, which have a few seconds for it.
func (i *Inbox) Run(ctx context.Context) {
	working, abort := context.WithCancelCause(context.WithoutCancel(ctx))
	defer abort(nil)
	w := &work{stopping: ctx, free: make(chan struct{}, i.cfg.Concurrency)}
	for looked := (time.Time{}); ; {
		// Sidecar and app often start together: nothing waits for what was due before.
		// Nor does it if the clock is set back.
		now := i.cfg.Now().Round(0)
		if looked.IsZero() || looked.Sub(now) > clockBack {
			if err := i.cfg.Store.Hurry(ctx, i.cfg.Box, now, true); err != nil && ctx.Err() == nil {
				i.cfg.Logger.WarnContext(ctx, "kept calls wait until they are due", "error", err)
			}
		}
		looked = now
		next, err := i.dispatch(working, w)
		if err != nil && ctx.Err() == nil {
			i.cfg.Logger.ErrorContext(ctx, "the inbox cannot be read; what it keeps is not delivered meanwhile", "error", err)
		}
		idle := pollLongest
		if until := next.Sub(i.cfg.Now()); err == nil && !next.IsZero() && until < idle {
			idle = max(until, time.Millisecond)
		}
		select {
		case <-ctx.Done():
			end := time.AfterFunc(stopWithin, func() { abort(errStopped) })
			w.under.Wait()
			end.Stop()
			return
		case <-i.wake:
		case <-time.After(idle):
		}
	}
}

// work is the deliveries of one [Inbox.Run].
type work struct {
	stopping context.Context //nolint:containedctx // ends before that of the attempts under way
	free     chan struct{}   // a place for each lane that is delivered
	under    sync.WaitGroup
}

// dispatch begins the delivery of all lanes that are due, as many at once as may
// be, and returns when the next one will be.
func (i *Inbox) dispatch(ctx context.Context, w *work) (next time.Time, err error) {
	now := i.cfg.Now()
	lanes, next, err := i.cfg.Store.Due(ctx, i.cfg.Box, now, 4*i.cfg.Concurrency+i.resters(now))
	if err != nil {
		return next, err
	}
	for _, lane := range lanes {
		if !i.begin(lane, now) {
			continue
		}
		select {
		case w.free <- struct{}{}:
		case <-w.stopping.Done():
			i.end(lane)
			return next, nil
		}
		w.under.Go(func() {
			defer func() {
				<-w.free
				i.end(lane)
			}()
			if i.drain(ctx, w, lane) {
				i.nudge() // there may be more that are due than were asked for
			}
		})
	}
	return next, nil
}

// begin takes a lane for a worker, unless one has it, or it rests.
func (i *Inbox) begin(lane string, now time.Time) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.underWay[lane] || now.Before(i.resting[lane].until) {
		return false
	}
	i.underWay[lane] = true
	return true
}

func (i *Inbox) end(lane string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.underWay, lane)
}

// resters returns how many lanes rest, and forgets those that have gone since.
func (i *Inbox) resters(now time.Time) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	maps.DeleteFunc(i.resting, func(_ string, r rest) bool { return now.Sub(r.until) > waits[len(waits)-1] })
	return len(i.resting)
}

// drain delivers the calls of a lane, one after the other, while they are due. It
// reports whether anything has come of that.
func (i *Inbox) drain(ctx context.Context, w *work, lane string) (moved bool) {
	place, err := i.cfg.Lanes.try(ctx, i.cfg.Box, lane)
	if errors.Is(err, store.ErrInFlight) {
		return false
	}
	if err == nil {
		defer place.leave(ctx)
		moved, err = i.deliverDue(ctx, w, place, lane)
	}
	i.trouble(ctx, lane, err)
	return moved
}

// deliverDue is what drain does once it has the lane. Errors are those of a lane
// that is to rest.
func (i *Inbox) deliverDue(ctx context.Context, w *work, place *place, lane string) (moved bool, err error) {
	for w.stopping.Err() == nil && !place.lost() {
		head, err := i.cfg.Store.Head(ctx, i.cfg.Box, lane)
		if err != nil {
			return moved, fmt.Errorf("reading the next call: %w", err)
		}
		if head == nil || head.Due.After(i.cfg.Now()) {
			return moved, nil
		}
		answer, err := i.attempt(ctx, head)
		switch {
		case err == nil, head.Dead: // the next one's turn has come
			moved = true
		case !errors.Is(err, ErrStore): // it is due again in its time
			return true, nil
		case answer.Status != 0: // the app has taken it; that is soon tried to be recorded again
			return moved, nil
		default:
			return moved, err
		}
	}
	return moved, nil
}

// trouble has a lane rest because of err, or not any more if that is nil, and tells.
func (i *Inbox) trouble(ctx context.Context, lane string, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err == nil {
		delete(i.resting, lane)
		return
	}
	now := i.cfg.Now()
	failures := i.resting[lane].failures + 1
	i.resting[lane] = rest{failures, now.Add(wait(failures))}
	if now.Sub(i.toldAt) < tellEvery {
		return
	}
	i.toldAt = now
	i.cfg.Logger.ErrorContext(ctx, "kept calls of a virtual account cannot be delivered from here; it is tried again", "lane", lane, "error", err, "lanes", len(i.resting))
}

// Retry has a kept call delivered now, and, if it is dead, for as long again as a
// new one. It reports whether the call is kept.
func (i *Inbox) Retry(ctx context.Context, key string) (bool, error) {
	c, err := i.cfg.Store.Get(ctx, i.cfg.Box, key)
	if c == nil || err != nil {
		return false, err
	}
	now := i.cfg.Now()
	c.Dead, c.Due = false, now
	c.GiveUp = now.Add(i.cfg.GiveUpAfter)
	if err := i.cfg.Store.Update(ctx, *c); err != nil {
		return false, err
	}
	i.nudge()
	return true, nil
}

// Drop removes a kept call, which the app will not get then. It reports whether it
// was kept.
func (i *Inbox) Drop(ctx context.Context, key string) (bool, error) {
	return i.cfg.Store.Drop(ctx, i.cfg.Box, key)
}

// Get returns a kept call, or nil.
func (i *Inbox) Get(ctx context.Context, key string) (*Call, error) {
	return i.cfg.Store.Get(ctx, i.cfg.Box, key)
}

// List returns the kept calls as they came in, dead ones too, without their
// bodies, at most limit of them; next is what to give as after to go on, if there
// are more. The first time, after is "".
func (i *Inbox) List(ctx context.Context, after string, limit int) (calls []Call, next string, err error) {
	return i.cfg.Store.List(ctx, i.cfg.Box, after, limit)
}

// The record that [Inbox.Ready] writes.
const (
	readyKey  = "ready" // no call's key: they are hexadecimal
	readyFor  = time.Minute
	readySize = 16 << 10 // more than most notifications, so that it does not fit where they no longer do
)

// Ready returns nil if the inbox can be written to: a record is, which is of no
// call. account is the name of any account.
func (i *Inbox) Ready(ctx context.Context, account string) error {
	record := store.Answer{Status: http.StatusOK, Body: make([]byte, readySize)}
	return i.cfg.Store.Take(ctx, Call{Box: i.cfg.Box, Key: readyKey, Account: account}, record, readyFor)
}

// Stats returns the figures of the inbox.
func (i *Inbox) Stats(ctx context.Context) (Stats, error) { return i.cfg.Store.Stats(ctx, i.cfg.Box) }
