package credential

import (
	"cmp"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-doku/caddy-doku/signer"
)

// Loader reads the credentials of an account.
type Loader struct {
	Files map[string][sha256.Size]byte // what was read, by path

	repl *caddy.Replacer
	log  *slog.Logger
}

// NewLoader returns a loader that warns of oddities in log.
func NewLoader(log *slog.Logger) *Loader {
	return &Loader{Files: make(map[string][sha256.Size]byte), repl: caddy.NewReplacer(), log: log}
}

// Resolve replaces the placeholders in a setting. An unknown or empty one is an error.
func Resolve(repl *caddy.Replacer, name, value string) (string, error) {
	if value == "" {
		return "", fmt.Errorf("%s is required", name)
	}
	resolved, err := repl.ReplaceOrErr(value, true, true)
	if err != nil {
		return "", fmt.Errorf("%s: %w (is the variable set, the file there?)", name, err)
	}
	return resolved, nil
}

// SecretKey returns a secret key of DOKU's.
func (l *Loader) SecretKey(value, clientID string) (string, error) {
	const name = "secret_key"
	secret, err := l.secret(name, value)
	if err != nil {
		return "", err
	}
	if path, found := RelativePath(secret); found {
		if secret, err = l.secret(name, "./"+path); err != nil {
			return "", err
		}
	}
	odd, err := CheckSecret(secret, clientID)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	if odd != "" {
		l.log.Warn("a secret key is unusual; if DOKU answers 401, compare it with the dashboard", "setting", name, "found", odd)
	}
	return secret, nil
}

// secret returns a secret that is given as itself, or as the path of its file. It
// removes white space and invisible characters that a paste or an editor puts around it.
func (l *Loader) secret(name, value string) (string, error) {
	path, isFile := Placeholder(value)
	text := ""
	if !isFile {
		var err error
		if text, err = Resolve(l.repl, name, value); err != nil {
			return "", err
		}
		path, isFile = Path(text)
	}
	if isFile {
		content, err := l.read(name, value, path)
		if err != nil {
			return "", err
		}
		if text, err = decoded(content); err != nil {
			return "", fmt.Errorf("%s: reading %s: %w", name, cmp.Or(Where(value, path), "its file"), err)
		}
		text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r") // an editor's line end is no mistake
	}
	trimmed := Trim(text)
	if trimmed == "" {
		return "", fmt.Errorf("%s: expected a secret, found only white space", name)
	}
	if trimmed != text && signer.DescribeKey([]byte(text)) == "" { // of a key in its place, the error says more
		l.log.Warn("white space or a byte order mark around a secret was removed", "setting", name)
	}
	return trimmed, nil
}

// PrivateKey returns the merchant's key.
func (l *Loader) PrivateKey(value, passphrase string) (*rsa.PrivateKey, error) {
	const name = "private_key"
	var wrong Faults
	if passphrase != "" {
		var err error
		passphrase, err = l.secret("passphrase", passphrase)
		wrong.Add(err)
	}
	text, file, err := l.key(name, value)
	wrong.Add(err)
	if len(wrong) > 0 {
		return nil, wrong
	}
	key, err := signer.ParsePrivateKey(text, []byte(passphrase))
	if err != nil {
		if wrapped := wrapping(passphrase); errors.Is(err, signer.ErrPassphrase) && wrapped != "" {
			err = fmt.Errorf("%w; the passphrase given is %s: is it meant so?", err, wrapped)
		}
		return nil, keyError(name, file, err, text, "a public key", "doku_public_key")
	}
	if info, err := os.Stat(file); file != "" && err == nil && info.Mode().Perm()&0o004 != 0 {
		l.log.Warn("every user of this machine can read the private key; `chmod o-r` its file", "setting", name, "file", file)
	}
	return key, nil
}

// PublicKey returns a key of DOKU's. It warns of a certificate out of its time: whether
// DOKU still signs with its key cannot be known here.
func (l *Loader) PublicKey(value string) (*rsa.PublicKey, error) {
	const name = "doku_public_key"
	text, file, err := l.key(name, value)
	if err != nil {
		return nil, err
	}
	key, err := signer.ParsePublicKey(text)
	if err != nil {
		return nil, keyError(name, file, err, text, "a private key", "private_key")
	}
	if certificate := signer.ParseCertificate(text); certificate != nil {
		log := l.log.With("setting", name, "file", file, "not_before", certificate.NotBefore, "not_after", certificate.NotAfter)
		switch now := time.Now(); {
		case now.After(certificate.NotAfter):
			log.Warn("DOKU's key is in a certificate that has expired; its key is used; compare it with DOKU's dashboard")
		case now.Before(certificate.NotBefore):
			log.Warn("DOKU's key is in a certificate that is not valid yet; its key is used; compare it with DOKU's dashboard")
		default:
			log.Info("DOKU's key is in a certificate; its key is used, whatever the times of the certificate")
		}
	}
	return key, nil
}

// keyError says what is wrong with a key, and which setting it may belong to.
func keyError(name, file string, err error, text []byte, other, setting string) error {
	if found := Misplaced(string(text)); found != "" {
		return fmt.Errorf("%s: %w: found %s", name, err, found)
	}
	if errors.Is(err, signer.ErrKeyKind) && signer.DescribeKey(text) == other {
		err = fmt.Errorf("%w; are %s and %s swapped?", err, name, setting)
	}
	if file != "" {
		err = fmt.Errorf("%w (in the file %q)", err, file)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// key returns a key that is given as itself or as the path of a file, and that path.
func (l *Loader) key(name, value string) (text []byte, file string, err error) {
	path, isFile := Placeholder(value)
	if !isFile {
		resolved, err := Resolve(l.repl, name, value)
		if err != nil {
			return nil, "", err
		}
		if IsKey(resolved) {
			return []byte(resolved), "", nil
		}
		if path = Trim(resolved); InQuotes(path) {
			return nil, "", fmt.Errorf("%s: its path is in quotes; take them away (an env file of Docker's keeps them)", name)
		}
		if found := Misplaced(path); found != "" {
			return nil, "", fmt.Errorf("%s: expected a key or the path of its file, found %s", name, found)
		}
	}
	text, err = l.read(name, value, path)
	return text, path, err
}

// read returns the content of a file. Errors repeat the path only if it is one for
// certain: a key or secret that was taken for a path must not be in a log.
func (l *Loader) read(name, value, path string) ([]byte, error) {
	content, err := Read(path)
	if err != nil {
		if file := Where(value, path); file != "" {
			return nil, fmt.Errorf("%s: reading %s: %w", name, file, err)
		}
		return nil, fmt.Errorf("%s: expected a key or secret, or the path of its file; its %d characters are neither: %w", name, len(path), err)
	}
	l.Files[path] = sha256.Sum256(content)
	return content, nil
}
