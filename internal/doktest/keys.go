package doktest

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// The private keys in testdata. Their public halves are beside them.
const (
	MerchantKey = "test-merchant-private.pem"
	DOKUKey     = "test-doku-private.pem"
)

// Path returns the absolute path of a file in the folder testdata of this module.
func Path(t testing.TB, name string) string {
	t.Helper()
	_, here, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("the path of this source file is not known")
	}
	return filepath.Join(filepath.Dir(here), "..", "..", "testdata", name)
}

// Data returns the content of a file in testdata.
func Data(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(Path(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Key returns a private key in testdata, such as [MerchantKey].
func Key(t testing.TB, name string) *rsa.PrivateKey {
	t.Helper()
	block, _ := pem.Decode(Data(t, name))
	if block == nil {
		t.Fatalf("%s: expected PEM", name)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return key.(*rsa.PrivateKey)
}
