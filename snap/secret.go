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
	macs sync.Pool // of *mac: keying HMAC-SHA512 anew costs as much as signing
	key  []byte
}

// mac is a keyed HMAC-SHA512 with its buffers. They are pooled with it, because the
// arguments of a [hash.Hash] escape to the heap.
type mac struct {
	hash.Hash
	message []byte
	sum     [SignatureSize]byte
}

// messageKept is the capacity in bytes up to which a message buffer returns to the pool.
const messageKept = 8 << 10

// NewSecret returns the secret whose bytes are key, as the dashboard shows it,
// with any "SK-" in front. It keeps a copy of key.
func NewSecret(key []byte) *Secret {
	s := &Secret{key: append([]byte(nil), key...)}
	s.macs.New = func() any { return &mac{Hash: hmac.New(sha512.New, s.key)} }
	return s
}

// MAC returns HMAC-SHA512 of message under s: the symmetric signature before
// its base64 encoding.
func (s *Secret) MAC(message []byte) [SignatureSize]byte {
	m := s.macs.Get().(*mac)
	m.Reset()
	m.message = append(m.message[:0], message...)
	m.Write(m.message)
	m.Sum(m.sum[:0])
	sum := m.sum
	if cap(m.message) <= messageKept {
		s.macs.Put(m)
	}
	return sum
}

// Signature returns the X-SIGNATURE header for message, the string to sign: [Secret.MAC]
// in standard base64 with padding.
func (s *Secret) Signature(message []byte) string {
	sum := s.MAC(message)
	var text [(SignatureSize + 2) / 3 * 4]byte
	base64.StdEncoding.Encode(text[:], sum[:])
	return string(text[:])
}

// Bytes returns the key itself, to derive other keys from. The caller must not
// change or print it.
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
