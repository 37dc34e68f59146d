package verifier

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/store"
)

// Ledger remembers the inbound calls that the app has accepted, with the answer
// it gave, so that a repeat is answered without the app being called again. DOKU
// delivers at least once: a repeat is to be expected, and it is not known whether
// it has the external id of the first.
//
// A call is the same as an earlier one if external id and body are the same, or,
// for a notification, if payment id and body are. While the first is in flight, in
// this sidecar or another one with the same store, a repeat waits for its answer;
// after a 2xx it gets that answer; after anything else it is handed to the app.
// The same external id with another body is refused with [ErrConflict] while the
// first is in flight and after a 2xx.
//
// Answers are kept until the WIB day has ended, and 24 h at least. It is safe for
// concurrent use.
type Ledger struct {
	once *store.Once
}

// DefaultLease is for how long at most a repeat waits for a sidecar that has died
// while the first was in flight.
const DefaultLease = 10 * time.Second

// NewLedger returns an account's ledger, which keeps its answers in s: see
// [store.Scope].
func NewLedger(s store.Store, lease time.Duration) *Ledger {
	return &Ledger{store.NewOnce(s, lease)}
}

// Identity is what makes two calls of an account the same.
type Identity struct {
	Account    string
	Service    snap.Service
	ExternalID string
	PaymentID  string            // of a notification; empty if it has none
	Digest     [sha256.Size]byte // of the body; see [Verified]
}

// Key returns a text that is the same for the same call and for no other, to
// hand to the app as Idempotency-Key: 32 hexadecimal digits.
func (id Identity) Key() string {
	sum := sha256.Sum256([]byte(strings.Join([]string{id.Account, string(id.Service), id.call(), string(id.Digest[:])}, "\x00")))
	return hex.EncodeToString(sum[:16])
}

// call returns the id of what the call tells of.
func (id Identity) call() string {
	if id.PaymentID != "" {
		return id.PaymentID
	}
	return id.ExternalID
}

// keys returns the keys under which a call is known: its external id, which no
// other call may have, and payment or external id together with the body.
func (id Identity) keys() (external, call string) {
	external = "ledger/" + string(id.Service) + "/external/" + id.ExternalID
	kind := "/call/"
	if id.PaymentID != "" {
		kind = "/payment/"
	}
	return external, "ledger/" + string(id.Service) + kind + id.digest() + "/" + id.call()
}

func (id Identity) digest() string { return hex.EncodeToString(id.Digest[:]) }

// PaymentID returns the id of the payment that the body of a notification
// tells of, or "" if it has none: paymentRequestId for service 25, and
// originalExternalId with latestTransactionStatus for service 56. body must be
// canonical.
func PaymentID(service snap.Service, body []byte) string {
	switch service {
	case snap.ServiceVAPayment:
		return snap.StringField(body, "paymentRequestId")
	case snap.ServiceDebitNotify:
		if id := snap.StringField(body, "originalExternalId"); id != "" {
			return id + "/" + snap.StringField(body, "latestTransactionStatus")
		}
	}
	return ""
}

// Delivery is the right and duty to hand one call to the app: it must be ended
// by [Delivery.Accepted] or [Delivery.Failed], once.
type Delivery struct {
	turn *store.Turn
	id   Identity
}

// ErrNotRecorded is the error of [Delivery.Accepted] if somebody else has taken
// over, because the lease had run out.
var ErrNotRecorded = errors.New("the answer came too late to be recorded: another sidecar has taken over")

// Begin finds out whether a call was seen before. It returns either the answer
// to give at once, or a delivery; or the error [ErrConflict] in a [*Refusal],
// ctx's error if it ended while a call in flight was waited for, or the store's.
func (l *Ledger) Begin(ctx context.Context, id Identity) (*store.Answer, *Delivery, error) {
	external, call := id.keys()
	turn, values, err := l.once.Take(ctx, id.digest(), external, call)
	switch {
	case errors.Is(err, store.ErrTaken):
		return nil, nil, conflict(id)
	case err != nil:
		return nil, nil, err
	case turn != nil:
		return nil, &Delivery{turn, id}, nil
	}
	if body := values[0]; body != nil && !bytes.Equal(body, id.Digest[:]) {
		return nil, nil, conflict(id)
	}
	answer, err := store.DecodeAnswer(values[1])
	return answer, nil, err
}

func conflict(id Identity) error {
	return refuse(snap.Conflict, "%w: X-EXTERNAL-ID %s", ErrConflict, id.ExternalID)
}

// Accepted records the app's 2xx answer at the instant now, and gives it to those
// who wait. After an error, the store's or [ErrNotRecorded], nothing is recorded
// and DOKU must be told to try again.
func (d *Delivery) Accepted(ctx context.Context, answer store.Answer, now time.Time) error {
	value, err := answer.Encode()
	if err != nil {
		return errors.Join(err, d.Failed(ctx))
	}
	keep := max(24*time.Hour, snap.DayEnd(now).Sub(now))
	done, err := d.turn.Finish(ctx, keep, d.id.Digest[:], value)
	if err == nil && !done {
		err = ErrNotRecorded
	}
	return err
}

// Failed says that the app did not accept the call: the next one is handed to it.
// If the store fails, that one waits until the lease has run out.
func (d *Delivery) Failed(ctx context.Context) error { return d.turn.Release(ctx) }
