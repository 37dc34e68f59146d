package idempotency

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/store"
)

// ErrKeyReused is the error of [Repeats.Begin] for a key that was used for another
// call before.
var ErrKeyReused = errors.New("idempotency key used before for another call")

const (
	keyLongest = 255

	// RepeatsKept is for how long an idempotency key is known, from its first use
	// on: past the end of the WIB day, so that a repeat just after midnight has
	// the external id of the day before.
	RepeatsKept = 48 * time.Hour

	// AnswerLargest is the largest body of an answer that is kept, in bytes.
	AnswerLargest = 256 << 10

	noteTimeout = 2 * time.Second
)

// Repeats makes it harmless that an app repeats a call of its own, because it has
// crashed, say, or got no answer, and cannot know whether DOKU has. The app gives
// each call an idempotency key of its choice. The same key has the same
// X-EXTERNAL-ID; a repeat while the first is under way, in this sidecar or another
// one with the same store, waits for its answer; a repeat after a final answer
// gets that one again, and anything else is sent once more. It is safe for
// concurrent use.
type Repeats struct {
	store store.Store
	once  *store.Locks
}

// NewRepeats returns an account's record of keys, kept in s: see [store.Scope].
// lease is for how long at most the death of a sidecar keeps a repeat waiting.
func NewRepeats(s store.Store, lease time.Duration) *Repeats {
	return &Repeats{s, store.NewLocks(s, lease)}
}

// Keyed is a call that the app has given an idempotency key.
type Keyed struct {
	Key        string
	Digest     [sha256.Size]byte // see [CallDigest]
	ExternalID string            // the X-EXTERNAL-ID to use, unless the key has one already
	Own        bool              // ExternalID is the app's own choice, and is used in any case
}

// Repeatable is what comes of a [Keyed] call.
type Repeatable struct {
	ExternalID string        // the X-EXTERNAL-ID to use, if the call is to be made
	Answer     *store.Answer // the answer to give again; if nil, the call is to be made

	// Uncertain says that an earlier attempt with the same key may have reached
	// DOKU, without a final answer: whatever becomes of this one, the outcome is
	// not known.
	Uncertain bool

	repeats *Repeats
	noteKey string
	note    note
	turn    *store.Lease
}

// note is what is known of a key.
type note struct {
	digest     [sha256.Size]byte
	unsent     bool // for certain, no attempt has reached DOKU
	externalID string
}

func (n note) encode() []byte {
	unsent := byte(0)
	if n.unsent {
		unsent = 1
	}
	return slices.Concat(n.digest[:], []byte{unsent}, []byte(n.externalID))
}

func decodeNote(value []byte) (n note, ok bool) {
	if len(value) < len(n.digest)+1 {
		return note{}, false
	}
	copy(n.digest[:], value)
	n.unsent = value[len(n.digest)] == 1
	n.externalID = string(value[len(n.digest)+1:])
	return n, true
}

// ValidKey reports whether key can be an idempotency key.
func ValidKey(key string) bool {
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return false
		}
	}
	return key != "" && len(key) <= keyLongest
}

// CallDigest returns what must be the same for a key to be used again: method,
// target and body.
func CallDigest(method, target string, body [sha256.Size]byte) [sha256.Size]byte {
	return sha256.Sum256(slices.Concat([]byte(method+" "+target+" "), body[:]))
}

// Begin finds out whether a call was made before. Unless it returns an answer, the
// call must be made and ended by [Repeatable.Answered] or [Repeatable.Failed],
// once. While the same call is under way, Begin waits, until ctx ends at the
// longest, which is [store.ErrInFlight]. Other errors are [ErrKeyReused] and the
// store's.
//
// With an error comes what is known nonetheless, for who makes the call without
// protection, which is not ended then: the external id, and whether an earlier
// attempt may have reached DOKU.
func (r *Repeats) Begin(ctx context.Context, c Keyed) (*Repeatable, error) {
	sum := sha256.Sum256([]byte(c.Key)) // an app may choose what it likes, long or telling
	id := hex.EncodeToString(sum[:])
	call := &Repeatable{
		ExternalID: c.ExternalID, Uncertain: true,
		repeats: r, noteKey: "repeat/note/" + id, note: note{digest: c.Digest, externalID: c.ExternalID},
	}
	turn, values, err := r.once.Acquire(ctx, "call", "repeat/answer/"+id+"/"+hex.EncodeToString(c.Digest[:]))
	switch {
	case err != nil:
		return call, err
	case turn == nil:
		if call.Answer, err = store.DecodeAnswer(values[0]); err != nil {
			return call, errors.Join(err, call.begin(ctx, c.Own)) // the external id is known nonetheless
		}
		return call, nil
	}
	// Only now: while somebody else is at it, what the note says may change.
	if err := call.begin(ctx, c.Own); err != nil {
		return call, errors.Join(err, turn.Release(ctx))
	}
	call.turn = turn
	return call, nil
}

// begin takes note of an attempt, and finds out what has become of earlier ones.
func (r *Repeatable) begin(ctx context.Context, own bool) error {
	earlier, err := r.repeats.store.Add(ctx, r.noteKey, r.note.encode(), RepeatsKept)
	if err != nil {
		return err
	}
	if earlier == nil {
		r.Uncertain = false
		return nil
	}
	known, ok := decodeNote(earlier)
	if !ok || known.digest != r.note.digest {
		return ErrKeyReused
	}
	if !own {
		r.note.externalID = known.externalID
	}
	r.ExternalID, r.Uncertain = r.note.externalID, !known.unsent
	if known == r.note {
		return nil
	}
	return r.repeats.store.Set(ctx, r.noteKey, r.note.encode(), RepeatsKept)
}

// Final reports whether an answer of DOKU's with this HTTP status says for good
// what has become of a call: then a repeat would be answered the same.
func Final(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return 200 <= status && status < 300 || 400 <= status && status < 500
}

// Answered says that DOKU has answered: a final answer is kept for repeats, unless
// its body is larger than [AnswerLargest]. What is not kept is sent again.
func (r *Repeatable) Answered(ctx context.Context, a store.Answer) error {
	if !Final(a.Status) || len(a.Body) > AnswerLargest {
		return r.turn.Release(ctx)
	}
	done, err := r.turn.Commit(ctx, RepeatsKept, a.Encode())
	if err == nil && !done {
		err = fmt.Errorf("%w: another sidecar has taken over meanwhile", store.ErrStore)
	}
	return err
}

// Failed says that there is no answer, and whether the call may have reached DOKU:
// the next one with the same key is sent. It is noted even if ctx has ended, but not
// if another sidecar may have taken over meanwhile, and have sent the call.
func (r *Repeatable) Failed(ctx context.Context, sent bool) error {
	var err error
	if !sent && !r.Uncertain && !r.turn.Expired() {
		r.note.unsent = true
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
		defer cancel()
		err = r.repeats.store.Set(ctx, r.noteKey, r.note.encode(), RepeatsKept)
	}
	return errors.Join(err, r.turn.Release(ctx))
}
