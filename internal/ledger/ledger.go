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
// What is not signed decides nothing, and X-EXTERNAL-ID is not signed. So two notifications
// are the same if they have the same payment id and body, or the same body and no payment
// id. Two other calls are the same if they have the same signature, or the same external id
// and body. While the first call is in flight, in any sidecar with the same store, a repeat
// waits for its answer. After a 2xx the repeat gets that answer, and nothing more is kept
// of it. After any other result it goes to the app.
//
// [ErrConflict] refuses a call with the external id of an earlier one and another body,
// while the earlier one is in flight and after its 2xx, on the same WIB day: on another
// day DOKU may use the id again. A notification is only refused if its payment id is the
// same, too; see [Outcome.Reused].
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
	Signature  string            // X-SIGNATURE, which names the signed text
}

// Key returns the Idempotency-Key of a call: 32 hexadecimal digits that are the same for
// all its repeats and differ from the key of any other call.
func (id Identity) Key() string {
	var room [512]byte
	text := room[:0]
	for _, part := range []string{id.Account, string(id.Service), id.name()} {
		text = append(append(text, part...), 0)
	}
	return shortHash(append(text, id.Digest[:]...))
}

// longestName is the longest payment or external id that is part of a key as it is.
const longestName = 128

// name returns what identifies the call besides its body: the payment id of a
// notification, or the external id of another call.
func (id Identity) name() string {
	name := id.PaymentID
	if !id.Service.Notification() {
		name = id.ExternalID
	}
	if len(name) > longestName {
		return shortHash([]byte(name))
	}
	return name
}

// shortHash returns 32 hexadecimal digits.
func shortHash(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// keys are the keys of a call in the store. They are parts of one string, which saves
// allocations.
type keys struct {
	external string // day and external id; of a notification its payment, too; the value is the digest of the body
	call     string // payment or external id, and body; the value is the answer
	signed   string // signature of a call that is no notification, or empty; the value is the key call
	paid     string // payment id of a notification, or empty; the value is the digest of the accepted body
	used     string // day and external id of a notification, or empty; the value is the digest of the accepted body
	digest   string // of the body; not a key, but the label of the lease
}

// span is a part of a text.
type span struct{ from, to int }

func (id Identity) keys() keys {
	var (
		room [1024]byte
		text = append(room[:0], "ledger/"+string(id.Service)...)

		service                                    = len(text)
		external, call, digest, signed, paid, used span
	)
	begin := func(kind string) (from int) {
		from = len(text)
		text = append(append(text, text[:service]...), kind...)
		return from
	}
	end := func(from int) span { return span{from, len(text)} }

	name, kind := id.name(), "/call/"
	if id.PaymentID != "" {
		kind = "/payment/"
	}
	from := begin(kind)
	digest.from = len(text)
	text = hex.AppendEncode(text, id.Digest[:])
	digest.to = len(text)
	text = append(append(text, '/'), name...)
	call = end(from)

	from = begin("/external/")
	text = append(append(append(text, id.Day...), '/'), id.ExternalID...)
	external = end(from)

	switch {
	case id.Service.Notification():
		used = external
		from = len(text)
		text = append(append(text, text[used.from:used.to]...), '/')
		text = hex.AppendEncode(text, id.payment(name))
		external = end(from)
		if name != "" {
			from = begin("/paid/")
			text = append(text, name...)
			paid = end(from)
		}
	case id.Signature != "":
		from = begin("/signed/")
		text = append(text, shortHash([]byte(id.Signature))...)
		signed = end(from)
	}
	whole := string(text)
	of := func(s span) string { return whole[s.from:s.to] }
	return keys{external: of(external), call: of(call), signed: of(signed), paid: of(paid), used: of(used), digest: of(digest)}
}

// payment returns what tells the payment of a notification apart from others, as 16 bytes:
// its name, or its body if it has none.
func (id Identity) payment(name string) []byte {
	var room [longestName + sha256.Size]byte
	text := append(room[:0], name...)
	if name == "" {
		text = append(text, id.Digest[:]...)
	}
	sum := sha256.Sum256(text)
	return sum[:16]
}

// Outcome is the result of [Ledger.Deliver].
type Outcome struct {
	Answer   store.Answer // for DOKU
	Replayed bool         // Answer is from an earlier call, and the app was not called

	// Changed means that the app has accepted another body for the same payment before.
	// The notification went to the app nevertheless.
	Changed bool

	// Reused means that the app has accepted another notification with the same external
	// id on the same day. This one went to the app nevertheless: the id is not signed.
	Reused bool

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
	claimed := []string{keys.external, keys.call, keys.signed}
	if keys.signed == "" {
		claimed = claimed[:2]
	}
	lease, values, err := l.locks.Acquire(ctx, keys.digest, claimed...)
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
		return l.replay(ctx, id, keys, values)
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
	digest := id.Digest[:]
	done, err := lease.Commit(ctx, answersKept, [][]byte{digest, recorded(id, out.Answer), []byte(keys.call)}[:len(claimed)]...)
	if err == nil && !done {
		err = errors.New("the lease has expired, and another sidecar has taken over")
	}
	switch {
	case err != nil && l.Lenient:
		out.Unkept = err
	case err != nil:
		return out, fmt.Errorf("%w: %w", ErrNotRecorded, err)
	default:
		out.Changed = l.differs(ctx, keys.paid, digest)
		out.Reused = l.differs(ctx, keys.used, digest)
	}
	return out, nil
}

// replay returns the recorded answer of a call. values are those of the claimed keys.
func (l *Ledger) replay(ctx context.Context, id Identity, keys keys, values [][]byte) (Outcome, error) {
	value := values[1]
	switch external := values[0]; {
	case len(values) > 2 && values[2] != nil && string(values[2]) != keys.call: // the same signature under another external id
		earlier, err := l.store.Get(ctx, string(values[2]))
		if err != nil {
			return Outcome{}, fmt.Errorf("%w: %w", ErrLedger, err)
		}
		value = earlier
	case external != nil && !bytes.Equal(external, id.Digest[:]):
		return Outcome{}, conflict(id)
	}
	answer, err := store.DecodeAnswer(value)
	if err != nil {
		return Outcome{}, fmt.Errorf("%w: %w", ErrLedger, err)
	}
	return Outcome{Answer: *answer, Replayed: true}, nil
}

func conflict(id Identity) error {
	return fmt.Errorf("%w: X-EXTERNAL-ID %s", ErrConflict, id.ExternalID)
}

// recorded returns the answer of an accepted call as it is kept.
func recorded(id Identity, answer store.Answer) []byte {
	if len(answer.Body) > AnswerLargest {
		// Headers such as Content-Encoding are wrong for another body, so none are kept.
		answer.Header, answer.Body = http.Header{"Content-Type": {"application/json"}}, snap.Successful.Answer(id.Service)
	}
	return answer.Encode()
}

// differs records the accepted body under a key, if there is one, and reports whether an
// earlier body was different. It ignores errors of the store, because the result is only
// for a warning.
func (l *Ledger) differs(ctx context.Context, key string, digest []byte) bool {
	if key == "" {
		return false
	}
	ctx = context.WithoutCancel(ctx)
	earlier, err := l.store.Add(ctx, key, digest, answersKept)
	if err != nil || earlier == nil || bytes.Equal(earlier, digest) {
		return false
	}
	_ = l.store.Set(ctx, key, digest, answersKept)
	return true
}

// changed reports whether the app has accepted another body of the same payment before.
// It ignores errors, as [Ledger.differs] does.
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
