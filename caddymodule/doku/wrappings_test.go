package doku

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/signer"
)

func TestAKeyLoadsInEveryFormFromAFileAPlaceholderAndAVariable(t *testing.T) {
	dir := t.TempDir()
	load := func(file string, change func(*Account, string), wrapping doktest.Wrapping) {
		t.Helper()
		path := filepath.Join(dir, "key")
		if err := os.WriteFile(path, wrapping.Key, 0o600); err != nil {
			t.Fatal(err)
		}
		values := []string{path, "{file." + path + "}"}
		if !wrapping.Binary {
			t.Setenv("WRAPPED_KEY", string(wrapping.Key))
			values = append(values, "{env.WRAPPED_KEY}")
		}
		t.Setenv("PATH_OF_KEY", path+"\r\n")
		for _, value := range append(values, "{env.PATH_OF_KEY}") {
			c, _, err := loaded(t, func(a *Account) { change(a, value) })
			if err != nil {
				t.Errorf("%s, %s, by %s: %v", file, wrapping.Name, value, err)
				continue
			}
			if want := mustFingerprint(t, file); c.Summary().Merchant != want && c.Summary().DOKU[0] != want {
				t.Errorf("%s, %s, by %s: another key came out", file, wrapping.Name, value)
			}
		}
	}
	for _, file := range []string{"keys/pkcs8.pem", "keys/pkcs1.pem", "keys/pbes2-aes256.pem", "keys/pbe-sha1-3des.pem"} {
		for _, wrapping := range doktest.Wrappings(t, doktest.Data(t, file)) {
			load(file, func(a *Account, value string) { a.PrivateKey, a.Passphrase = value, "rahasia" }, wrapping)
		}
	}
	for _, file := range []string{"keys/public-pkcs1.pem", "test-doku-public.pem", "keys/certificate.pem"} {
		for _, wrapping := range doktest.Wrappings(t, doktest.Data(t, file)) {
			load(file, func(a *Account, value string) { a.DOKUPublicKeys = []string{value} }, wrapping)
		}
	}
}

// mustFingerprint returns the fingerprint of a test key's public half.
func mustFingerprint(t *testing.T, file string) string {
	t.Helper()
	data := doktest.Data(t, file)
	if private, err := signer.ParsePrivateKey(data, []byte("rahasia")); err == nil {
		return signer.Fingerprint(&private.PublicKey)
	}
	public, err := signer.ParsePublicKey(data)
	if err != nil {
		t.Fatal(err)
	}
	return signer.Fingerprint(public)
}

func TestAKeyInTheWrongPlaceIsNamed(t *testing.T) {
	text := func(name string) string { return string(doktest.Data(t, name)) }
	t.Setenv("PATH_OF_KEY", "/run/secrets/merchant-privat.pem")
	t.Setenv("QUOTED_PATH", `"/run/secrets/merchant-private.pem"`)
	t.Setenv("SECRET", "SK-VknOxwR4xZSEPnG7fpJo")
	t.Setenv("OPENSSH", "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC7")
	for _, test := range []struct {
		name   string
		change func(*Account)
		says   string
	}{
		{
			"a variable with a path that is not there",
			func(a *Account) { a.PrivateKey = "{env.PATH_OF_KEY}" },
			`private_key: reading the file "/run/secrets/merchant-privat.pem", which {env.PATH_OF_KEY} names: no such file or directory`,
		},
		{"a path in quotes", func(a *Account) { a.PrivateKey = "{env.QUOTED_PATH}" }, "private_key: its path is in quotes"},
		{"the secret key", func(a *Account) { a.PrivateKey = "{env.SECRET}" }, "found a secret key; is it that of secret_key?"},
		{"the secret key in a file", func(a *Account) { a.PrivateKey = write(t, 0o600, "SK-VknOxwR4xZSEPnG7fpJo\n") }, "found a secret key"},
		{"the client id", func(a *Account) { a.DOKUPublicKeys = []string{"BRN-0211-1696919651918"} }, "found a client id"},
		{
			"DOKU's key as the merchant's",
			func(a *Account) { a.PrivateKey = keyFile(t, "test-doku-public.pem") },
			"found a public key; are private_key and doku_public_key swapped? (in the file",
		},
		{
			"the merchant's key as DOKU's",
			func(a *Account) { a.DOKUPublicKeys = []string{keyFile(t, "test-merchant-private.pem")} },
			"found a private key; are doku_public_key and private_key swapped? (in the file",
		},
		{
			"an OpenSSH key in a variable",
			func(a *Account) { a.DOKUPublicKeys = []string{"{env.OPENSSH}"} },
			"found an OpenSSH public key; convert it with `ssh-keygen -e -m PKCS8 -f <file>`",
		},
		{
			"a secret key that is a file with a key",
			func(a *Account) { a.SecretKeys = []string{keyFile(t, "test-doku-public.pem")} },
			"secret_key: expected DOKU's secret key, which begins with SK-, found a public key; are secret_key and doku_public_key swapped?",
		},
		{"the client id as the secret", func(a *Account) { a.SecretKeys = []string{a.clientID} }, "are client_id and secret_key swapped?"},
		{
			"everything wrong",
			func(a *Account) {
				a.SecretKeys, a.PrivateKey, a.DOKUPublicKeys = []string{"SK-…"}, "/nowhere/private.pem", []string{"/nowhere/public.pem"}
			},
			`secret_key: it is a placeholder; write the value from DOKU's dashboard (Integration, API Keys); and ` +
				`private_key: reading the file "/nowhere/private.pem": no such file or directory; and ` +
				`doku_public_key: reading the file "/nowhere/public.pem": no such file or directory`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, log, err := loaded(t, test.change)
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v, expected it to say %q", err, test.says)
			}
			if err != nil && strings.Contains(err.Error(), "VknO") || strings.Contains(log, "VknO") {
				t.Errorf("a secret is in error %v or log %s", err, log)
			}
		})
	}
	t.Run("a public key as private_key is not said to be a private key that all can read", func(t *testing.T) {
		_, log, _ := loaded(t, func(a *Account) { a.PrivateKey = write(t, 0o644, text("test-doku-public.pem")) })
		if strings.Contains(log, "chmod") {
			t.Errorf("the log says %s", log)
		}
	})
}

func TestACertificateOutOfItsTimeIsWarnedOf(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	for _, test := range []struct {
		begins, ends time.Duration // from now
		says         string
	}{
		{-10 * day, -day, "level=WARN msg=\"DOKU's key is in a certificate that has expired"},
		{day, 10 * day, "level=WARN msg=\"DOKU's key is in a certificate that is not valid yet"},
		{-day, 10 * day, "level=INFO msg=\"DOKU's key is in a certificate; its key is used"},
	} {
		key := doktest.Key(t, doktest.DOKUKey)
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(test.begins), NotAfter: time.Now().Add(test.ends)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{
			string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), base64.StdEncoding.EncodeToString(der), string(der),
		} {
			c, log, err := loaded(t, func(a *Account) { a.DOKUPublicKeys = []string{write(t, 0o600, text)} })
			if err != nil || !strings.Contains(log, test.says) || c.Summary().DOKU[0] != signer.Fingerprint(&key.PublicKey) {
				t.Errorf("error %v, the log says %s", err, log)
			}
		}
	}
}
