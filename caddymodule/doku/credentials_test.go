package doku

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/moduletest"
	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/signer"
	"github.com/caddy-doku/caddy-doku/snap"
)

// write writes a file of a test and returns its path.
func write(t *testing.T, mode fs.FileMode, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return path
}

// mounted writes a file of a test as Kubernetes mounts a secret: behind two links, of
// which the second is replaced when the secret changes.
func mounted(t *testing.T, content string) string {
	t.Helper()
	dir := filepath.Dir(write(t, 0o600, content))
	if err := os.Symlink(dir, filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "secret")
	if err := os.Symlink(filepath.Join("..data", "file"), path); err != nil {
		t.Fatal(err)
	}
	return path
}

var snapSecret = snap.NewSecret([]byte(moduletest.SecretKey))

func keyFile(t *testing.T, name string) string {
	t.Helper()
	return doktest.Path(t, name)
}

// loaded loads the credentials of an account with the given change.
func loaded(t *testing.T, change func(*Account)) (*Credentials, string, error) {
	t.Helper()
	a := &Account{
		Name: "default", clientID: moduletest.ClientID, clientKey: moduletest.ClientID, partnerID: moduletest.ClientID,
		SecretKeys: []string{
			moduletest.SecretKey,
		}, PrivateKey: keyFile(t, "test-merchant-private.pem"), DOKUPublicKeys: []string{keyFile(t, "test-doku-public.pem")},
	}
	change(a)
	log := new(bytes.Buffer)
	c, err := a.load(slog.New(slog.NewTextHandler(log, nil)))
	return c, log.String(), err
}

