package verifier

import (
	"crypto"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/caddy-doku/caddy-doku/snap"
)

// TokenRequest checks DOKU's requests for a token (service 73): X-SIGNATURE is
// RSASSA-PKCS1-v1_5 with SHA-256 over X-CLIENT-KEY, "|" and X-TIMESTAMP (DOKU,
// "Asymmetric Signature"). It is safe for concurrent use.
type TokenRequest struct {
	clientKey string
	keys      []*rsa.PublicKey
	window    Window
}

// NewTokenRequest returns a check of token requests. X-CLIENT-KEY must be clientKey:
// the client id, unless DOKU was given another. keys are DOKU's; one must match,
// several during a change of keys. A zero window is [DefaultWindow]. The error is
// [ErrConfig].
func NewTokenRequest(clientKey string, keys []*rsa.PublicKey, window Window) (*TokenRequest, error) {
	if clientKey == "" || len(keys) == 0 || slices.Contains(keys, nil) {
		return nil, fmt.Errorf("%w: token requests need a client key and a public key of DOKU", ErrConfig)
	}
	if err := window.valid(); err != nil {
		return nil, err
	}
	return &TokenRequest{clientKey, keys, window}, nil
}

// Verify checks a request's headers and body at the instant now. The error is
// a [*Refusal].
func (t *TokenRequest) Verify(h http.Header, body []byte, now time.Time) error {
	head, err := t.Head(h, now)
	if err != nil {
		return err
	}
	_, err = head.Grant(body)
	return err
}

// TokenHead is the head of a token request that DOKU has signed.
type TokenHead struct{ grant Grant }

// Grant is a token request that DOKU has signed.
type Grant struct {
	signed string    // the string to sign
	at     time.Time // X-TIMESTAMP
	until  time.Time // the last instant at which the same request is accepted
}

// Head checks a request's headers, and with them all that DOKU has signed, at the instant
// now. Call it before you read the body of a caller you do not know. The error is a
// [*Refusal].
func (t *TokenRequest) Head(h http.Header, now time.Time) (TokenHead, error) {
	clientKey, err := header(h, snap.HeaderClientKey)
	if err != nil {
		return TokenHead{}, err
	}
	timestamp, err := header(h, snap.HeaderTimestamp)
	if err != nil {
		return TokenHead{}, err
	}
	sent, err := header(h, snap.HeaderSignature)
	if err != nil {
		return TokenHead{}, err
	}
	at, err := t.window.check(timestamp, now)
	if err != nil {
		return TokenHead{}, err
	}
	signed := snap.TokenStringToSign(clientKey, timestamp)
	if err := t.signedByDOKU(clientKey, signed, sent); err != nil {
		return TokenHead{}, err
	}
	return TokenHead{Grant{signed, at, at.Add(t.window.orDefault().Past)}}, nil
}

// Grant checks the body, which is not signed, and returns what the token is made from; see
// [Issuer.IssueFor]. The error is a [*Refusal].
func (h TokenHead) Grant(body []byte) (Grant, error) { return h.grant, grantType(body) }

// signedByDOKU returns nil if a request is for this account, and DOKU has signed it. A
// stranger gets the same answer whether it knows a client key or not.
func (t *TokenRequest) signedByDOKU(clientKey, signed, sent string) error {
	err := t.checkSignature(signed, sent)
	if subtle.ConstantTimeCompare([]byte(clientKey), []byte(t.clientKey)) == 1 {
		return err
	}
	outside := snap.UnknownClient
	if err != nil {
		outside = snap.Unauthorized
	}
	return refuse(outside, "%w: X-CLIENT-KEY is %.40q", ErrClientUnknown, clientKey)
}

// checkSignature returns nil if DOKU has signed a string.
func (t *TokenRequest) checkSignature(signed, sent string) error {
	digest := sha256.Sum256([]byte(signed))
	var failed error = refuse(snap.Unauthorized, "%w: there is no key of DOKU to check it with", ErrSignature) // of the zero value
	for _, key := range t.keys {
		raw, err := signature(sent, key.Size())
		if err == nil {
			err = rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], raw)
			if err == nil {
				return nil
			}
			err = refuse(snap.Unauthorized, "%w: not DOKU's over %.200q; is doku_public_key the one of this environment?",
				ErrSignature, signed)
		}
		failed = err
	}
	return failed
}

// grantType checks the body of a token request, which is not signed.
func grantType(body []byte) error {
	var fields struct {
		GrantType *string `json:"grantType"`
	}
	if err := json.Unmarshal(body, &fields); err != nil {
		return refuse(snap.InvalidFieldFormat.With("body"), "%w: %w", ErrBodyFormat, err)
	}
	if fields.GrantType == nil || *fields.GrantType == "" {
		return refuse(snap.InvalidMandatory.With("grantType"), "%w", ErrGrantTypeMissing)
	}
	if *fields.GrantType != "client_credentials" {
		return refuse(snap.InvalidFieldFormat.With("grantType"), "%w: %.40q", ErrGrantType, *fields.GrantType)
	}
	return nil
}

