package verifier

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/store"
)

// Ledger remembers the inbound calls that the app has accepted, with the
// answer it gave, so that a repeat is answered without the app being called
// again. DOKU delivers at least once: a repeat is to be expected.
//
// A call is the same as an earlier one if external id and body are the same,
// or, for a notification, if payment id and body are. While the first is in
// flight, a repeat waits for its answer; after a 2xx it gets that answer; after
// anything else it is handed to the app. The same external id with another
// body is refused with [ErrConflict].
//
// Answers are kept in the store until the WIB day has ended, and 24 h at least.
// Calls in flight are known to this process only. It is safe for concurrent use.
type Ledger struct {
	store store.Store

	mu     sync.Mutex
	flying map[string]*Delivery
}

// NewLedger returns a ledger that keeps its answers in s.
func NewLedger(s store.Store) *Ledger {
	return &Ledger{store: s, flying: make(map[string]*Delivery)}
}

// Identity is what makes two calls the same.
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
	who := id.PaymentID
	if who == "" {
		who = id.ExternalID
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{id.Account, string(id.Service), who, string(id.Digest[:])}, "\x00")))
	return hex.EncodeToString(sum[:16])
}

func (id Identity) externalKey() string {
	return strings.Join([]string{"ledger", id.Account, string(id.Service), "external", id.ExternalID}, "/")
}

// paymentKey names payment id and body: the same payment id with another body
// is another call.
func (id Identity) paymentKey() string {
	if id.PaymentID == "" {
		return ""
	}
	return strings.Join([]string{"ledger", id.Account, string(id.Service), "payment", hex.EncodeToString(id.Digest[:]), id.PaymentID}, "/")
}

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

// Answer is the app's answer to a call.
type Answer struct {
	Status int         `json:"status"`
	Header http.Header `json:"header"`
	Body   []byte      `json:"body"`
}

// record is an answer as kept, with the body that it answers.
type record struct {
	Digest string `json:"digest"`
	Answer Answer `json:"answer"`
}

// Delivery is the right and duty to hand one call to the app: it must be ended
// by [Delivery.Accepted] or [Delivery.Failed], once.
type Delivery struct {
	ledger *Ledger
	id     Identity
	ended  chan struct{} // closed when the app has answered or failed
	answer *Answer       // set before ended is closed, if the app accepted
}

// Begin finds out whether a call was seen before. It returns either the answer
// to give at once, or a delivery; or the error [ErrConflict] in a [*Refusal],
// ctx's error if it ended while a call in flight was waited for, or the store's.
func (l *Ledger) Begin(ctx context.Context, id Identity) (*Answer, *Delivery, error) {
	for {
		earlier, mine := l.claim(id)
		if mine != nil {
			answer, err := l.recorded(ctx, id)
			if answer != nil || err != nil {
				mine.end(nil)
				return answer, nil, err
			}
			return nil, mine, nil
		}
		if earlier.id.Digest != id.Digest {
			return nil, nil, conflict(id)
		}
		select {
		case <-earlier.ended:
			if earlier.answer != nil {
				return earlier.answer, nil, nil
			}
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("waiting for the answer to the same call in flight: %w", context.Cause(ctx))
		}
	}
}

// claim returns the call in flight that id is the same as, or makes id one.
func (l *Ledger) claim(id Identity) (earlier, mine *Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range []string{id.externalKey(), id.paymentKey()} {
		if d := l.flying[key]; d != nil && key != "" {
			return d, nil
		}
	}
	mine = &Delivery{ledger: l, id: id, ended: make(chan struct{})}
	l.flying[id.externalKey()] = mine
	if key := id.paymentKey(); key != "" {
		l.flying[key] = mine
	}
	return nil, mine
}

// recorded returns the answer kept for id, if there is one.
func (l *Ledger) recorded(ctx context.Context, id Identity) (*Answer, error) {
	for _, key := range []string{id.externalKey(), id.paymentKey()} {
		if key == "" {
			continue
		}
		value, found, err := l.store.Get(ctx, key)
		if err != nil {
			return nil, fmt.Errorf("reading the ledger: %w", err)
		}
		if !found {
			continue
		}
		var r record
		if err := json.Unmarshal(value, &r); err != nil {
			return nil, fmt.Errorf("reading the ledger: %w", err)
		}
		if r.Digest != hex.EncodeToString(id.Digest[:]) {
			return nil, conflict(id)
		}
		return &r.Answer, nil
	}
	return nil, nil
}

func conflict(id Identity) error {
	return refuse(snap.Conflict, "%w: X-EXTERNAL-ID %s", ErrConflict, id.ExternalID)
}

// Accepted records the app's 2xx answer at the instant now, and gives it to
// those who wait. It returns the store's error; then nothing is recorded and
// DOKU must be told to try again.
func (d *Delivery) Accepted(ctx context.Context, answer Answer, now time.Time) error {
	value, err := json.Marshal(record{hex.EncodeToString(d.id.Digest[:]), answer})
	if err != nil {
		d.end(nil)
		return fmt.Errorf("writing the ledger: %w", err)
	}
	keep := max(24*time.Hour, snap.DayEnd(now).Sub(now))
	for _, key := range []string{d.id.externalKey(), d.id.paymentKey()} {
		if key == "" {
			continue
		}
		if err := d.ledger.store.Set(ctx, key, value, keep); err != nil {
			d.end(nil)
			return fmt.Errorf("writing the ledger: %w", err)
		}
	}
	d.end(&answer)
	return nil
}

// Failed says that the app did not accept the call: the next one is handed to it.
func (d *Delivery) Failed() { d.end(nil) }

func (d *Delivery) end(answer *Answer) {
	l := d.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	d.answer = answer
	delete(l.flying, d.id.externalKey())
	delete(l.flying, d.id.paymentKey())
	close(d.ended)
}
