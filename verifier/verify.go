package verifier

import (
	"bytes"
	"crypto"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-doku/caddy-doku/snap"
)

// TokenMode says which bearer token a call must have.
type TokenMode string

// The modes.
const (
	TokenIssued TokenMode = "issued" // one that the [Issuer] gave to DOKU for this account
	TokenAny    TokenMode = "any"    // any or none; its place in the string to sign is empty if there is none
	TokenNone   TokenMode = "none"   // none; its place in the string to sign is empty
)

// SignatureForm is a way in which calls are signed.
type SignatureForm string

// The forms.
const (
	// Symmetric is HMAC-SHA512 (DOKU, "Symmetric Signature").
	Symmetric SignatureForm = "symmetric"

	// Asymmetric is SHA256withRSA, by which DOKU signed in the past (DOKU,
	// "Asymmetric Signature"; see [snap.AppendAsymmetricStringToSign]). It covers
	// neither a token, so that the verifier ignores one, nor a merchant, though DOKU may
	// use one key for all of them. So the body must name a partner service id of the
	// account.
	Asymmetric SignatureForm = "asymmetric"
)

// BodyForm is the form of the body under which a signature matched.
type BodyForm string

// The forms that are tried, in this order.
const (
	BodyAsReceived BodyForm = "received"
	BodyMinified   BodyForm = "minified"
	BodyCanonical  BodyForm = "canonical"
)

// Config says which calls a [Verifier] accepts.
type Config struct {
	PartnerID string // the value that X-PARTNER-ID must have; required

	// Signatures are the accepted forms. Default: Symmetric.
	Signatures []SignatureForm

	// Secrets are the account's, for the symmetric form: one must match. There are several
	// during a change of secrets.
	Secrets []*snap.Secret

	// Token says which bearer token a call must have, for the symmetric form. Default:
	// TokenIssued, which needs Tokens.
	Token  TokenMode
	Tokens *Issuer

	// Keys are DOKU's, and PartnerServices the account's partner service ids without white
	// space, for the asymmetric form: one of each must match.
	Keys            []*rsa.PublicKey
	PartnerServices []string

	Window Window // default: [DefaultWindow]
}

// Verifier checks DOKU's inquiries and notifications. It is safe for concurrent use.
type Verifier struct{ cfg Config }

// ErrConfig is the error of a configuration that would accept no call, or forged ones.
var ErrConfig = errors.New("verifier: the configuration is not complete")

// New returns a verifier. The error is [ErrConfig] if a setting is unknown, or missing for
// one of the accepted forms, or if a secret is empty. It derives nothing, so that a
// verifier for each request is cheap.
func New(cfg Config) (*Verifier, error) {
	if cfg.Token == "" {
		cfg.Token = TokenIssued
	}
	if len(cfg.Signatures) == 0 {
		cfg.Signatures = []SignatureForm{Symmetric}
	}
	if cfg.PartnerID == "" {
		return nil, fmt.Errorf("%w: expected a partner id", ErrConfig)
	}
	for _, form := range cfg.Signatures {
		switch {
		case form == Symmetric && !usable(cfg.Secrets):
			return nil, fmt.Errorf("%w: symmetric signatures need a secret", ErrConfig)
		case form == Symmetric && cfg.Token == TokenIssued && (cfg.Tokens == nil || len(cfg.Tokens.keys) == 0):
			return nil, fmt.Errorf("%w: the token mode %q needs the issuer of the tokens", ErrConfig, TokenIssued)
		case form == Asymmetric && (len(cfg.Keys) == 0 || slices.Contains(cfg.Keys, nil)):
			return nil, fmt.Errorf("%w: asymmetric signatures need a public key of DOKU", ErrConfig)
		case form == Asymmetric && len(cfg.PartnerServices) == 0:
			return nil, fmt.Errorf("%w: asymmetric signatures need a partner service id: DOKU may sign for all merchants with one key", ErrConfig)
		case form != Symmetric && form != Asymmetric:
			return nil, fmt.Errorf("%w: expected the signature form %q or %q, found %q", ErrConfig, Symmetric, Asymmetric, form)
		}
	}
	switch cfg.Token {
	case TokenIssued, TokenAny, TokenNone:
	default:
		return nil, fmt.Errorf("%w: expected the token mode %q, %q or %q, found %q", ErrConfig, TokenIssued, TokenAny, TokenNone, cfg.Token)
	}
	if err := cfg.Window.valid(); err != nil {
		return nil, err
	}
	return &Verifier{cfg}, nil
}

// usable reports whether there are secrets, and none is empty: everybody can sign with
// an empty one.
func usable(secrets []*snap.Secret) bool {
	empty := func(secret *snap.Secret) bool { return secret == nil || len(secret.Bytes()) == 0 }
	return len(secrets) > 0 && !slices.ContainsFunc(secrets, empty)
}

