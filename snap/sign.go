package snap

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
)

// The headers of a SNAP call, spelled as the standard spells them. HTTP
// compares header names without regard to case.
const (
	HeaderTimestamp     = "X-TIMESTAMP"
	HeaderSignature     = "X-SIGNATURE"
	HeaderPartnerID     = "X-PARTNER-ID"
	HeaderExternalID    = "X-EXTERNAL-ID"
	HeaderChannelID     = "CHANNEL-ID"
	HeaderClientKey     = "X-CLIENT-KEY"
	HeaderAuthorization = "Authorization"
)

// HeaderKey returns the key of a header in an [http.Header]. For the names above it
// allocates nothing, unlike [http.CanonicalHeaderKey].
func HeaderKey(name string) string {
	switch name {
	case HeaderTimestamp:
		return "X-Timestamp"
	case HeaderSignature:
		return "X-Signature"
	case HeaderPartnerID:
		return "X-Partner-Id"
	case HeaderExternalID:
		return "X-External-Id"
	case HeaderChannelID:
		return "Channel-Id"
	case HeaderClientKey:
		return "X-Client-Key"
	}
	return http.CanonicalHeaderKey(name)
}

// HeaderValues returns the values of the header with this name in h. The caller must not
// change them.
func HeaderValues(h http.Header, name string) []string { return h[HeaderKey(name)] }

// Digest returns the SHA-256 of body, which enters the string to sign in
// lower-case hexadecimal. It hashes body as it is: minify or canonicalize it
// first. An absent body is the empty string.
func Digest(body []byte) [sha256.Size]byte {
	return sha256.Sum256(body)
}

// AppendStringToSign appends the string to sign of the symmetric signature
// and returns the extended slice (DOKU, "Symmetric Signature"):
//
//	method ":" target ":" token ":" lower(hex(digest)) ":" timestamp
//
// method is the HTTP method in upper case; target the path with its query, as
// on the request line, without scheme and host; token the B2B token without
// "Bearer "; timestamp the X-TIMESTAMP header to the byte.
func AppendStringToSign(dst []byte, method, target, token string, digest [sha256.Size]byte, timestamp string) []byte {
	dst = append(dst, method...)
	dst = append(dst, ':')
	dst = append(dst, target...)
	dst = append(dst, ':')
	dst = append(dst, token...)
	dst = append(dst, ':')
	dst = hex.AppendEncode(dst, digest[:])
	dst = append(dst, ':')
	return append(dst, timestamp...)
}

// AppendAsymmetricStringToSign appends the string to sign of an asymmetric signature, but
// that of a token request, and returns the extended slice (DOKU, "Asymmetric Signature").
// It is the text of [AppendStringToSign] without the token:
//
//	method ":" target ":" lower(hex(digest)) ":" timestamp
//
// A notification sample of 2023 in DOKU's former documents is signed this way.
func AppendAsymmetricStringToSign(dst []byte, method, target string, digest [sha256.Size]byte, timestamp string) []byte {
	dst = append(dst, method...)
	dst = append(dst, ':')
	dst = append(dst, target...)
	dst = append(dst, ':')
	dst = hex.AppendEncode(dst, digest[:])
	dst = append(dst, ':')
	return append(dst, timestamp...)
}

// TokenStringToSign returns the string to sign of a token request, which is
// signed asymmetrically (DOKU, "Asymmetric Signature"): the client id and
// X-TIMESTAMP with a "|" between them. The body of a token request is not signed.
func TokenStringToSign(clientID, timestamp string) string {
	return clientID + "|" + timestamp
}
