// Package callstore keeps the calls of inboxes, so that they survive a crash.
//
// A [Store] has the calls of several inboxes. [Bolt] is a file for a single sidecar,
// [Redis] is for several sidecars that share the work. Both keep the order of the calls
// of each ordering key, their due times, and the answers to calls that the app has taken.
package callstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
)

// ErrStore means that an inbox cannot be read or written. Every error of a [Store]
// wraps it, except [ErrPosition] and the error of a context.
var ErrStore = errors.New("the inbox cannot be read or written")

// ErrUnreadable means that one kept call cannot be read, such as one that belongs to
// another merchant. It wraps [ErrStore]. Others may be readable.
var ErrUnreadable = fmt.Errorf("%w: a kept call cannot be read", ErrStore)

// ErrPosition means that the caller has not got a position from an earlier list.
var ErrPosition = errors.New("expected the position that an earlier list returned")

// Call is a verified notification. Its JSON form is the one in the store.
type Call struct {
	Key     string `json:"key"`     // identifies the notification; the Idempotency-Key that the app gets
	Inbox   string `json:"box"`     // name of the inbox
	Account string `json:"account"` // name of the account

	// OrderingKey keeps calls in order: calls with the same key go to the app one after
	// the other. It names a virtual account.
	OrderingKey string `json:"lane"`

	Service    snap.Service `json:"service"`
	ExternalID string       `json:"external_id"`
	PaymentID  string       `json:"payment_id,omitempty"`

	// The request that the app gets in each attempt.
	Host   string      `json:"host"`
	Target string      `json:"target"`
	Header http.Header `json:"header"`
	Remote string      `json:"remote"` // address of the sender
	TLS    bool        `json:"tls,omitempty"`
	Body   []byte      `json:"-"`

	Received time.Time `json:"received"`
	Attempts int       `json:"attempts"` // made so far

	// ForegroundAttempts are the attempts made while DOKU waited. They do not lengthen
	// the waits between later attempts, because they came fast.
	ForegroundAttempts int `json:"uncounted,omitempty"`

	// MaybeTaken counts the attempts since an answer from which nobody can tell whether the
	// app has taken the call: HTTP 2xx, but no yes. Such a call is in no order with others,
	// and RetryNow leaves it out.
	MaybeTaken int `json:"maybe_taken,omitempty"`

	Tried   time.Time `json:"tried,omitzero"`    // time of the last attempt
	Due     time.Time `json:"due"`               // time of the next attempt
	GiveUp  time.Time `json:"give_up"`           // the first failure from this time on makes the call dead
	Error   string    `json:"error,omitempty"`   // of the last attempt
	Refused bool      `json:"refused,omitempty"` // the app answered 4xx: an early attempt does not help
	Dead    bool      `json:"dead,omitempty"`    // it is only delivered again by hand
	Trace   string    `json:"trace,omitempty"`   // traceparent of the request that brought the call
}

// Stats are the figures of one inbox.
type Stats struct {
	Waiting int
	Dead    int
	Oldest  time.Time // when the oldest waiting call was received; zero if none waits
}

// Store keeps calls until the app has taken them. When a method returns without an
// error, its change survives a crash at any time after. Implementations are safe for
// concurrent use.
type Store interface {
	// Add keeps c as the last call of its ordering key, and reports whether it did. It
	// replaces a dead call with the same key. If the call is kept already, Add changes
	// nothing. If the app has taken the call, Add keeps nothing and returns the app's
	// answer.
	Add(ctx context.Context, c Call) (added bool, acked *store.Answer, err error)

	// Lookup returns the app's answer to a call, or nil if the app has not taken it; and
	// whether the call is kept, and not dead, with MaybeTaken above 0.
	Lookup(ctx context.Context, inbox, key string) (acked *store.Answer, maybeTaken bool, err error)

	// Ack records for ttl that the app has taken c and answered with answer, and
	// removes the call if it is kept.
	Ack(ctx context.Context, c Call, answer store.Answer, ttl time.Duration) error

	// Peek returns the first call of an ordering key that is not dead, or nil.
	Peek(ctx context.Context, inbox, orderingKey string) (*Call, error)

	// Due returns at most limit ordering keys whose first call is due at now. next is
	// when the next ordering key is due, or zero if there is none.
	Due(ctx context.Context, inbox string, now time.Time, limit int) (orderingKeys []string, next time.Time, err error)

	// Update writes the attempts, due time, error, ordering key and death of c, if c is
	// still kept. A call that dies leaves its ordering key. A dead call that is revived, or
	// a call that gets another ordering key, becomes the last of that.
	Update(ctx context.Context, c Call) error

	// RetryNow makes the first call of every ordering key due at now. It leaves out calls
	// with MaybeTaken above 0, and calls that the app has refused, unless refused is true.
	RetryNow(ctx context.Context, inbox string, now time.Time, refused bool) error

	// List returns at most limit calls of an inbox in the order in which they were
	// received, without their bodies, dead calls too. after is "" for the first page; if
	// there are more calls, next is the value of after for the next page. A call that
	// cannot be read has only the fields that are known, and the reason as its Error.
	List(ctx context.Context, inbox, after string, limit int) (calls []Call, next string, err error)

	// Get returns a kept call, or nil.
	Get(ctx context.Context, inbox, key string) (*Call, error)

	// Drop removes a call, and reports whether it was kept.
	Drop(ctx context.Context, inbox, key string) (bool, error)

	// Stats returns the figures of an inbox.
	Stats(ctx context.Context, inbox string) (Stats, error)

	// Inboxes returns the names of all inboxes that keep calls.
	Inboxes(ctx context.Context) ([]string, error)
}

// cursor is the position after a call in a list.
type cursor struct {
	received int64 // in milliseconds
	key      string
}

func (c cursor) String() string { return strconv.FormatInt(c.received, 10) + "-" + c.key }

// parseCursor reads a cursor. "" is the position before all calls.
func parseCursor(text string) (c cursor, err error) {
	if text == "" {
		return cursor{received: math.MinInt64}, nil
	}
	received, key, found := strings.Cut(text, "-")
	if c.received, err = strconv.ParseInt(received, 10, 64); err != nil || !found {
		return c, fmt.Errorf("%w, found %.100q", ErrPosition, text)
	}
	c.key = key
	return c, nil
}

// before reports whether a call comes after the position.
func (c cursor) before(received time.Time, key string) bool {
	return cmp.Or(cmp.Compare(c.received, received.UnixMilli()), cmp.Compare(c.key, key)) < 0
}

// unreadable returns the Error of a listed call that cannot be read.
func unreadable(err error) string { return "it cannot be read: " + err.Error() }