// Verify checks a whole call at the instant now. method and target are those that DOKU
// has called, before any rewrite; target is the path with its query. The body must be
// JSON. The error is a [*Refusal]. To read the body only if the headers are right, use
// [Verifier.Head].
func (v *Verifier) Verify(method, target string, h http.Header, body []byte, now time.Time) (Verified, error) {
	head, err := v.Head(method, target, h, now)
	if err != nil {
		return Verified{}, err
	}
	return head.Verify(body, nil)
}

// Head is a call whose headers are checked, and whose body is not.
type Head struct {
	PartnerID  string
	ExternalID string
	Timestamp  time.Time
	Age        time.Duration // by which the timestamp is behind the clock

	verifier  *Verifier
	method    string
	target    string
	token     string
	timestamp string
	form      SignatureForm
	signature []byte
}

// Verified is a call that comes from DOKU.
type Verified struct {
	ExternalID string
	Timestamp  time.Time

	Signature SignatureForm // which matched
	BodyForm  BodyForm      // for which it matched

	// Digest identifies the body whatever its white space and escapes: it is the SHA-256
	// of the canonical form.
	Digest [sha256.Size]byte

	// Canonical is the body in canonical form; see [snap.AppendCanonical].
	Canonical []byte
}

// Head checks everything but the body at the instant now: the headers, then the time,
// then the token. So a stranger is refused before its body is read. target is path
// and query as DOKU called them, before any rewrite. The error is a [*Refusal]; the head
// has the fields found until then all the same.
func (v *Verifier) Head(method, target string, h http.Header, now time.Time) (head Head, err error) {
	head = Head{verifier: v, method: method, target: target}
	sent, err := head.read(h)
	if err != nil {
		return head, err
	}
	if head.form, err = v.formOf(sent); err != nil {
		return head, err
	}
	if head.token, err = v.bearer(head.form, h); err != nil {
		return head, err
	}
	if head.Timestamp, err = v.cfg.Window.check(head.timestamp, now); !head.Timestamp.IsZero() {
		head.Age = now.Sub(head.Timestamp)
	}
	if err != nil {
		return head, err
	}
	if err := v.known(&head); err != nil {
		return head, err
	}
	head.signature, err = v.decode(head.form, sent)
	return head, err
}

// known checks partner id and token. A stranger gets the same answer whether it knows a
// partner id or not: that of a wrong token, or of a wrong signature where no token has to
// be ours.
func (v *Verifier) known(head *Head) error {
	known := subtle.ConstantTimeCompare([]byte(head.PartnerID), []byte(v.cfg.PartnerID)) == 1
	outside := snap.Unauthorized
	if head.form == Symmetric && v.issued() {
		switch err := v.cfg.Tokens.Check(head.token); {
		case err == nil:
			outside = snap.UnknownClient
		case known:
			return err
		default:
			outside = snap.InvalidToken
		}
	}
	if !known {
		return refuse(outside, "%w: X-PARTNER-ID is %.40q", ErrClientUnknown, head.PartnerID)
	}
	return nil
}

// read reads the headers that every call must have once, and returns the signature.
func (h *Head) read(headers http.Header) (sent string, err error) {
	if h.timestamp, err = header(headers, snap.HeaderTimestamp); err != nil {
		return "", err
	}
	if sent, err = header(headers, snap.HeaderSignature); err != nil {
		return "", err
	}
	if h.PartnerID, err = header(headers, snap.HeaderPartnerID); err != nil {
		return "", err
	}
	h.ExternalID, err = externalID(headers)
	return sent, err
}

