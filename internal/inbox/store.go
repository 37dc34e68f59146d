package inbox

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

// ErrStore is wrapped by every error of a [Store] that is not the context's.
var ErrStore = errors.New("the inbox cannot be read or written")

// Call is a verified notification.
type Call struct {
	Key     string `json:"key"`     // the same for the same notification; the app's Idempotency-Key
	Box     string `json:"box"`     // the inbox that it belongs to
	Account string `json:"account"` // whose it is

	// Lane is what order is kept within: the calls of one virtual account are
	// handed to the app one after the other.
	Lane string `json:"lane"`

	Service    snap.Service `json:"service"`
	ExternalID string       `json:"external_id"`
	PaymentID  string       `json:"payment_id,omitempty"`

	// The request, as the app gets it each time.
	Host   string      `json:"host"`
	Target string      `json:"target"`
	Header http.Header `json:"header"`
	Remote string      `json:"remote"` // address of who sent it
	TLS    bool        `json:"tls,omitempty"`
	Body   []byte      `json:"-"`

	Received  time.Time `json:"received"`
	Attempts  int       `json:"attempts"`            // made so far
	Uncounted int       `json:"uncounted,omitempty"` // of them, while DOKU waited: they came fast, and make no later wait longer
	Tried     time.Time `json:"tried,omitzero"`      // when the last one was
	Due       time.Time `json:"due"`                 // when the next one is
	GiveUp    time.Time `json:"give_up"`             // after the first failure from then on, it is dead
	Error     string    `json:"error,omitempty"`     // of the last attempt
	Refused   bool      `json:"refused,omitempty"`   // the app has answered 4xx: another attempt soon is no use
	Dead      bool      `json:"dead,omitempty"`      // there will be no further attempt by itself
	Trace     string    `json:"trace,omitempty"`     // traceparent of the request that brought it
}

// Stats are the figures of a box.
type Stats struct {
	Waiting int
	Dead    int
	Oldest  time.Time // when the oldest that waits was received; zero if none does
}

// Store keeps calls until the app has taken them. Whatever a method has done when
// it returns without an error survives the end of the process at any instant
// after. Implementations are safe for concurrent use.
type Store interface {
	// Add keeps c at the end of its lane, unless it is there already; a dead call is
	// replaced. added says whether it was. If the app has taken it, Add returns the
	// app's answer and keeps nothing.
	Add(ctx context.Context, c Call) (added bool, taken *store.Answer, err error)

	// Taken returns the app's answer to a call, or nil if it has not taken it.
	Taken(ctx context.Context, box, key string) (*store.Answer, error)

	// Take records for ttl that the app has taken c, with its answer, and removes
	// the call, if it is kept.
	Take(ctx context.Context, c Call, answer store.Answer, ttl time.Duration) error

	// Head returns the first call of a lane that is not dead, or nil.
	Head(ctx context.Context, box, lane string) (*Call, error)

	// Due returns at most limit lanes whose first call is due at now, and when the
	// next one will be, or zero if there is none.
	Due(ctx context.Context, box string, now time.Time, limit int) (lanes []string, next time.Time, err error)

	// Update keeps what has become of c, if it is still kept: its attempts, due time,
	// error and death. A dead call is not in its lane any more; one that is not dead
	// any more is at its end.
	Update(ctx context.Context, c Call) error

	// Hurry makes the first calls of all lanes due at now, those that the app has
	// refused only if refused is true.
	Hurry(ctx context.Context, box string, now time.Time, refused bool) error

	// List returns calls of a box as they came in, dead ones too, without their
	// bodies, at most limit of them; then next is what to give as after to go on. The
	// first time, after is "". Of a call that cannot be read there is what can be
	// told without reading it, and the reason as its Error.
	List(ctx context.Context, box, after string, limit int) (calls []Call, next string, err error)

	// Get returns a kept call, or nil.
	Get(ctx context.Context, box, key string) (*Call, error)

	// Drop removes a call, and reports whether it was kept.
	Drop(ctx context.Context, box, key string) (bool, error)

	// Stats returns the figures of a box.
	Stats(ctx context.Context, box string) (Stats, error)

	// Boxes returns the names of all boxes that keep calls.
	Boxes(ctx context.Context) ([]string, error)
}

// cursor is a place in a list, behind a call.
type cursor struct {
	received int64 // in milliseconds
	key      string
}

func (c cursor) String() string { return strconv.FormatInt(c.received, 10) + "-" + c.key }

// parseCursor reads a cursor; that before all calls is "".
func parseCursor(text string) (c cursor, err error) {
	if text == "" {
		return cursor{received: math.MinInt64}, nil
	}
	received, key, found := strings.Cut(text, "-")
	if c.received, err = strconv.ParseInt(received, 10, 64); err != nil || !found {
		return c, fmt.Errorf("%w: expected a place in the list that it has given, found %q", ErrStore, text)
	}
	c.key = key
	return c, nil
}

// before reports whether a call comes after the place in the list.
func (c cursor) before(received time.Time, key string) bool {
	return cmp.Or(cmp.Compare(c.received, received.UnixMilli()), cmp.Compare(c.key, key)) < 0
}

// unreadable is what a list says of a call that cannot be read.
func unreadable(err error) string { return "it cannot be read: " + err.Error() }
