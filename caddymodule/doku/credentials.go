package doku

import (
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"

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
}

// Signer returns the signer of calls to DOKU.
func (c *Credentials) Signer() *signer.Signer { return c.signer }

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

const (
	maxCredentialFile = 64 << 10 // bytes
	maxPath           = 512
	quotes            = `"'`
)

// loader reads an account's credentials.
type loader struct {
	repl  *caddy.Replacer
	log   *slog.Logger
	files map[string][sha256.Size]byte
}

// load reads the account's credentials. It warns about oddities.
func (a *Account) load(log *slog.Logger) (*Credentials, error) {
	l := &loader{repl: caddy.NewReplacer(), log: log.With("account", a.Name), files: make(map[string][sha256.Size]byte)}
	c := &Credentials{files: l.files, partnerID: a.partnerID, services: a.services}
	if len(a.SecretKeys) == 0 {
		return nil, errors.New("secret_key is required; it is in DOKU's dashboard under Integration, API Keys")
	}
	for _, value := range a.SecretKeys {
		secret, err := l.secret("secret_key", value)
		if err != nil {
			return nil, err
		}
		c.secrets = append(c.secrets, snap.NewSecret([]byte(secret)))
	}
	passphrase := ""
	if a.Passphrase != "" {
		var err error
		if passphrase, err = l.secret("passphrase", a.Passphrase); err != nil {
			return nil, err
		}
	}
	text, err := l.key("private_key", a.PrivateKey, true)
	if err != nil {
		return nil, err
	}
	if c.privateKey, err = signer.ParsePrivateKey(text, []byte(passphrase)); err != nil {
		return nil, fmt.Errorf("private_key: %w", err)
	}
	for _, value := range a.DOKUPublicKeys {
		if text, err = l.key("doku_public_key", value, false); err != nil {
			return nil, err
		}
		key, err := signer.ParsePublicKey(text)
		if err != nil {
			return nil, fmt.Errorf("doku_public_key: %w", err)
		}
		if key.Equal(c.privateKey.Public()) {
			return nil, errors.New("doku_public_key is the public half of the merchant's own private_key; expected DOKU's key from the dashboard")
		}
		c.dokuKeys = append(c.dokuKeys, key)
	}
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

// secret returns a secret that is given as itself, or as the path of its file. It
// removes white space that a paste or an editor puts around it.
func (l *loader) secret(name, value string) (string, error) {
	path, isFile := filePlaceholder(value)
	text := ""
	if !isFile {
		resolved, err := Resolve(l.repl, name, value)
		if err != nil {
			return "", err
		}
		if isFile = strings.HasPrefix(resolved, "/") || strings.HasPrefix(resolved, "./"); isFile {
			path = resolved
		}
		text = resolved
	}
	if isFile {
		content, err := l.read(name, value, path)
		if err != nil {
			return "", err
		}
		text = strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r") // an editor's line end is no mistake
	}
	trimmed := strings.TrimSpace(strings.TrimPrefix(text, "\ufeff"))
	if trimmed != text {
		l.log.Warn("white space or a byte order mark around a secret was removed", "setting", name)
	}
	if trimmed == "" {
		return "", fmt.Errorf("%s: expected a secret, found only white space", name)
	}
	if name == "secret_key" && strings.ContainsAny(trimmed[:1], quotes) {
		return "", fmt.Errorf("%s: it is in quotes, which DOKU's secret keys are not; take them away (an env file of Docker's keeps them)", name)
	}
	return trimmed, nil
}

// key returns a key that is given as itself or as the path of a file.
func (l *loader) key(name, value string, private bool) ([]byte, error) {
	path, isFile := filePlaceholder(value)
	if !isFile {
		resolved, err := Resolve(l.repl, name, value)
		if err != nil {
			return nil, err
		}
		if strings.Contains(resolved, "-----BEGIN") || len(resolved) > maxPath {
			return []byte(resolved), nil
		}
		path = resolved
	}
	text, err := l.read(name, value, path)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); private && err == nil && info.Mode().Perm()&0o004 != 0 {
		l.log.Warn("every user of this machine can read the private key; `chmod o-r` its file", "setting", name, "file", path)
	}
	return text, nil
}

// filePlaceholder returns the path in a value that is nothing but the placeholder
// {file.<path>}. Such a file is read here, so that it can be watched.
func filePlaceholder(value string) (string, bool) {
	path, begins := strings.CutPrefix(value, "{file.")
	path, ends := strings.CutSuffix(path, "}")
	return path, begins && ends && !strings.ContainsAny(path, "{}")
}

// read returns the content of a file. Errors name the setting's value as it was
// written: a key or secret that was taken for a path must not be repeated in a log.
func (l *loader) read(name, value, path string) ([]byte, error) {
	content, err := readSmall(path)
	if err != nil {
		return nil, fmt.Errorf("%s: reading the file that %q names: %w", name, value, err)
	}
	l.files[path] = sha256.Sum256(content)
	return content, nil
}

// readSmall returns the content of a regular file of at most 64 KiB.
func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path) // of what a link leads to
	if err != nil {
		return nil, withoutPath(err)
	}
	if err := regular(info); err != nil {
		return nil, err
	}
	// It may be something else by now: opening it must not wait.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, withoutPath(err)
	}
	defer func() { _ = f.Close() }() // read only: nothing is lost
	if info, err = f.Stat(); err != nil {
		return nil, withoutPath(err)
	}
	if err := regular(info); err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(f, maxCredentialFile+1))
	if err != nil {
		return nil, withoutPath(err)
	}
	if len(content) > maxCredentialFile {
		return nil, fmt.Errorf("expected at most %d bytes, found more", maxCredentialFile)
	}
	return content, nil
}

// regular returns an error if info is not that of a regular file: reading
// something else, such as a pipe, may never end.
func regular(info fs.FileInfo) error {
	switch {
	case info.Mode().IsRegular():
		return nil
	case info.IsDir():
		return errors.New("it is a directory; name the file in it")
	}
	return fmt.Errorf("expected a regular file, found one of mode %s; write the key or secret into a file of its own", info.Mode())
}

// withoutPath returns a file's error without the path, with advice.
func withoutPath(err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathErr.Err
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w; let the user that runs the sidecar read it", err)
	}
	return err
}

// currentFiles returns the digests that the files have now; zero for a file that
// cannot be read.
func (c *Credentials) currentFiles() map[string][sha256.Size]byte {
	files := make(map[string][sha256.Size]byte, len(c.files))
	for path := range c.files {
		files[path] = [sha256.Size]byte{}
		if content, err := readSmall(path); err == nil {
			files[path] = sha256.Sum256(content)
		}
	}
	return files
}
