// Package ledger keeps the inbound idempotency record: which calls of DOKU the app has
// accepted, and with which answer.
package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
)

// Ledger records the inbound calls that the app has accepted, with the app's answers,
// so that a repeat gets the same answer and does not reach the app. DOKU delivers a call
// at least once, so repeats happen. DOKU does not say whether a repeat has the external
// id of the first call.
//
// Two calls are the same if they have the same external id and body. Two notifications
// are also the same if they have the same payment id and body. While the first call is
// in flight, in any sidecar with the same store, a repeat waits for its answer. After a
// 2xx the repeat gets that answer. After any other result it goes to the app.
//
// A call with the external id of an earlier one and another body is refused with
// [ErrConflict], while the earlier call is in flight and after its 2xx. That holds on the
// same WIB day: on another day DOKU may use the id again.
//
// Answers are kept for 24 h. It is safe for concurrent use.
type Ledger struct {
	// Lenient makes calls go to the app while the store is away, without protection
	// against repeats. If it is false, they are refused, so that DOKU tries again. Set
	// it before the first call of Deliver.
	Lenient bool

	store store.Store
	locks *store.Locks
}

// DefaultLease is the usual lease for [NewLedger].
const DefaultLease = 10 * time.Second

// AnswerLargest is the size in bytes of the largest answer body that is kept. If the
// answer is larger, a repeat gets a short acknowledgement instead.
const AnswerLargest = 256 << 10

// NewLedger returns the ledger of one account, which keeps its answers in s; see
// [store.Scope]. lease is the longest time that a repeat waits for a sidecar that has
// died while the first call was in flight.
func NewLedger(s store.Store, lease time.Duration) *Ledger {
	return &Ledger{store: s, locks: store.NewLocks(s, lease)}
}

// Identity is the part of a call that its repeats have in common.
type Identity struct {
	Account    string
	Service    snap.Service
	ExternalID string
	Day        string            // the WIB day of the call, on which its external id is unique; see [snap.Day]
	PaymentID  string            // of a notification; empty if it has none
	Digest     [sha256.Size]byte // of the canonical body; see [snap.Digest]
}

// Key returns the Idempotency-Key of a call: 32 hexadecimal digits that are the same for
// all its repeats and differ from the key of any other call.
func (id Identity) Key() string {
	var room [512]byte
	text := room[:0]
	for _, part := range []string{id.Account, string(id.Service), id.call()} {
		text = append(append(text, part...), 0)
	}
	sum := sha256.Sum256(append(text, id.Digest[:]...))
	return hex.EncodeToString(sum[:16])
}

// call returns the payment id, or the external id if there is none.
func (id Identity) call() string {
	if id.PaymentID != "" {
		return id.PaymentID
	}
	return id.ExternalID
}

// keys are the keys of a call in the store. They are parts of one string, which saves
// four allocations per call.
type keys struct {
	external string // day and external id; the value is the digest of the body
	call     string // payment or external id, and body; the value is the answer
	paid     string // payment id of a notification, or empty; the value is the digest of the accepted body
	digest   string // of the body; not a key, but the label of the lease
}

func (id Identity) keys() keys {
	var room [512]byte
	text := append(room[:0], "ledger/"+string(id.Service)...)
	service := len(text)
	text = append(append(append(append(text, "/external/"...), id.Day...), '/'), id.ExternalID...)
	external := len(text)
	text = append(text, text[:service]...)
	if id.PaymentID != "" {
		text = append(text, "/payment/"...)
	} else {
		text = append(text, "/call/"...)
	}
	digest := len(text)
	text = append(append(hex.AppendEncode(text, id.Digest[:]), '/'), id.call()...)
	call := len(text)
	if id.PaymentID != "" {
		text = append(append(append(text, text[:service]...), "/paid/"...), id.PaymentID...)
	}
	whole := string(text)
	return keys{whole[:external], whole[external:call], whole[call:], whole[digest:][:hex.EncodedLen(sha256.Size)]}
}

// Outcome is the result of [Ledger.Deliver].
type Outcome struct {
	Answer   store.Answer // for DOKU
	Replayed bool         // Answer is from an earlier call, and the app was not called

	// Changed means that the app has accepted another body for the same payment before.
	// The notification went to the app nevertheless.
	Changed bool

	// Unkept is the error of the store, if the outcome could not be kept and Answer is
	// valid nevertheless. A repeat may then have to wait, or reach the app again.
	Unkept error
}