// formOf returns the form of a signature. If both are accepted, its length tells.
func (v *Verifier) formOf(sent string) (SignatureForm, error) {
	if !slices.Contains(v.cfg.Signatures, Asymmetric) {
		return Symmetric, nil
	}
	if !slices.Contains(v.cfg.Signatures, Symmetric) {
		return Asymmetric, nil
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(sent)
	if err != nil {
		return "", refuse(snap.Unauthorized, "%w: expected standard base64, found %d characters", ErrSignatureFormat, len(sent))
	}
	if len(raw) == snap.SignatureSize {
		return Symmetric, nil
	}
	return Asymmetric, nil
}

// decode returns the bytes of a signature.
func (v *Verifier) decode(form SignatureForm, sent string) ([]byte, error) {
	if form == Symmetric {
		return signature(sent, snap.SignatureSize)
	}
	var err error
	for _, key := range v.cfg.Keys {
		var raw []byte
		if raw, err = signature(sent, key.Size()); err == nil {
			return raw, nil
		}
	}
	return nil, err
}

// Verify checks the signature with the body, and then that the body is JSON; otherwise
// the error is [ErrBodyFormat]. memory is empty, with spare capacity for
// [Verified.Canonical] to use; it may be nil. Every error is a [*Refusal].
func (h *Head) Verify(body, memory []byte) (Verified, error) {
	if h.signature == nil {
		return Verified{}, refuse(snap.Unauthorized, "%w: its headers were not checked, or not accepted", ErrSignature)
	}
	canonical, _, invalid := snap.AppendCanonical(memory, body)
	result := Verified{ExternalID: h.ExternalID, Timestamp: h.Timestamp, Signature: h.form, Canonical: canonical}
	if !h.match(&result, body, invalid == nil) {
		return Verified{}, refuse(snap.Unauthorized,
			"%w: %s, for %.20s %.200q, body of %d bytes, at %s; is %s the one of this environment, and does anything in front of the sidecar change path or body?",
			ErrSignature, h.form, h.method, h.target, len(body), h.timestamp,
			map[SignatureForm]string{Symmetric: "secret_key", Asymmetric: "doku_public_key"}[h.form])
	}
	if invalid != nil {
		return Verified{}, refuse(snap.BadRequest, "%w: %w", ErrBodyFormat, invalid)
	}
	if h.form == Asymmetric {
		if err := h.verifier.own(canonical); err != nil {
			return Verified{}, err
		}
	}
	return result, nil
}

// own returns nil if a canonical body names a partner service id of the account's.
func (v *Verifier) own(body []byte) error {
	id := strings.TrimSpace(snap.StringField(body, "partnerServiceId"))
	switch {
	case id == "":
		return refuse(snap.Unauthorized, "%w: the body names none, so that an asymmetric signature may be for any merchant", ErrPartnerService)
	case !slices.Contains(v.cfg.PartnerServices, id):
		return refuse(snap.Unauthorized, "%w: %.40q; if it is yours, add it to partner_service_id", ErrPartnerService, id)
	}
	return nil
}

// match looks for the form of the body under which the signature is right, and
// completes result.
func (h *Head) match(result *Verified, body []byte, isJSON bool) bool {
	isCanonical := isJSON && bytes.Equal(result.Canonical, body)
	received := snap.Digest(body)
	result.Digest = received
	if isJSON && !isCanonical {
		result.Digest = snap.Digest(result.Canonical)
	}
	if result.BodyForm = BodyAsReceived; h.signed(received) {
		return true
	}
	if !isJSON || isCanonical {
		return false
	}
	result.BodyForm = BodyMinified
	if minified, err := snap.AppendMinified(nil, body); err == nil && h.signed(snap.Digest(minified)) {
		return true
	}
	result.BodyForm = BodyCanonical
	return h.signed(result.Digest)
}

// signed reports whether the signature is right for a body with this digest.
func (h *Head) signed(digest [sha256.Size]byte) bool {
	var room [1024]byte
	if h.form == Symmetric {
		message := snap.AppendStringToSign(room[:0], h.method, h.target, h.token, digest, h.timestamp)
		return slices.ContainsFunc(h.verifier.cfg.Secrets, func(secret *snap.Secret) bool {
			expected := secret.MAC(message)
			return hmac.Equal(expected[:], h.signature)
		})
	}
	sum := sha256.Sum256(snap.AppendAsymmetricStringToSign(room[:0], h.method, h.target, digest, h.timestamp))
	return slices.ContainsFunc(h.verifier.cfg.Keys, func(key *rsa.PublicKey) bool {
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], h.signature) == nil
	})
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
		return "", refuse(snap.InvalidFieldFormat.With(snap.HeaderExternalID),
			"%w: X-EXTERNAL-ID: expected at most %d visible ASCII characters, found %d bytes", ErrHeaderFormat, externalIDLongest, len(id))
	}
	return id, nil
}

// issued reports whether tokens must be those that we have given.
func (v *Verifier) issued() bool { return v.cfg.Token == TokenIssued }

// bearer returns the token that is in the string to sign.
func (v *Verifier) bearer(form SignatureForm, h http.Header) (string, error) {
	switch {
	case form == Asymmetric, v.cfg.Token == TokenNone:
		return "", nil
	case v.cfg.Token == TokenAny && len(snap.HeaderValues(h, snap.HeaderAuthorization)) == 0:
		return "", nil
	}
	return bearer(h)
}

// bearer returns the token in Authorization. The scheme's case does not matter.
func bearer(h http.Header) (string, error) {
	values := snap.HeaderValues(h, snap.HeaderAuthorization)
	if len(values) > 1 {
		return "", refuse(snap.InvalidFieldFormat.With(snap.HeaderAuthorization), "%w: Authorization, %d times", ErrHeaderRepeated, len(values))
	}
	if len(values) == 0 {
		return "", refuse(snap.InvalidToken, "%w: no Authorization header; is the token URL set in DOKU's dashboard?", ErrTokenMissing)
	}
	scheme, token, found := strings.Cut(values[0], " ")
	token = strings.TrimLeft(token, " ") // RFC 9110 §11.4: 1*SP
	if !found || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", refuse(snap.InvalidToken, "%w: expected Authorization: Bearer and a token", ErrTokenMissing)
	}
	if len(token) > headerLongest {
		return "", refuse(snap.InvalidToken, "%w: %d characters", ErrTokenInvalid, len(token))
	}
	return token, nil
}
