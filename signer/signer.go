// Package signer signs a merchant's calls to DOKU: calls with a B2B token by
// [Signer.Sign], and requests for that token by [SignTokenRequest]. It also loads keys
// and makes external ids.
//
// It is a plain library: it knows nothing of Caddy, reads no environment and no clock,
// and sends nothing. The bytes signed must be the bytes sent: make the body canonical
// first (see [snap.AppendCanonical]), and then do not touch it.
package signer

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-doku/caddy-doku/snap"
)

// ErrIncomplete is the error of a signer or a request without a required field.
var ErrIncomplete = errors.New("a required field is empty")

// Signer signs the calls of one merchant. It is safe for concurrent use.
type Signer struct {
	clientID string
	secret   *snap.Secret
}

// New returns a signer for a client id, such as "BRN-0211-1696919651918", and the
// secret key that belongs to it. Both are required; see [ErrIncomplete].
func New(clientID string, secret *snap.Secret) (*Signer, error) {
	if clientID == "" || secret == nil || len(secret.Bytes()) == 0 {
		return nil, fmt.Errorf("signer: %w: expected a client id and a secret", ErrIncomplete)
	}
	return &Signer{clientID, secret}, nil
}

// Request is a call to sign. All fields but Digest are required.
type Request struct {
	Method     string            // HTTP method in upper case, as sent
	Target     string            // path with query, as on the request line; see [snap.RequestTarget]
	Digest     [sha256.Size]byte // of the body as sent; see [snap.Digest]. Without a body: of nothing
	Token      string            // the B2B token, without "Bearer "
	Time       time.Time         // for X-TIMESTAMP
	ExternalID string            // see [ExternalID]
	ChannelID  string            // such as "H2H"
}

// Sign sets the six SNAP headers of a call: X-TIMESTAMP, X-PARTNER-ID, X-EXTERNAL-ID,
// CHANNEL-ID, Authorization, and X-SIGNATURE, which is base64 of HMAC-SHA512 over the
// string to sign (DOKU, "Symmetric Signature"). Sign each attempt anew: DOKU refuses an
// old time. The error is [ErrIncomplete]; then h is unchanged.
func (s *Signer) Sign(h http.Header, r Request) error {
	if s.secret == nil {
		return fmt.Errorf("signing a request: %w: the signer has no secret; make it with New", ErrIncomplete)
	}
	if r.Method == "" || r.Target == "" || r.Token == "" || r.Time.IsZero() || r.ExternalID == "" || r.ChannelID == "" {
		return fmt.Errorf("signing a request: %w: expected method, target, token, time, external id and channel id", ErrIncomplete)
	}
	timestamp := snap.Timestamp(r.Time)
	var room [1024]byte // the longest part is the token; a longer one moves this to the heap
	message := snap.AppendStringToSign(room[:0], r.Method, r.Target, r.Token, r.Digest, timestamp)
	values := [...]string{ // one allocation for all
		timestamp, s.clientID, r.ExternalID, r.ChannelID, "Bearer " + r.Token, s.secret.Signature(message),
	}
	for i, name := range [len(values)]string{
		snap.HeaderTimestamp, snap.HeaderPartnerID, snap.HeaderExternalID, snap.HeaderChannelID, snap.HeaderAuthorization, snap.HeaderSignature,
	} {
		h[snap.HeaderKey(name)] = values[i : i+1 : i+1]
	}
	return nil
}

// SignTokenRequest sets the headers of a request for a B2B token: X-CLIENT-KEY,
// X-TIMESTAMP, and X-SIGNATURE, which is base64 of RSASSA-PKCS1-v1_5 with SHA-256 over
// client id, "|" and X-TIMESTAMP (DOKU, "Asymmetric Signature"). The body is not signed.
// It is safe for concurrent use.
func SignTokenRequest(h http.Header, key *rsa.PrivateKey, clientID string, t time.Time) error {
	if key == nil || clientID == "" || t.IsZero() {
		return fmt.Errorf("signing a token request: %w: expected a private key, a client id and a time", ErrIncomplete)
	}
	timestamp := snap.Timestamp(t)
	digest := sha256.Sum256([]byte(snap.TokenStringToSign(clientID, timestamp)))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		return fmt.Errorf("signing a token request: %w", err)
	}
	h.Set(snap.HeaderClientKey, clientID)
	h.Set(snap.HeaderTimestamp, timestamp)
	h.Set(snap.HeaderSignature, base64.StdEncoding.EncodeToString(signature))
	return nil
}

// TokenRejected reports whether an answer from DOKU says that the B2B token is invalid: by
// a response code 401xx01 or 401xx03, with any HTTP status but 5xx. DOKU has then done
// nothing: fetch another token, sign again, and send once more. DOKU's own libraries, and
// other banks' SNAP, say so within a 200. A body that is compressed, or begins with a byte
// order mark, goes through [snap.PlainJSON] first.
func TokenRejected(status int, body []byte) bool {
	if status >= http.StatusInternalServerError || !bytes.Contains(body, []byte("401")) {
		return false
	}
	status, number, ok := snap.ResponseCode(strings.TrimSpace(string(snap.CodeOf(body)))).Case()
	return ok && status == http.StatusUnauthorized && (number == 1 || number == 3)
}
