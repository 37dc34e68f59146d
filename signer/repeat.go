package signer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-doku/caddy-doku/store"
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
	once  *store.Once
}

// NewRepeats returns an account's record of keys, kept in s: see [store.Scope].
// lease is for how long at most the death of a sidecar keeps a repeat waiting.
func NewRepeats(s store.Store, lease time.Duration) *Repeats {
	return &Repeats{s, store.NewOnce(s, lease)}
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
	ExternalID string        // the X-EXTERNAL-ID to use
	Answer     *store.Answer // the answer to give again; if nil, the call is to be made

	turn *store.Turn
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
// longest. Errors are [ErrKeyReused], ctx's and the store's.
func (r *Repeats) Begin(ctx context.Context, c Keyed) (*Repeatable, error) {
	sum := sha256.Sum256([]byte(c.Key)) // an app may choose what it likes, long or telling
	name := "repeat/" + hex.EncodeToString(sum[:])
	digest := c.Digest[:]
	note := slices.Concat(digest, []byte(c.ExternalID))
	kept, err := r.store.Add(ctx, name+"/call", note, RepeatsKept)
	switch {
	case err != nil:
		return nil, err
	case len(kept) < len(digest) || !bytes.Equal(kept[:len(digest)], digest):
		return nil, ErrKeyReused
	case !c.Own:
		c.ExternalID = string(kept[len(digest):])
	case !bytes.Equal(kept, note):
		if err := r.store.Set(ctx, name+"/call", note, RepeatsKept); err != nil {
			return nil, err
		}
	}
	turn, values, err := r.once.Take(ctx, "call", name+"/answer/"+hex.EncodeToString(digest))
	if err != nil {
		return nil, err
	}
	again := &Repeatable{ExternalID: c.ExternalID, turn: turn}
	if turn == nil {
		again.Answer, err = store.DecodeAnswer(values[0])
	}
	return again, err
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
		return r.Failed(ctx)
	}
	value, err := a.Encode()
	if err != nil {
		return errors.Join(err, r.Failed(ctx))
	}
	done, err := r.turn.Finish(ctx, RepeatsKept, value)
	if err == nil && !done {
		err = fmt.Errorf("%w: another sidecar has taken over meanwhile", store.ErrStore)
	}
	return err
}

// Failed says that there is no answer: the next one with the same key is sent.
func (r *Repeatable) Failed(ctx context.Context) error { return r.turn.Release(ctx) }
