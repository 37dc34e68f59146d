package store

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

const sealKeyInfo = "caddy-doku store v1"

// Scoped is the part of a [Store] that belongs to one account. Its keys are separate
// from the keys of other accounts. Its values are sealed by AES-256-GCM with a key
// derived from the account's secret: a person with access to the store cannot read a
// value, forge one, or move one to another key. It is safe for concurrent use.
type Scoped struct {
	store   Store
	account string
	prefix  string
	seals   atomic.Pointer[[]cipher.AEAD] // nil: values are not sealed
}

// Scope returns the part of s that belongs to account. All sidecars that share s must
// use the same name for the same account. Values are not sealed until
// [Scoped.SetSecrets] is called; without it, use a store that only this process reads.
func Scope(s Store, account string) *Scoped {
	return &Scoped{store: s, account: account, prefix: "{" + account + "}:"}
}

// Name returns the name of the account, as it is part of all keys.
func (s *Scoped) Name() string { return s.account }

// SetSecrets sets the secrets that seal and open values. The first one seals, all of
// them open, so that a change of secrets loses no value.
func (s *Scoped) SetSecrets(secrets ...[]byte) error {
	if len(secrets) == 0 {
		return errors.New("deriving the store's key: expected a secret, found none")
	}
	seals := make([]cipher.AEAD, 0, len(secrets))
	for _, secret := range secrets {
		key, err := hkdf.Key(sha256.New, secret, []byte(s.account), sealKeyInfo, sha256.Size)
		if err != nil {
			return fmt.Errorf("deriving the store's key: %w", err)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return fmt.Errorf("deriving the store's key: %w", err)
		}
		seal, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return fmt.Errorf("deriving the store's key: %w", err)
		}
		seals = append(seals, seal)
	}
	s.seals.Store(&seals)
	return nil
}

var errSeal = errors.New("a value was not sealed with a secret of this account, or not for its key")

// Seal returns the sealed form of value for key, for packages that keep data without
// a [Store].
func (s *Scoped) Seal(key string, value []byte) []byte {
	seals := s.seals.Load()
	if seals == nil || len(value) == 0 {
		return value
	}
	return (*seals)[0].Seal(nil, nil, value, []byte(key)) //nolint:gosec // no nonce is given: it makes its own
}

// Open returns the value that [Scoped.Seal] sealed for key. The error wraps [ErrStore].
func (s *Scoped) Open(key string, value []byte) ([]byte, error) {
	seals := s.seals.Load()
	if seals == nil || value == nil {
		return value, nil
	}
	for _, seal := range *seals {
		if opened, err := seal.Open(nil, nil, value, []byte(key)); err == nil {
			return opened, nil
		}
	}
	return nil, fmt.Errorf("%w: %s: %w", ErrStore, key, errSeal)
}

// Get implements [Store].
func (s *Scoped) Get(ctx context.Context, key string) ([]byte, error) {
	key = s.prefix + key
	value, err := s.store.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	return s.Open(key, value)
}

// Set implements [Store].
func (s *Scoped) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	key = s.prefix + key
	return s.store.Set(ctx, key, s.Seal(key, value), ttl)
}

// Add implements [Store].
func (s *Scoped) Add(ctx context.Context, key string, value []byte, ttl time.Duration) ([]byte, error) {
	key = s.prefix + key
	earlier, err := s.store.Add(ctx, key, s.Seal(key, value), ttl)
	if err != nil {
		return nil, err
	}
	return s.Open(key, earlier)
}

// Claim implements [Store].
func (s *Scoped) Claim(ctx context.Context, owner string, lease time.Duration, keys ...string) (Claim, error) {
	keys = s.full(keys)
	c, err := s.store.Claim(ctx, owner, lease, keys...)
	if err != nil {
		return Claim{}, err
	}
	for i, value := range c.Values {
		if c.Values[i], err = s.Open(keys[i], value); err != nil {
			return Claim{}, err
		}
	}
	return c, nil
}

// Commit implements [Store].
func (s *Scoped) Commit(ctx context.Context, owner string, ttl time.Duration, entries ...Entry) (bool, error) {
	sealed := make([]Entry, len(entries))
	for i, e := range entries {
		key := s.prefix + e.Key
		sealed[i] = Entry{key, s.Seal(key, e.Value)}
	}
	return s.store.Commit(ctx, owner, ttl, sealed...)
}

// Release implements [Store].
func (s *Scoped) Release(ctx context.Context, owner string, keys ...string) error {
	return s.store.Release(ctx, owner, s.full(keys)...)
}

// checkTTL is the time to live of the value that [Scoped.Check] writes.
const checkTTL = 10 * time.Second

// Check returns nil if the store can keep a value: it writes one that lives for 10 s.
// A store that can only be read, such as a replica or a full server, fails the check.
func (s *Scoped) Check(ctx context.Context) error {
	return s.Set(ctx, "check", []byte{1}, checkTTL)
}

// full returns keys with the prefix of the account.
func (s *Scoped) full(keys []string) []string {
	all := make([]string, len(keys))
	for i, key := range keys {
		all[i] = s.prefix + key
	}
	return all
}

var _ Store = (*Scoped)(nil)