func TestMistakesWithKeysAndSecretsSayWhatToDo(t *testing.T) {
	text := func(name string) string {
		content, err := os.ReadFile(keyFile(t, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	t.Setenv("EMPTY", "")
	tests := []struct {
		name   string
		change func(*Account)
		is     error
		says   string
	}{
		{"no secret", func(a *Account) { a.SecretKeys = nil }, nil, "secret_key is required; it is in DOKU's dashboard"},
		{
			"a secret from a variable that is not set",
			func(a *Account) { a.SecretKeys = []string{"{env.NOT_SET_AT_ALL}"} },
			nil,
			"is the variable set",
		},
		{"a secret of white space", func(a *Account) { a.SecretKeys = []string{" \n"} }, nil, "found only white space"},
		{"a secret in quotes", func(a *Account) { a.SecretKeys = []string{`"SK-1"`} }, nil, "secret_key: it is in quotes"},
		{
			"a secret in a file that is not there",
			func(a *Account) { a.SecretKeys = []string{"/nowhere/secret"} },
			fs.ErrNotExist,
			`secret_key: reading the file "/nowhere/secret": no such file`,
		},
		{"no private key", func(a *Account) { a.PrivateKey = "" }, nil, "private_key is required"},
		{
			"a private key that is not there",
			func(a *Account) { a.PrivateKey = "{file./nowhere/key.pem}" },
			fs.ErrNotExist,
			"private_key: reading the file",
		},
		{"a directory", func(a *Account) { a.PrivateKey = t.TempDir() }, nil, "it is a directory; name the file in it"},
		{"a device", func(a *Account) { a.SecretKeys = []string{os.DevNull} }, nil, "expected a regular file, found one of mode D"},
		{
			"a wrong passphrase",
			func(a *Account) { a.PrivateKey, a.Passphrase = keyFile(t, "keys/pbes2-aes256.pem"), "salah" },
			signer.ErrPassphrase,
			"passphrase missing or wrong",
		},
		{
			"no passphrase",
			func(a *Account) { a.PrivateKey = keyFile(t, "keys/pbe-sha1-3des.pem") },
			signer.ErrPassphrase,
			"the key is encrypted; give its passphrase, or convert it with `openssl",
		},
		{
			"an elliptic curve key",
			func(a *Account) { a.PrivateKey = keyFile(t, "keys/ec.pem") },
			signer.ErrKeyKind,
			"expected an RSA private key, found an elliptic curve one",
		},
		{
			"a public key in its place",
			func(a *Account) { a.PrivateKey = keyFile(t, "test-merchant-public.pem") },
			signer.ErrKeyKind,
			"expected a private key, found a public key",
		},
		{
			"a key of 1024 bits",
			func(a *Account) { a.PrivateKey = keyFile(t, "keys/small.pem") },
			signer.ErrKeyTooSmall,
			"RSA key smaller than 2048 bits: it has 1024",
		},
		{
			"something else",
			func(a *Account) { a.PrivateKey = write(t, 0o600, "hello") },
			signer.ErrKeyFormat,
			"private_key: not a key in a known format",
		},
		{
			"a file that is too large",
			func(a *Account) { a.PrivateKey = write(t, 0o600, strings.Repeat("x", 70_000)) },
			nil,
			"expected at most 65536 bytes",
		},
		{
			"a private key as DOKU's",
			func(a *Account) { a.DOKUPublicKeys = []string{keyFile(t, "test-doku-private.pem")} },
			signer.ErrKeyKind,
			"doku_public_key: another kind of key than expected: expected DOKU's public key, found a private key",
		},
		{
			"the merchant's own key as DOKU's",
			func(a *Account) { a.DOKUPublicKeys = []string{keyFile(t, "test-merchant-public.pem")} },
			nil,
			"expected DOKU's key from the dashboard",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := loaded(t, test.change)
			if err == nil || !strings.Contains(err.Error(), test.says) || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("error %v, expected it to say %q", err, test.says)
			}
		})
	}
	t.Run("a file that may not be read", func(t *testing.T) {
		path := write(t, 0, text("test-merchant-private.pem"))
		if _, err := os.ReadFile(path); err == nil {
			t.Skip("skipped, because this user may read every file")
		}
		_, _, err := loaded(t, func(a *Account) { a.PrivateKey = path })
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "let the user that runs the sidecar read it") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("a key given in place of its path is not repeated", func(t *testing.T) {
		bare := strings.Split(text("test-merchant-private.pem"), "\n")[1]
		_, _, err := loaded(t, func(a *Account) { a.PrivateKey = "{env.BARE_LINE}" })
		if err == nil || strings.Contains(err.Error(), bare) {
			t.Errorf("error %v", err)
		}
		t.Setenv("BARE_LINE", bare)
		if _, _, err = loaded(t, func(a *Account) { a.PrivateKey = "{env.BARE_LINE}" }); err == nil || strings.Contains(err.Error(), bare) {
			t.Errorf("error %v", err)
		}
	})
}

func TestWaysToGiveKeysAndSecrets(t *testing.T) {
	private, err := os.ReadFile(keyFile(t, "test-merchant-private.pem"))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("KEY", string(private))
	t.Setenv("SECRET", moduletest.SecretKey)
	tests := []struct {
		name    string
		change  func(*Account)
		watched int    // files
		logged  string // "" for nothing
	}{
		{"as they are", func(*Account) {}, 2, ""},
		{"by variables", func(a *Account) { a.SecretKeys, a.PrivateKey = []string{"{env.SECRET}"}, "{env.KEY}" }, 1, ""},
		{"a secret by path", func(a *Account) { a.SecretKeys = []string{write(t, 0o600, moduletest.SecretKey+"\n")} }, 3, ""},
		{"a secret by placeholder", func(a *Account) { a.SecretKeys = []string{"{file." + write(t, 0o600, moduletest.SecretKey) + "}"} }, 3, ""},
		{"a secret with Windows' line end", func(a *Account) { a.SecretKeys = []string{write(t, 0o600, moduletest.SecretKey+"\r\n")} }, 3, ""},
		{
			"a secret with a byte order mark",
			func(a *Account) { a.SecretKeys = []string{write(t, 0o600, "\ufeff"+moduletest.SecretKey)} },
			3,
			"byte order mark around a secret was removed",
		},
		{"a secret pasted with a blank", func(a *Account) { a.SecretKeys = []string{moduletest.SecretKey + " "} }, 2, "white space"},
		{"a secret as Kubernetes mounts it", func(a *Account) { a.SecretKeys = []string{mounted(t, moduletest.SecretKey)} }, 3, ""},
		{"several of each", func(a *Account) {
			a.SecretKeys = append(a.SecretKeys, "SK-previous")
			a.DOKUPublicKeys = append(a.DOKUPublicKeys, keyFile(t, "keys/public-pkcs1.pem"))
		}, 3, ""},
		{"an encrypted key with its passphrase in a file", func(a *Account) {
			a.PrivateKey, a.Passphrase = keyFile(t, "keys/pbes2-aes256.pem"), write(t, 0o600, "rahasia\n")
		}, 3, ""},
		{"a private key that everybody can read", func(a *Account) { a.PrivateKey = write(t, 0o644, string(private)) }, 2, "chmod o-r"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, log, err := loaded(t, test.change)
			if err != nil {
				t.Fatal(err)
			}
			if signature := c.secrets[0].Signature(nil); signature != snapSecret.Signature(nil) {
				t.Error("the secret is another one")
			}
			if len(c.files) != test.watched {
				t.Errorf("%d files are watched, expected %d", len(c.files), test.watched)
			}
			if test.logged != "" && !strings.Contains(log, test.logged) || strings.Contains(log, moduletest.SecretKey) {
				t.Errorf("the log says %s", log)
			}
		})
	}
}

func TestStopDoesNotWaitForAFileThatCannotBeRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		a := &App{
			log:        slog.New(slog.DiscardHandler),
			stop:       cancel,
			watched:    make(chan struct{}),
			background: new(sync.WaitGroup),
		} // nothing closes it
		if err := a.Stop(); err != nil || ctx.Err() == nil {
			t.Errorf("error %v, and the watch's context %v", err, ctx.Err())
		}
	})
}

func TestAWatchThatHasEndedTakesUpNothing(t *testing.T) {
	t.Parallel()
	secret := write(t, 0o600, moduletest.SecretKey)
	h := moduletest.New(t, moduletest.Options{})
	a := h.App().(*App).Accounts[0]
	a.SecretKeys = []string{secret}
	c, err := a.load(h.App().(*App).log)
	if err != nil {
		t.Fatal(err)
	}
	a.inUse.Store(c)
	if err := os.WriteFile(secret, []byte("SK-changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a.reload(ctx, h.App().(*App).log)
	if a.Credentials() != c {
		t.Error("a changed secret was taken up")
	}
}