// TokenLife is for how long an [Issuer] promises that a token is good, as long as DOKU's
// own.
const TokenLife = 900 * time.Second

const (
	tokenIssuer  = "caddy-doku"
	tokenPurpose = "doku-inbound"                // the audience: what the token is for
	tokenKeyInfo = "caddy-doku inbound token v1" //nolint:gosec // a label, not a secret
	tokenLongest = 2048
)

// Issuer gives DOKU its tokens and recognizes them: JSON Web Tokens, signed by
// HMAC-SHA256 with a key derived from the account's secret. Every sidecar with
// the same secret recognizes them, without shared state. It is safe for
// concurrent use.
type Issuer struct {
	clientID string
	keys     [][]byte
	parser   *jwt.Parser
	now      func() time.Time

	// DOKU uses a token for many calls: the last one found good is not checked
	// from scratch again.
	last atomic.Pointer[goodToken]
}

// goodToken is a token that was found good, until it expires.
type goodToken struct {
	text    string
	expires time.Time
}

var errNoIssuer = fmt.Errorf("%w: the token issuer has no secret; make it with NewIssuer", ErrConfig)

// NewIssuer returns the issuer of the account clientID. The first of secrets
// signs new tokens, all of them recognize earlier ones. now is the clock. The error is
// [ErrConfig] if one of them is missing.
func NewIssuer(clientID string, secrets []*snap.Secret, now func() time.Time) (*Issuer, error) {
	if clientID == "" || !usable(secrets) || now == nil {
		return nil, fmt.Errorf("%w: a token issuer needs a client id, a secret and a clock", ErrConfig)
	}
	i := &Issuer{clientID: clientID, now: now}
	for _, secret := range secrets {
		// A key of its own keeps tokens and signatures from being taken for one another.
		key, err := hkdf.Key(sha256.New, secret.Bytes(), []byte(clientID), tokenKeyInfo, sha256.Size)
		if err != nil {
			return nil, fmt.Errorf("deriving token key: %w", err)
		}
		i.keys = append(i.keys, key)
	}
	i.parser = jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithIssuer(tokenIssuer),
		jwt.WithSubject(clientID), jwt.WithAudience(tokenPurpose), jwt.WithExpirationRequired(), jwt.WithStrictDecoding(), jwt.WithTimeFunc(now))
	return i, nil
}

// Issue returns a new token, good for [TokenLife].
func (i *Issuer) Issue() (string, error) {
	if i.now == nil {
		return "", errNoIssuer
	}
	now := i.now()
	return i.sign(rand.Text(), now, now.Add(TokenLife))
}

// IssueFor returns the token of a request: the same one whenever the request is made
// again, and in every sidecar with the same secret. So nobody gets a second token, or a
// longer life, from a request that was recorded. Whenever the request is accepted, its
// token is good for [TokenLife] from then on, and it expires that long after the last
// such instant.
func (i *Issuer) IssueFor(g Grant) (string, error) {
	if g.signed == "" {
		return "", fmt.Errorf("%w: a token needs a request that was checked", ErrConfig)
	}
	id := sha256.Sum256([]byte(g.signed))
	return i.sign(base64.RawURLEncoding.EncodeToString(id[:16]), g.at, g.until.Add(TokenLife+time.Second-1))
}

// sign returns a token.
func (i *Issuer) sign(id string, issued, expires time.Time) (string, error) {
	if len(i.keys) == 0 {
		return "", errNoIssuer
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{
		Issuer:    tokenIssuer,
		Subject:   i.clientID,
		Audience:  jwt.ClaimStrings{tokenPurpose},
		IssuedAt:  jwt.NewNumericDate(issued),
		ExpiresAt: jwt.NewNumericDate(expires),
		ID:        id,
	}).SignedString(i.keys[0])
	if err != nil {
		return "", fmt.Errorf("signing token: %w", err)
	}
	return token, nil
}

// Check returns nil if token is one that this account's sidecars have issued
// and that has not expired. The error is a [*Refusal].
func (i *Issuer) Check(token string) error {
	if len(token) > tokenLongest {
		return refuse(snap.InvalidToken, "%w: %d characters", ErrTokenInvalid, len(token))
	}
	if last := i.last.Load(); last != nil && i.now().Before(last.expires) &&
		subtle.ConstantTimeCompare([]byte(last.text), []byte(token)) == 1 {
		return nil
	}
	var failed error = refuse(snap.InvalidToken, "%w: there is no secret to check it with", ErrTokenInvalid)
	for _, key := range i.keys {
		claims := new(jwt.RegisteredClaims)
		_, err := i.parser.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return key, nil })
		switch {
		case err == nil:
			i.last.Store(&goodToken{strings.Clone(token), claims.ExpiresAt.Time})
			return nil
		case errors.Is(err, jwt.ErrTokenExpired):
			// The parser checks the signature first, so this token is ours.
			return refuse(snap.InvalidToken, "%w; DOKU has to ask for another", ErrTokenExpired)
		}
		failed = refuse(snap.InvalidToken, "%w: %w", ErrTokenInvalid, err)
	}
	return failed
}
