package snap

import (
	"crypto/hmac"
	"crypto/sha512"
	"encoding/base64"
	"hash"
	"log/slog"
	"sync"
)

// SignatureSize is the length in bytes of a symmetric signature before
// encoding; in base64 it is 88 characters.
const SignatureSize = sha512.Size

// Secret is a DOKU secret key, the shared key of the symmetric signature. It
// prints, logs and encodes as "[redacted]". It is safe for concurrent use.
type Secret struct {
	macs sync.Pool // of hash.Hash: keying HMAC-SHA512 anew costs as much as signing
	key  []byte
}

// NewSecret returns the secret whose bytes are key, as the dashboard shows it,
// with any "SK-" in front. It keeps a copy of key.
func NewSecret(key []byte) *Secret {
	s := &Secret{key: append([]byte(nil), key...)}
	s.macs.New = func() any { return hmac.New(sha512.New, s.key) }
	return s
}

// MAC returns HMAC-SHA512 of message under s: the symmetric signature before
// its base64 encoding.
func (s *Secret) MAC(message []byte) (mac [SignatureSize]byte) {
	h := s.macs.Get().(hash.Hash)
	h.Reset()
	h.Write(message)
	h.Sum(mac[:0])
	s.macs.Put(h)
	return mac
}

// Signature returns the X-SIGNATURE of the string to sign, message: [Secret.MAC]
// in standard base64 with padding.
func (s *Secret) Signature(message []byte) string {
	mac := s.MAC(message)
	return base64.StdEncoding.EncodeToString(mac[:])
}

// Bytes returns the key itself, to derive other keys from. The caller must not
// change it or let it out.
func (s *Secret) Bytes() []byte { return s.key }

const redacted = "[redacted]"

// String returns "[redacted]".
func (s *Secret) String() string { return redacted }

// GoString returns "[redacted]".
func (s *Secret) GoString() string { return redacted }

// LogValue returns "[redacted]".
func (s *Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns "[redacted]".
func (s *Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
