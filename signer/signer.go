// Package signer makes a merchant's calls to DOKU acceptable to DOKU: it loads
// keys, signs, makes external ids, and obtains the B2B token.
//
// It is a plain library: it knows nothing of Caddy, reads no environment and no
// global clock. A call is signed like this:
//
//	body, hazards, err := snap.AppendCanonical(nil, jsonFromTheApp)
//	token, err := tokens.Token(ctx)
//	timestamp := snap.Timestamp(now)
//	signature := signer.Symmetric(secret, signer.Call{
//		Method: "POST", Target: target, Token: token.Value,
//		Digest: snap.Digest(body), Timestamp: timestamp,
//	})
//
// and body must be sent as it is: the bytes signed are the bytes sent.
package signer

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"github.com/caddy-doku/caddy-doku/snap"
)

// Call is what the symmetric signature covers.
type Call struct {
	Method    string            // HTTP method in upper case, as sent
	Target    string            // path with query, as on the request line
	Token     string            // B2B token, without "Bearer "
	Digest    [sha256.Size]byte // of the body as sent; see [snap.Digest]
	Timestamp string            // X-TIMESTAMP as sent
}

// Symmetric returns the X-SIGNATURE of a call other than a token request:
// base64 of HMAC-SHA512 over the string to sign (DOKU, "Symmetric Signature").
// It is safe for concurrent use.
func Symmetric(secret *snap.Secret, c Call) string {
	var room [1024]byte // the longest part is the token; a longer one moves this to the heap
	return secret.Signature(snap.AppendStringToSign(room[:0], c.Method, c.Target, c.Token, c.Digest, c.Timestamp))
}

// Asymmetric returns the X-SIGNATURE of a token request: base64 of
// RSASSA-PKCS1-v1_5 with SHA-256 over client id, "|" and X-TIMESTAMP (DOKU,
// "Asymmetric Signature"). It is safe for concurrent use.
func Asymmetric(key *rsa.PrivateKey, clientID, timestamp string) (string, error) {
	digest := sha256.Sum256([]byte(snap.TokenStringToSign(clientID, timestamp)))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		return "", fmt.Errorf("signing token request: %w", err)
	}
	return base64.StdEncoding.EncodeToString(signature), nil
}
