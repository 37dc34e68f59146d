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
// first is in flight and after a 2xx, if both are of the same WIB day: on another
// one, DOKU may use the id again.
//
// Answers are kept for 24 h. It is safe for concurrent use.
type Ledger struct {
	// Lenient says whether calls are handed to the app while the store is away,
	// without protection against repeats. Otherwise they are refused, so that DOKU
	// tries again. It must not be changed once the ledger is in use.
	Lenient bool

	store store.Store
	once  *store.Locks
}

// DefaultLease is for how long at most a repeat waits for a sidecar that has died
// while the first was in flight.
const DefaultLease = 10 * time.Second

// AnswerLargest is the largest body of an answer that is kept, in bytes. A repeat
// of a call that was answered with a larger one gets a short acknowledgement.
const AnswerLargest = 256 << 10

// NewLedger returns an account's ledger, which keeps its answers in s: see
// [store.Scope]. lease is for how long at most the death of a sidecar keeps a
// repeat waiting.
func NewLedger(s store.Store, lease time.Duration) *Ledger {
	return &Ledger{store: s, once: store.NewLocks(s, lease)}
}

// Identity is what makes two calls of an account the same.
type Identity struct {
	Account    string
	Service    snap.Service
	ExternalID string
	Day        string            // the WIB day of the call, on which no other call may have its external id; see [snap.Day]
	PaymentID  string            // of a notification; empty if it has none
	Digest     [sha256.Size]byte // of the body; see [Verified]
}

// Key returns a text that is the same for the same call and for no other, to
// hand to the app as Idempotency-Key: 32 hexadecimal digits.
func (id Identity) Key() string {
	var room [512]byte
	text := room[:0]
	for _, part := range []string{id.Account, string(id.Service), id.call()} {
		text = append(append(text, part...), 0)
	}
	sum := sha256.Sum256(append(text, id.Digest[:]...))
	return hex.EncodeToString(sum[:16])
}

// call returns the id of what the call tells of.
func (id Identity) call() string {
	if id.PaymentID != "" {
		return id.PaymentID
	}
	return id.ExternalID
}

// keys are those under which a call is known, as parts of one text: made one by one,
// they cost five pieces of memory for each call.
type keys struct {
	external string // its external id, which no other call of the day may have
	call     string // payment or external id together with the body
	paid     string // of a notification: the payment, whose value is the body that was accepted
	digest   string // of the body
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

// Outcome is what has become of a call.
type Outcome struct {
	Answer   store.Answer // to give to DOKU, with the status of [snap.AnswerStatus]
	Replayed bool         // it was given before, and the app was not called
	// Changed says that the app has accepted a notification of the same payment
	// with another body before. It was called all the same.
	Changed bool
	// Unkept is why the ledger does not know of the outcome, if nobody else need
	// be told: a repeat may have to wait, or reach the app again.
	Unkept error
}

// Errors of [Ledger.Deliver].
var (
	ErrLedger      = errors.New("the ledger cannot be asked")
	ErrConflict    = errors.New("external id used before with another body")
	ErrInFlight    = errors.New("the same call is still in flight")
	ErrNotRecorded = errors.New("the app has accepted the call, but that could not be recorded")
)

// Deliver hands a call to the app, unless it is a repeat, and records that the app
// has accepted it, before it returns. app calls the app; its answer counts as
// accepted if [snap.AnswerStatus] is 2xx. Errors are app's own, as it is; [ErrConflict];
// [ErrInFlight] if ctx ended while the same call was waited for; and,
// of a ledger that is not lenient, [ErrLedger] and [ErrNotRecorded]. After each of
// them, DOKU must be told to try again. What the app has accepted is recorded even if
// ctx has ended.
func (l *Ledger) Deliver(ctx context.Context, id Identity, app func() (store.Answer, error)) (out Outcome, err error) {
	keys := id.keys()
	turn, values, err := l.once.Acquire(ctx, keys.digest, keys.external, keys.call)
	switch {
	case errors.Is(err, store.ErrOtherUse):
		return out, conflict(id)
	case errors.Is(err, store.ErrInFlight):
		return out, fmt.Errorf("%w: %w", ErrInFlight, err)
	case err != nil && (ctx.Err() != nil || !l.Lenient): // too late for the app, DOKU tries again in any case
		return out, fmt.Errorf("%w: %w", ErrLedger, err)
	case err != nil:
		out.Unkept = err
		out.Answer, err = judged(app)
		return out, err
	case turn == nil:
		return replay(id, values)
	}
	open := true
	defer func() {
		if open { // also if app panics
			out.Unkept = turn.Release(ctx)
		}
	}()
	if out.Answer, err = judged(app); err != nil || out.Answer.Status < 200 || out.Answer.Status > 299 {
		out.Changed = l.changed(ctx, id, keys)
		return out, err
	}
	open = false
	digest, value := entries(id, out.Answer)
	done, err := turn.Commit(ctx, answersKept, digest, value)
	if err == nil && !done {
		err = errors.New("another sidecar has taken over, because the lease had run out")
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

// judged returns the app's answer with the status by which it is judged.
func judged(app func() (store.Answer, error)) (store.Answer, error) {
	answer, err := app()
	answer.Status = snap.AnswerStatus(answer.Status, answer.Body)
	return answer, err
}

// replay returns the answer that was left behind for a call.
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

// entries returns what is kept for an accepted call under its two keys.
func entries(id Identity, answer store.Answer) (digest, value []byte) {
	if len(answer.Body) > AnswerLargest {
		// Of the headers none need be true of another body, such as Content-Encoding.
		answer.Header, answer.Body = http.Header{"Content-Type": {"application/json"}}, snap.Successful.Answer(id.Service)
	}
	return id.Digest[:], answer.Encode()
}

// paid notes the body that was accepted for a payment, and reports whether it was
// another one before. If the store cannot tell, it is not worth more than that: it
// is for a warning only.
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

// changed reports whether a notification of the same payment was accepted with
// another body. It is for a warning only, as [Ledger.paid] is.
func (l *Ledger) changed(ctx context.Context, id Identity, keys keys) bool {
	if keys.paid == "" {
		return false
	}
	body, err := l.store.Get(context.WithoutCancel(ctx), keys.paid)
	return err == nil && body != nil && !bytes.Equal(body, id.Digest[:])
}

// answersKept is longer than what is left of any WIB day, and than DOKU's retries go on.
const answersKept = 24 * time.Hour
