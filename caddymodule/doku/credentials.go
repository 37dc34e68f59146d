package doku

import (
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"log/slog"
	"time"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/credential"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/signer"
	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/verifier"
)

// Credentials are the secrets and keys of an account. A reload replaces them as a
// whole.
type Credentials struct {
	secrets    []*snap.Secret // the first one signs
	privateKey *rsa.PrivateKey
	dokuKeys   []*rsa.PublicKey

	partnerID string   // of DOKU's calls
	services  []string // partner service ids
	signer    *signer.Signer
	issuer    *verifier.Issuer
	requests  *verifier.TokenRequest

	files map[string][sha256.Size]byte // what was read, by path

	use telemetry.SecretUse
}

// Use records what becomes of calls with the secret.
func (c *Credentials) Use() *telemetry.SecretUse { return &c.use }

// Signer returns the signer of calls to DOKU.
func (c *Credentials) Signer() *signer.Signer { return c.signer }

// PrivateKey returns the merchant's key.
func (c *Credentials) PrivateKey() *rsa.PrivateKey { return c.privateKey }

// TokenRequest returns the check of DOKU's token requests, or nil without a key of DOKU.
func (c *Credentials) TokenRequest() *verifier.TokenRequest { return c.requests }

// Issuer returns the issuer of DOKU's tokens.
func (c *Credentials) Issuer() *verifier.Issuer { return c.issuer }

// Verifier returns the check of DOKU's calls, with the settings of a handler. The error
// says which credential is missing for them.
func (c *Credentials) Verifier(token verifier.TokenMode, forms []verifier.SignatureForm) (*verifier.Verifier, error) {
	return verifier.New(verifier.Config{
		PartnerID: c.partnerID, Secrets: c.secrets, Keys: c.dokuKeys, Tokens: c.issuer, Token: token, Signatures: forms,
		PartnerServices: c.services,
	})
}

// Summary says which credentials are in use, without showing any.
type Summary struct {
	Merchant string   // fingerprint of the public half of the merchant's key
	DOKU     []string // fingerprints
	Secrets  int      // how many there are
}

// Summary returns the summary of the credentials.
func (c *Credentials) Summary() Summary {
	s := Summary{Merchant: signer.Fingerprint(&c.privateKey.PublicKey), DOKU: make([]string, len(c.dokuKeys)), Secrets: len(c.secrets)}
	for i, key := range c.dokuKeys {
		s.DOKU[i] = signer.Fingerprint(key)
	}
	return s
}

// secretBytes returns the secrets, from which the store derives its keys.
func (c *Credentials) secretBytes() [][]byte {
	all := make([][]byte, len(c.secrets))
	for i, secret := range c.secrets {
		all[i] = secret.Bytes()
	}
	return all
}

// load reads the account's credentials, and prepares them.
func (a *Account) load(log *slog.Logger) (*Credentials, error) {
	c, err := a.read(log)
	if err != nil {
		return nil, err
	}
	return a.prepare(c)
}

// read reads the account's credentials. It warns about oddities, and its error has all
// that is wrong.
func (a *Account) read(log *slog.Logger) (*Credentials, error) {
	l := credential.NewLoader(log.With("account", a.Name))
	c := &Credentials{files: l.Files, partnerID: a.partnerID, services: a.services}
	var wrong credential.Faults
	if len(a.SecretKeys) == 0 {
		wrong.Add(errors.New("secret_key is required; it is in DOKU's dashboard under Integration, API Keys"))
	}
	for _, value := range a.SecretKeys {
		secret, err := l.SecretKey(value, a.clientID)
		wrong.Add(err)
		c.secrets = append(c.secrets, snap.NewSecret([]byte(secret)))
	}
	var err error
	c.privateKey, err = l.PrivateKey(a.PrivateKey, a.Passphrase)
	wrong.Add(err)
	for _, value := range a.DOKUPublicKeys {
		key, err := l.PublicKey(value)
		if err == nil && c.privateKey != nil && key.Equal(c.privateKey.Public()) {
			err = errors.New("doku_public_key is the public half of the merchant's own private_key; expected DOKU's key from the dashboard")
		}
		wrong.Add(err)
		c.dokuKeys = append(c.dokuKeys, key)
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	return c, nil
}

// prepare makes what signs and verifies with the credentials. The account's ids are right.
func (a *Account) prepare(c *Credentials) (*Credentials, error) {
	var err error
	if c.signer, err = signer.New(a.clientID, c.secrets[0]); err != nil {
		return nil, err
	}
	if c.issuer, err = verifier.NewIssuer(a.clientID, c.secrets, time.Now); err != nil {
		return nil, err
	}
	if len(c.dokuKeys) > 0 {
		c.requests, err = verifier.NewTokenRequest(a.clientKey, c.dokuKeys, verifier.DefaultWindow)
	}
	return c, err
}

// currentFiles returns the digests that the files have now; zero for a file that
// cannot be read.
func (c *Credentials) currentFiles() map[string][sha256.Size]byte {
	files := make(map[string][sha256.Size]byte, len(c.files))
	for path := range c.files {
		files[path] = [sha256.Size]byte{}
		if content, err := credential.Read(path); err == nil {
			files[path] = sha256.Sum256(content)
		}
	}
	return files
}
