package signer

import (
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func testKey(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestParsePrivateKey(t *testing.T) {
	t.Parallel()
	pkcs8 := testKey(t, "keys/pkcs8.pem")
	block, _ := pem.Decode([]byte(pkcs8))
	bare := strings.Join(strings.Split(strings.TrimSpace(pkcs8), "\n")[1:], "\n")
	bare, _, _ = strings.Cut(bare, "-----")
	tests := []struct {
		name, key, passphrase string
		err                   error
	}{
		{name: "PKCS#8 as openssl writes it", key: pkcs8},
		{name: "PKCS#1 as openssl genrsa used to write it", key: testKey(t, "keys/pkcs1.pem")},
		{name: "encrypted the way of DOKU's guide", key: testKey(t, "keys/pbe-sha1-3des.pem"), passphrase: "rahasia"},
		{name: "encrypted with AES-256", key: testKey(t, "keys/pbes2-aes256.pem"), passphrase: "rahasia"},
		{name: "encrypted with 3DES and SHA-1 in PBES2", key: testKey(t, "keys/pbes2-3des-sha1.pem"), passphrase: "rahasia"},
		{name: "Windows line ends", key: strings.ReplaceAll(pkcs8, "\n", "\r\n")},
		{name: "newlines written as backslash and n, as in an environment variable", key: strings.ReplaceAll(pkcs8, "\n", `\n`)},
		{name: "in quotes with a byte order mark before them", key: "\ufeff\"" + pkcs8 + "\""},
		{name: "on one line", key: strings.ReplaceAll(pkcs8, "\n", "")},
		{name: "bare base64 in lines", key: bare},
		{name: "bare base64 on one line", key: strings.ReplaceAll(bare, "\n", "")},
		{name: "DER", key: string(block.Bytes)},
		{name: "text around the PEM", key: "Bag Attributes\n    friendlyName: doku\n" + pkcs8 + "\nend"},
		{name: "encrypted without a passphrase", key: testKey(t, "keys/pbe-sha1-3des.pem"), err: ErrPassphrase},
		{name: "wrong passphrase of the way of DOKU's guide", key: testKey(t, "keys/pbe-sha1-3des.pem"), passphrase: "salah", err: ErrPassphrase},
		{name: "wrong passphrase of AES-256", key: testKey(t, "keys/pbes2-aes256.pem"), passphrase: "salah", err: ErrPassphrase},
		{name: "1024 bits", key: testKey(t, "keys/small.pem"), err: ErrKeyTooSmall},
		{name: "an elliptic curve key", key: testKey(t, "keys/ec.pem"), err: ErrKeyFormat},
		{name: "a public key", key: testKey(t, "test-merchant-public.pem"), err: ErrKeyKind},
		{name: "nothing", key: "", err: ErrKeyFormat},
		{name: "a path where a key is expected", key: "/run/secrets/key.pem", err: ErrKeyFormat},
		{name: "PEM cut off", key: pkcs8[:len(pkcs8)/2], err: ErrKeyFormat},
		{name: "too much of it", key: strings.Repeat("A", largestKey+1), err: ErrKeyFormat},
	}
	want, err := ParsePrivateKey([]byte(pkcs8), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParsePrivateKey([]byte(test.key), []byte(test.passphrase))
			if !errors.Is(err, test.err) {
				t.Fatalf("error = %v, want %v", err, test.err)
			}
			if test.err == nil && !got.Equal(want) {
				t.Error("another key came out")
			}
		})
	}
}

func TestParsePublicKey(t *testing.T) {
	t.Parallel()
	spki := testKey(t, "test-doku-public.pem")
	tests := []struct {
		name, key string
		err       error
	}{
		{name: "as openssl writes it", key: spki},
		{name: "in a certificate", key: testKey(t, "keys/certificate.pem")},
		{name: "on one line", key: strings.ReplaceAll(spki, "\n", "")},
		{name: "a private key", key: testKey(t, "test-doku-private.pem"), err: ErrKeyKind},
		{name: "garbage", key: "halo", err: ErrKeyFormat},
	}
	want, err := ParsePublicKey([]byte(spki))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParsePublicKey([]byte(test.key))
			if !errors.Is(err, test.err) {
				t.Fatalf("error = %v, want %v", err, test.err)
			}
			if test.err == nil && Fingerprint(got) != Fingerprint(want) {
				t.Error("another key came out")
			}
		})
	}
}

func FuzzParsePrivateKey(f *testing.F) {
	for _, name := range []string{"pkcs8", "pkcs1", "small", "ec"} {
		f.Add([]byte(testKey(f, "keys/"+name+".pem")), []byte(""))
	}
	f.Add([]byte(testKey(f, "keys/pbe-sha1-3des.pem")), []byte("rahasia"))
	f.Fuzz(func(t *testing.T, data, passphrase []byte) {
		key, err := ParsePrivateKey(data, passphrase)
		if (key == nil) && err == nil {
			t.Error("neither key nor error")
		}
	})
}
