// Package idempotency makes it harmless that an app repeats a call to DOKU: it keeps what
// became of each idempotency key.
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
	"github.com/caddy-doku/caddy-doku/snap"
)

// ErrKeyReused is the error of [Record.Begin] for a key that was used for another
// call before.
var ErrKeyReused = errors.New("idempotency key used before for another call")

const (
	maxKey = 255 // characters

	// KeptFor is how long an idempotency key is known, from its first use. It ends after
	// the WIB day, so that a repeat just after midnight has the external id of the day
	// before.
	KeptFor = 48 * time.Hour

	// AnswerLargest is the largest body of an answer that is kept, in bytes.
	AnswerLargest = 256 << 10

	noteTimeout = 2 * time.Second
)

// Record makes it harmless that an app repeats a call, for example after a crash or
// without an answer. The app gives each call an idempotency key. The same key has the
// same X-EXTERNAL-ID. While the first call is under way, in this sidecar or another one
// with the same store, a repeat waits for its answer. After a final answer, a repeat
// gets that answer again. After anything else, it is sent once more. Record is safe for
// concurrent use.
type Record struct {
	store store.Store
	locks *store.Locks
}

// New returns an account's record of keys, kept in s: see [store.Scope]. lease is the
// longest time that a dead sidecar makes a repeat wait.
func New(s store.Store, lease time.Duration) *Record {
	return &Record{s, store.NewLocks(s, lease)}
}

// Request is a call with an idempotency key.
type Request struct {
	Key          string
	Digest       [sha256.Size]byte // see [CallDigest]
	ExternalID   string            // the X-EXTERNAL-ID to use, unless the key has one already
	CallerChosen bool              // the app has chosen ExternalID, so it is used in any case
}

// Attempt is the result of [Record.Begin].
type Attempt struct {
	ExternalID string        // the X-EXTERNAL-ID of the call, if it must be made
	Answer     *store.Answer // the answer to give again; nil: the call must be made

	// MaybeSent says that an earlier attempt with the same key may have reached DOKU,
	// without a final answer. Whatever this attempt brings, the outcome is unknown.
	MaybeSent bool

	record  *Record
	noteKey string
	note    note
	lease   *store.Lease
}

// note is the stored state of a key.
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
	return key != "" && len(key) <= maxKey
}

// CallDigest returns what must be the same for a key to be used again: method,
// target and body.
func CallDigest(method, target string, body [sha256.Size]byte) [sha256.Size]byte {
	return sha256.Sum256(slices.Concat([]byte(method+" "+target+" "), body[:]))
}

// Begin looks up whether the call was made before. If the attempt has no answer, the
// caller makes the call, and ends the attempt once, with [Attempt.Complete] or
// [Attempt.Abort]. While the same call is under way, Begin waits until ctx ends, which
// is [store.ErrInFlight]. Other errors are [ErrKeyReused] and the store's.
//
// With an error, the attempt has the external id and MaybeSent as far as they are known,
// for a caller that makes the call without protection. Such an attempt is not ended.
func (r *Record) Begin(ctx context.Context, c Request) (*Attempt, error) {
	sum := sha256.Sum256([]byte(c.Key)) // the app's key may be long or secret
	id := hex.EncodeToString(sum[:])
	call := &Attempt{
		ExternalID: c.ExternalID, MaybeSent: true,
		record: r, noteKey: "repeat/note/" + id, note: note{digest: c.Digest, externalID: c.ExternalID},
	}
	lease, values, err := r.locks.Acquire(ctx, "call", "repeat/answer/"+id+"/"+hex.EncodeToString(c.Digest[:]))
	switch {
	case err != nil:
		return call, err
	case lease == nil:
		if call.Answer, err = store.DecodeAnswer(values[0]); err != nil {
			return call, errors.Join(err, call.begin(ctx, c.CallerChosen)) // the external id is known nonetheless
		}
		return call, nil
	}
	// Only now: another holder of the lease could change the note.
	if err := call.begin(ctx, c.CallerChosen); err != nil {
		return call, errors.Join(err, lease.Release(ctx))
	}
	call.lease = lease
	return call, nil
}

// begin notes the attempt, and reads the note of earlier ones.
func (r *Attempt) begin(ctx context.Context, callerChosen bool) error {
	earlier, err := r.record.store.Add(ctx, r.noteKey, r.note.encode(), KeptFor)
	if err != nil {
		return err
	}
	if earlier == nil {
		r.MaybeSent = false
		return nil
	}
	known, ok := decodeNote(earlier)
	if !ok || known.digest != r.note.digest {
		return ErrKeyReused
	}
	if !callerChosen {
		r.note.externalID = known.externalID
	}
	r.ExternalID, r.MaybeSent = r.note.externalID, !known.unsent
	if known == r.note {
		return nil
	}
	return r.record.store.Set(ctx, r.noteKey, r.note.encode(), KeptFor)
}

// Final reports whether DOKU's answer with this HTTP status is the call's outcome, so
// that a repeat would get the same one. 401 is not: secret or token may be wrong now and
// right later. Nor is 409: it says that an earlier call has the external id.
func Final(status int) bool {
	switch {
	case snap.Retryable(status), status == http.StatusUnauthorized, status == http.StatusConflict:
		return false
	}
	return 200 <= status && status < 300 || 400 <= status && status < 500
}

// Complete ends the attempt with DOKU's answer. It keeps a final answer for repeats,
// unless the body is larger than [AnswerLargest]. Without a kept answer, a repeat is
// sent again.
func (r *Attempt) Complete(ctx context.Context, a store.Answer) error {
	if !Final(a.Status) || len(a.Body) > AnswerLargest {
		return r.lease.Release(ctx)
	}
	done, err := r.lease.Commit(ctx, KeptFor, a.Encode())
	if err == nil && !done {
		err = fmt.Errorf("%w: another sidecar has taken over meanwhile", store.ErrStore)
	}
	return err
}

// Abort ends the attempt without an answer. sent says whether the call may have reached
// DOKU. The next call with the same key is sent. Abort works even if ctx has ended. If
// the lease has expired, another sidecar may have sent the call, so Abort notes nothing.
func (r *Attempt) Abort(ctx context.Context, sent bool) error {
	var err error
	if !sent && !r.MaybeSent && !r.lease.Expired() {
		r.note.unsent = true
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
		defer cancel()
		err = r.record.store.Set(ctx, r.noteKey, r.note.encode(), KeptFor)
	}
	return errors.Join(err, r.lease.Release(ctx))
}
