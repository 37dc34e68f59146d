// Package inbox keeps verified notifications that the app has not taken, and delivers
// them until it has, so that no payment is lost.
//
// DOKU tries again only after 30 minutes, 6 hours and 12 hours, and then never. An
// [Inbox] tries soon and often, for days, and keeps the order of the notifications of
// each virtual account. It works in one of two ways. [Inbox.Forward] calls the app at
// once and returns its answer for DOKU; it keeps only a call that the app does not take
// in time. [Inbox.Enqueue] keeps a call first, so that DOKU can be answered at once.
//
// The calls are in a [callstore.Store]: [callstore.Bolt] is a file for a single sidecar, [callstore.Redis] is for
// several sidecars that share the work. An acknowledged call survives a crash at any
// time. The app gets a call again after it has taken it only if the process dies
// between the app's answer and the record of it. All attempts have the same key.
package inbox

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

// Config configures an [Inbox]. All fields except LooseAnswers, Lenient and Observe are
// required.
type Config struct {
	Name  string // of the inbox in the store
	Store callstore.Store

	// Slots prevents that two sidecars, or two goroutines, deliver calls of the same
	// ordering key at the same time. All inboxes of this process with the same Store
	// must share it.
	Slots *Slots

	// Deliver sends a call to the app, as attempt number c.Attempts, and returns the
	// app's answer, or what has arrived of it and a [BrokenAnswerError]. [appanswer.Judge]
	// decides whether the app has taken the call. A number can come twice: an attempt is on
	// record only once it has ended, since a record before each attempt would be one more
	// write to the disk.
	Deliver func(ctx context.Context, c callstore.Call) (store.Answer, error)

	LooseAnswers bool // the argument loose of [appanswer.Judge]

	// Lenient makes Forward deliver calls while the store is away.
	Lenient bool

	AnswerWithin   time.Duration // the longest time that Forward takes
	AttemptTimeout time.Duration // of one attempt
	MaxAge         time.Duration // of a call, from when it came or was last retried by hand, until it is dead
	RetainAcked    time.Duration // how long the record of a taken call is kept
	Concurrency    int           // ordering keys that are delivered at the same time

	Now    func() time.Time
	Logger *slog.Logger

	// Observe is called after each event of a kept call, for metrics and events.
	// It must not block. nil means that nobody observes.
	Observe func(Event, callstore.Call)
}

// BrokenAnswerError is the error of an answer of the app whose head has arrived, and whose body
// could not be read because of Err.
type BrokenAnswerError struct{ Err error }

func (b BrokenAnswerError) Error() string { return b.Err.Error() }

// Unwrap returns Err.
func (b BrokenAnswerError) Unwrap() error { return b.Err }

// Event is a change in the life of a kept call.
type Event string

// The events.
const (
	EventKept        Event = "kept"        // the call is kept and will be delivered
	EventRedelivered Event = "redelivered" // the app has taken the call
	EventFailed      Event = "failed"      // an attempt has failed
	EventDead        Event = "dead"        // the last attempt has failed
)

// Errors of an inbox, besides [callstore.ErrStore].
var (
	// ErrKept means that the app has not said yes to a call in time. The call is kept. It
	// wraps the app's last answer, a [appanswer.Judgement], if there is one.
	ErrKept = errors.New("the app has not said yes to the call; it is kept and will be delivered")

	// ErrMaybeTaken means that the app may have taken a call, and has not said so. It comes
	// with ErrKept or ErrLost.
	ErrMaybeTaken = errors.New("the app may have booked it")

	// ErrLost means that the app has not said yes to a call in time, and that the call could
	// not be kept. Only DOKU's own retry brings it again.
	ErrLost = errors.New("the app has not said yes to the call, and it could not be kept")
)

const storeTimeout = 5 * time.Second // of writes that must happen even if the caller has gone

// Inbox is one inbox with its deliveries. It is safe for concurrent use.
type Inbox struct {
	cfg  Config
	wake chan struct{} // wakes Run

	mu         sync.Mutex
	failing    bool               // the app has not taken the last kept call
	retriedNow time.Time          // when noteSuccess last made all calls due
	delivering map[string]bool    // ordering keys that a worker delivers
	backoffs   map[string]backoff // by ordering key
	loggedAt   time.Time          // when backoffs were last logged
}

// New returns an inbox. It delivers kept calls while [Inbox.Run] runs.
func New(cfg Config) *Inbox {
	if cfg.Observe == nil {
		cfg.Observe = func(Event, callstore.Call) {}
	}
	return &Inbox{cfg: cfg, wake: make(chan struct{}, 1), delivering: make(map[string]bool), backoffs: make(map[string]backoff)}
}

// Enqueue keeps a call, to be delivered as soon as possible. After it returns without
// an error, the call cannot be lost, and DOKU can be told that it arrived.
func (i *Inbox) Enqueue(ctx context.Context, c callstore.Call) error {
	c.GiveUp = c.Received.Add(i.cfg.MaxAge)
	added, _, err := i.cfg.Store.Add(ctx, c)
	if err != nil {
		return err
	}
	if added {
		i.cfg.Observe(EventKept, c)
		i.signal()
	}
	return nil
}

// Retry makes a kept call due now. A dead call is revived for MaxAge. If the app may have
// taken the call, its few attempts begin again. Retry reports whether the call is kept.
func (i *Inbox) Retry(ctx context.Context, key string) (bool, error) {
	c, err := i.cfg.Store.Get(ctx, i.cfg.Name, key)
	if c == nil || err != nil {
		return false, err
	}
	now := i.cfg.Now()
	c.Dead, c.Due, c.MaybeTaken = false, now, min(c.MaybeTaken, 1)
	c.GiveUp = now.Add(i.cfg.MaxAge)
	if err := i.cfg.Store.Update(ctx, *c); err != nil {
		return false, err
	}
	i.signal()
	return true, nil
}

// Drop removes a kept call without delivering it. It reports whether the call was kept.
func (i *Inbox) Drop(ctx context.Context, key string) (bool, error) {
	return i.cfg.Store.Drop(ctx, i.cfg.Name, key)
}

// Get returns a kept call, or nil.
func (i *Inbox) Get(ctx context.Context, key string) (*callstore.Call, error) {
	return i.cfg.Store.Get(ctx, i.cfg.Name, key)
}

// List returns at most limit kept calls in the order in which they were received,
// without their bodies, dead calls too. after is "" for the first page; if there are
// more calls, next is the value of after for the next page.
func (i *Inbox) List(ctx context.Context, after string, limit int) (calls []callstore.Call, next string, err error) {
	return i.cfg.Store.List(ctx, i.cfg.Name, after, limit)
}

// The record that [Inbox.Ready] writes.
const (
	readyKey  = "ready" // not the key of a call: those are hexadecimal
	readyFor  = time.Minute
	readySize = 16 << 10 // larger than most notifications, so that it fails before they do
)

// Ready returns nil if the inbox can be written: it writes a record that belongs to no
// call and expires after a minute. account is the name of any account.
func (i *Inbox) Ready(ctx context.Context, account string) error {
	record := store.Answer{Status: http.StatusOK, Body: make([]byte, readySize)}
	return i.cfg.Store.Ack(ctx, callstore.Call{Inbox: i.cfg.Name, Key: readyKey, Account: account}, record, readyFor)
}

// Stats returns the figures of the inbox.
func (i *Inbox) Stats(ctx context.Context) (callstore.Stats, error) {
	return i.cfg.Store.Stats(ctx, i.cfg.Name)
}
