package verifier

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-doku/caddy-doku/snap"
)

// Call is an inquiry or notification as it arrived.
type Call struct {
	Method string
	Target string // path with query as DOKU called it, before any rewrite
	Header http.Header
	Body   []byte
	Memory []byte // empty, with spare capacity for [Verified.Canonical] to use; or nil
}

// BodyForm is the form of the body under which a signature matched.
type BodyForm string

// The forms that are tried, in this order.
const (
	BodyAsReceived BodyForm = "received"
	BodyMinified   BodyForm = "minified"
	BodyCanonical  BodyForm = "canonical"
)

// Verified is what a verified call has told of itself.
type Verified struct {
	PartnerID  string
	ExternalID string
	Timestamp  time.Time
	BodyForm   BodyForm

	// Digest identifies the body whatever its white space and escapes: the
	// SHA-256 of its canonical form, or of the body as it is if it has none.
	Digest [sha256.Size]byte

	// Valid is nil if the body is JSON, else what is wrong with it.
	Valid error

	// Canonical is the body in canonical form, if it is JSON.
	Canonical []byte
}

// Verifier checks DOKU's inquiries and notifications: HMAC-SHA512 over method,
// target, token, body hash and X-TIMESTAMP (DOKU, "Symmetric Signature"). It is
// safe for concurrent use.
type Verifier struct {
	PartnerID string         // what X-PARTNER-ID must be
	Secrets   []*snap.Secret // one must match. Several during a change of secrets.
	Tokens    *Issuer        // recognizes the bearer token
	Window    Window
}

// Verify checks a call at the instant now: headers, then time, then token,
// then signature. The error is a [*Refusal].
func (v *Verifier) Verify(c Call, now time.Time) (Verified, error) {
	var (
		result Verified
		err    error
	)
	timestamp, err := header(c.Header, snap.HeaderTimestamp)
	if err != nil {
		return Verified{}, err
	}
	sent, err := header(c.Header, snap.HeaderSignature)
	if err != nil {
		return Verified{}, err
	}
	if result.PartnerID, err = header(c.Header, snap.HeaderPartnerID); err != nil {
		return Verified{}, err
	}
	if result.ExternalID, err = externalID(c.Header); err != nil {
		return Verified{}, err
	}
	token, err := bearer(c.Header)
	if err != nil {
		return Verified{}, err
	}
	if result.Timestamp, err = v.Window.check(timestamp, now); err != nil {
		return Verified{}, err
	}
	if subtle.ConstantTimeCompare([]byte(result.PartnerID), []byte(v.PartnerID)) != 1 {
		return Verified{}, refuse(snap.UnknownClient, "%w: X-PARTNER-ID is %.40q", ErrClientUnknown, result.PartnerID)
	}
	if err := v.Tokens.Check(token); err != nil {
		return Verified{}, err
	}
	mac, err := signature(sent, snap.SignatureSize)
	if err != nil {
		return Verified{}, err
	}
	canonical, _, invalid := snap.AppendCanonical(c.Memory, c.Body)
	result.Valid, result.Canonical = invalid, canonical
	if !v.match(&result, c, token, timestamp, mac) {
		return Verified{}, refuse(snap.Unauthorized, "%w: for %s %s, body of %d bytes, at %s; is secret_key the one of this environment, and does anything in front of the sidecar change path or body?",
			ErrSignature, c.Method, c.Target, len(c.Body), timestamp)
	}
	return result, nil
}

// match looks for the form of the body and the secret under which the
// signature mac is right, and completes result.
func (v *Verifier) match(result *Verified, c Call, token, timestamp string, mac []byte) bool {
	var room [1024]byte
	try := func(form BodyForm, digest [sha256.Size]byte) bool {
		message := snap.AppendStringToSign(room[:0], c.Method, c.Target, token, digest, timestamp)
		for _, secret := range v.Secrets {
			expected := secret.MAC(message)
			if hmac.Equal(expected[:], mac) {
				result.BodyForm = form
				return true
			}
		}
		return false
	}
	isCanonical := result.Valid == nil && bytes.Equal(result.Canonical, c.Body)
	received := snap.Digest(c.Body)
	result.Digest = received
	if result.Valid == nil && !isCanonical {
		result.Digest = snap.Digest(result.Canonical)
	}
	if try(BodyAsReceived, received) {
		return true
	}
	if result.Valid != nil || isCanonical {
		return false
	}
	if minified, err := snap.AppendMinified(nil, c.Body); err == nil && try(BodyMinified, snap.Digest(minified)) {
		return true
	}
	return try(BodyCanonical, result.Digest)
}

const externalIDLongest = 128

// externalID returns X-EXTERNAL-ID. DOKU's are not always numeric and may be
// long, so any visible ASCII of at most 128 characters is taken.
func externalID(h http.Header) (string, error) {
	id, err := header(h, snap.HeaderExternalID)
	if err != nil {
		return "", err
	}
	visible := func(r rune) bool { return ' ' < r && r <= '~' }
	if len(id) > externalIDLongest || strings.IndexFunc(id, func(r rune) bool { return !visible(r) }) >= 0 {
		return "", refuse(snap.InvalidFieldFormat.With(snap.HeaderExternalID), "%w: X-EXTERNAL-ID: expected at most %d visible ASCII characters, found %d bytes",
			ErrHeaderFormat, externalIDLongest, len(id))
	}
	return id, nil
}

// bearer returns the token in Authorization. The scheme's case does not matter.
func bearer(h http.Header) (string, error) {
	values := h.Values(snap.HeaderAuthorization)
	if len(values) > 1 {
		return "", refuse(snap.InvalidFieldFormat.With(snap.HeaderAuthorization), "%w: Authorization, %d times", ErrHeaderRepeated, len(values))
	}
	if len(values) == 0 {
		return "", refuse(snap.InvalidToken, "%w: no Authorization header; is the token URL set in DOKU's dashboard?", ErrTokenMissing)
	}
	scheme, token, found := strings.Cut(values[0], " ")
	if !found || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", refuse(snap.InvalidToken, "%w: expected Authorization: Bearer and a token", ErrTokenMissing)
	}
	return token, nil
}