// Errors of [Ledger.Deliver]. After each of them, DOKU must be told to try again.
var (
	ErrLedger      = errors.New("the ledger cannot be read or written")
	ErrConflict    = errors.New("external id used before with another body")
	ErrInFlight    = errors.New("the same call is still in flight")
	ErrNotRecorded = errors.New("the app has accepted the call, but that could not be recorded")
)

// Deliver sends a call to the app, unless it is a repeat, and records the answer before
// it returns, if the app has accepted the call. app calls the app and judges its answer:
// one with HTTP 2xx accepts the call. The answer is recorded even if ctx has ended.
//
// Deliver returns the error of app unchanged, [ErrConflict], or [ErrInFlight] if ctx ends
// while it waits for the same call. [ErrLedger] and [ErrNotRecorded] mean that the store
// failed; if the ledger is lenient, Outcome.Unkept has that error instead.
func (l *Ledger) Deliver(ctx context.Context, id Identity, app func() (store.Answer, error)) (out Outcome, err error) {
	keys := id.keys()
	lease, values, err := l.locks.Acquire(ctx, keys.digest, keys.external, keys.call)
	switch {
	case errors.Is(err, store.ErrOtherUse):
		return out, conflict(id)
	case errors.Is(err, store.ErrInFlight):
		return out, fmt.Errorf("%w: %w", ErrInFlight, err)
	case err != nil && (ctx.Err() != nil || !l.Lenient): // after ctx has ended it is too late for the app
		return out, fmt.Errorf("%w: %w", ErrLedger, err)
	case err != nil:
		out.Unkept = err
		out.Answer, err = app()
		return out, err
	case lease == nil:
		return replay(id, values)
	}
	open := true
	defer func() {
		if open { // also if app panics
			out.Unkept = lease.Release(ctx)
		}
	}()
	if out.Answer, err = app(); err != nil || out.Answer.Status < 200 || out.Answer.Status > 299 {
		out.Changed = l.changed(ctx, id, keys)
		return out, err
	}
	open = false
	digest, value := entries(id, out.Answer)
	done, err := lease.Commit(ctx, answersKept, digest, value)
	if err == nil && !done {
		err = errors.New("the lease has expired, and another sidecar has taken over")
	}
	switch {
	case err != nil && l.Lenient:
		out.Unkept = err
	case err != nil:
		return out, fmt.Errorf("%w: %w", ErrNotRecorded, err)
	default:
		out.Changed = l.paid(ctx, keys, digest)
	}
	return out, nil
}

// replay returns the recorded answer of a call.
func replay(id Identity, values [][]byte) (Outcome, error) {
	if body := values[0]; body != nil && !bytes.Equal(body, id.Digest[:]) {
		return Outcome{}, conflict(id)
	}
	answer, err := store.DecodeAnswer(values[1])
	if err != nil {
		return Outcome{}, fmt.Errorf("%w: %w", ErrLedger, err)
	}
	return Outcome{Answer: *answer, Replayed: true}, nil
}

func conflict(id Identity) error {
	return fmt.Errorf("%w: X-EXTERNAL-ID %s", ErrConflict, id.ExternalID)
}

// entries returns the two values of an accepted call.
func entries(id Identity, answer store.Answer) (digest, value []byte) {
	if len(answer.Body) > AnswerLargest {
		// Headers such as Content-Encoding are wrong for another body, so none are kept.
		answer.Header, answer.Body = http.Header{"Content-Type": {"application/json"}}, snap.Successful.Answer(id.Service)
	}
	return id.Digest[:], answer.Encode()
}

// paid records the accepted body of a payment, and reports whether an earlier one was
// different. It ignores errors of the store, because the result is only for a warning.
func (l *Ledger) paid(ctx context.Context, keys keys, digest []byte) (changed bool) {
	if keys.paid == "" {
		return false
	}
	ctx = context.WithoutCancel(ctx)
	earlier, err := l.store.Add(ctx, keys.paid, digest, answersKept)
	if err != nil || earlier == nil || bytes.Equal(earlier, digest) {
		return false
	}
	_ = l.store.Set(ctx, keys.paid, digest, answersKept)
	return true
}

// changed reports whether the app has accepted another body of the same payment before.
// It ignores errors, as [Ledger.paid] does.
func (l *Ledger) changed(ctx context.Context, id Identity, keys keys) bool {
	if keys.paid == "" {
		return false
	}
	body, err := l.store.Get(context.WithoutCancel(ctx), keys.paid)
	return err == nil && body != nil && !bytes.Equal(body, id.Digest[:])
}

// answersKept is at least the rest of the WIB day, and longer than DOKU tries again
// (18.5 h).
const answersKept = 24 * time.Hour
