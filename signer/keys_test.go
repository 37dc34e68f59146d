package signer

import (
	"bytes"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math"
	"math/big"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

func testKey(t testing.TB, name string) string {
	t.Helper()
	return string(doktest.Data(t, name))
}

// pemBody returns the lines between BEGIN and END.
func pemBody(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[1:len(lines)-1], "\n") + "\n"
}

func TestParsePrivateKey(t *testing.T) {
	t.Parallel()
	pkcs8 := testKey(t, "keys/pkcs8.pem")
	block, _ := pem.Decode([]byte(pkcs8))
	bare := pemBody(pkcs8)
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
		{name: "DER and a newline", key: string(block.Bytes) + "\n"},
		{name: "text before the PEM that begins as DER does", key: "0: key\n" + pkcs8},
		{name: "line ends turned to spaces", key: strings.ReplaceAll(pkcs8, "\n", " ")},
		{name: "behind its certificate", key: testKey(t, "keys/certificate.pem") + pkcs8},
		{name: "a passphrase that is not needed", key: pkcs8, passphrase: "rahasia"},
		{name: "text around the PEM", key: "Bag Attributes\n    friendlyName: doku\n" + pkcs8 + "\nend"},
		{name: "encrypted without a passphrase", key: testKey(t, "keys/pbe-sha1-3des.pem"), err: ErrPassphrase},
		{name: "wrong passphrase of the way of DOKU's guide", key: testKey(t, "keys/pbe-sha1-3des.pem"), passphrase: "salah", err: ErrPassphrase},
		{name: "wrong passphrase of AES-256", key: testKey(t, "keys/pbes2-aes256.pem"), passphrase: "salah", err: ErrPassphrase},
		{
			name:       "wrong passphrase of 3DES and SHA-1 in PBES2",
			key:        testKey(t, "keys/pbes2-3des-sha1.pem"),
			passphrase: "salah",
			err:        ErrPassphrase,
		},
		{
			name:       "wrong passphrase of the way of DOKU's guide that gives right padding",
			key:        testKey(t, "keys/pbe-sha1-3des.pem"),
			passphrase: "salah 158",
			err:        ErrPassphrase,
		},
		{
			name:       "wrong passphrase of AES-256 that gives right padding",
			key:        testKey(t, "keys/pbes2-aes256.pem"),
			passphrase: "salah 68",
			err:        ErrPassphrase,
		},
		{name: "AES-256 without a passphrase", key: testKey(t, "keys/pbes2-aes256.pem"), err: ErrPassphrase},
		{
			name:       "encrypted with SHA-512, whose passphrase is not to blame",
			key:        testKey(t, "keys/pbes2-sha512.pem"),
			passphrase: "rahasia",
			err:        ErrKeyFormat,
		},
		{name: "encrypted with scrypt", key: testKey(t, "keys/scrypt.pem"), passphrase: "rahasia", err: ErrKeyFormat},
		{name: "encrypted with MD5 and DES", key: testKey(t, "keys/pbe-md5-des.pem"), passphrase: "rahasia", err: ErrKeyFormat},
		{name: "encrypted in the old way of PKCS#1", key: testKey(t, "keys/pkcs1-aes128.pem"), passphrase: "rahasia", err: ErrKeyFormat},
		{name: "1024 bits", key: testKey(t, "keys/small.pem"), err: ErrKeyTooSmall},
		{name: "an elliptic curve key", key: testKey(t, "keys/ec.pem"), err: ErrKeyKind},
		{name: "a certificate", key: testKey(t, "keys/certificate.pem"), err: ErrKeyKind},
		{name: "a certificate in base64 alone", key: pemBody(testKey(t, "keys/certificate.pem")), err: ErrKeyKind},
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
			if test.err != nil && got != nil {
				t.Error("a key came out beside the error")
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
		{name: "1024 bits", key: testKey(t, "keys/small-public.pem"), err: ErrKeyTooSmall},
		{name: "1024 bits in PKCS#1", key: testKey(t, "keys/small-public-pkcs1.pem"), err: ErrKeyTooSmall},
		{name: "an elliptic curve key", key: testKey(t, "keys/ec-public.pem"), err: ErrKeyKind},
		{name: "PKCS#1", key: testKey(t, "keys/public-pkcs1.pem")},
		{name: "Windows line ends", key: strings.ReplaceAll(spki, "\n", "\r\n")},
		{name: "newlines written as backslash and n, as in an environment variable", key: strings.ReplaceAll(spki, "\n", `\n`)},
		{name: "bare base64", key: pemBody(spki)},
		{name: "in quotes with a byte order mark before them", key: "\ufeff\"" + spki + "\""},
		{name: "behind its private key", key: testKey(t, "test-doku-private.pem") + spki},
		{name: "a private key", key: testKey(t, "test-doku-private.pem"), err: ErrKeyKind},
		{name: "a private key in base64 alone", key: pemBody(testKey(t, "test-doku-private.pem")), err: ErrKeyKind},
		{name: "a small private key in base64 alone", key: pemBody(testKey(t, "keys/small.pem")), err: ErrKeyKind},
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
			if test.err != nil && got != nil {
				t.Error("a key came out beside the error")
			}
		})
	}
}

// sequence returns the DER of a SEQUENCE of parts. DER of its own, as
// asn1.RawValue, is put in as it is.
func sequence(t testing.TB, parts ...any) asn1.RawValue {
	t.Helper()
	var body []byte
	for _, part := range parts {
		der, err := asn1.Marshal(part)
		if err != nil {
			t.Fatal(err)
		}
		body = append(body, der...)
	}
	der, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: body})
	if err != nil {
		t.Fatal(err)
	}
	return asn1.RawValue{FullBytes: der}
}

func TestParsePrivateKeyWithHostileEncryption(t *testing.T) {
	t.Parallel()
	var (
		aes256    = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
		aes256GCM = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 46}
		salt      = make([]byte, 8)
		iv        = make([]byte, 16)
		data      = make([]byte, 64)
		pbes2     = func(cipher asn1.ObjectIdentifier, iv, data []byte, kdf ...any) asn1.RawValue {
			return sequence(t, sequence(t, oidPBES2, sequence(t, sequence(t, oidPBKDF2, sequence(t, kdf...)), sequence(t, cipher, iv))), data)
		}
		pbes1 = func(data []byte, parameters ...any) asn1.RawValue {
			return sequence(t, sequence(t, oidPBESHA13DES, sequence(t, parameters...)), data)
		}
	)
	tests := []struct {
		name string
		key  asn1.RawValue
	}{
		{name: "IV too short", key: pbes2(aes256, iv[:15], data, salt, 1)},
		{name: "no IV", key: pbes2(aes256, nil, data, salt, 1)},
		{name: "data not in whole blocks", key: pbes2(aes256, iv, data[:63], salt, 1)},
		{name: "no data", key: pbes2(aes256, iv, nil, salt, 1)},
		{name: "rounds for years", key: pbes2(aes256, iv, data, salt, math.MaxInt64)},
		{
			name: "rounds for years behind a key length out of range",
			key:  pbes2(aes256, iv, data, salt, math.MaxInt64, new(big.Int).Lsh(big.NewInt(1), 99)),
		},
		{name: "rounds out of range", key: pbes2(aes256, iv, data, salt, new(big.Int).Lsh(big.NewInt(1), 99))},
		{name: "no rounds", key: pbes2(aes256, iv, data, salt, 0)},
		{name: "fewer rounds than none", key: pbes2(aes256, iv, data, salt, -1)},
		{name: "a key length", key: pbes2(aes256, iv, data, salt, 1, 32)},
		{name: "a cipher that is not known", key: pbes2(aes256GCM, iv, data, salt, 1)},
		{name: "DOKU's guide with rounds for years", key: pbes1(data, salt, math.MaxInt64)},
		{name: "DOKU's guide with no rounds", key: pbes1(data, salt, 0)},
		{name: "DOKU's guide with data not in whole blocks", key: pbes1(data[:63], salt, 1)},
		{name: "DOKU's guide with no data", key: pbes1(nil, salt, 1)},
		{name: "DOKU's guide without parameters", key: pbes1(data)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if _, err := ParsePrivateKey(test.key.FullBytes, []byte("rahasia")); !errors.Is(err, ErrKeyFormat) {
				t.Errorf("error = %v, want %v", err, ErrKeyFormat)
			}
		})
	}
}

func TestErrorsHoldNoPartOfTheKey(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"small", "ec", "pbe-sha1-3des", "pbes2-aes256", "pbes2-sha512", "scrypt", "pkcs1-aes128", "certificate"} {
		key := testKey(t, "keys/"+name+".pem")
		for _, damaged := range []string{key, strings.ReplaceAll(key, "A", "!"), key[:len(key)/2], pemBody(key)} {
			_, err := ParsePrivateKey([]byte(damaged), []byte("salah"))
			if err == nil {
				t.Fatalf("%s was taken", name)
			}
			for line := range strings.SplitSeq(pemBody(key), "\n") {
				if len(line) >= 8 && strings.Contains(err.Error(), line[:8]) || strings.Contains(err.Error(), "salah") {
					t.Errorf("%s: the error says %q", name, err)
				}
			}
		}
	}
}

// The vectors are those of Dr Stephen Henson, which OpenSSL and GnuTLS test with,
// and two of `openssl kdf PKCS12KDF`, since all of those have short inputs.
func TestPKCS12Derive(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, password, salt string
		rounds               int
		purpose              byte
		want                 string
	}{
		{
			name:     "key of one round",
			password: "smeg",
			salt:     "0a58cf64530d823f",
			rounds:   1,
			purpose:  1,
			want:     "8aaae6297b6cb04642ab5b077851284eb7128f1a2a7fbca3",
		},
		{name: "IV of one round", password: "smeg", salt: "0a58cf64530d823f", rounds: 1, purpose: 2, want: "79993dfe048d3b76"},
		{
			name:     "key of one round with another salt",
			password: "smeg",
			salt:     "642b99ab44fb4b1f",
			rounds:   1,
			purpose:  1,
			want:     "f3a95fec48d7711e985cfe67908c5ab79fa3d7c5caa5d966",
		},
		{name: "IV of one round with another salt", password: "smeg", salt: "642b99ab44fb4b1f", rounds: 1, purpose: 2, want: "c0a38d64a79bea1d"},
		{
			name:     "MAC key of one round",
			password: "smeg",
			salt:     "3d83c0e4546ac140",
			rounds:   1,
			purpose:  3,
			want:     "8d967d88f6caa9d714800ab3d48051d63f73a312",
		},
		{
			name:     "key of 1000 rounds",
			password: "queeg",
			salt:     "05dec959acff72f7",
			rounds:   1000,
			purpose:  1,
			want:     "ed2034e36328830ff09df1e1a07dd357185dac0d4f9eb3d4",
		},
		{name: "IV of 1000 rounds", password: "queeg", salt: "05dec959acff72f7", rounds: 1000, purpose: 2, want: "11dedad7758d4860"},
		{
			name:     "key of 1000 rounds with another salt",
			password: "queeg",
			salt:     "1682c0fc5b3f7ec5",
			rounds:   1000,
			purpose:  1,
			want:     "483dd6e919d7de2e8e648ba8f862f3fbfbdc2bcb2c02957f",
		},
		{
			name:     "IV of 1000 rounds with another salt",
			password: "queeg",
			salt:     "1682c0fc5b3f7ec5",
			rounds:   1000,
			purpose:  2,
			want:     "9d461d1b00355c50",
		},
		{
			name:     "MAC key of 1000 rounds",
			password: "queeg",
			salt:     "263216fcc2fab31c",
			rounds:   1000,
			purpose:  3,
			want:     "5ec4c7a80df652294c3925b6489a7ab857c83476",
		},
		{
			name:     "key, both inputs longer than a block",
			password: "a passphrase of more than thirty characters",
			salt: "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f" +
				"202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f404142434445",
			rounds:  3,
			purpose: 1,
			want:    "c07ac87633f0874003bd67c3dbb4b14ad707c3f3cd3d3d2f",
		},
		{
			name:     "IV, both inputs longer than a block",
			password: "a passphrase of more than thirty characters",
			salt: "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f" +
				"202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f404142434445",
			rounds:  3,
			purpose: 2,
			want:    "d161b31fe5aeef01",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			salt, err := hex.DecodeString(test.salt)
			if err != nil {
				t.Fatal(err)
			}
			want, err := hex.DecodeString(test.want)
			if err != nil {
				t.Fatal(err)
			}
			if got := pkcs12Derive(bmpString(test.password), salt, test.rounds, test.purpose, len(want)); !bytes.Equal(got, want) {
				t.Errorf("derived %x, want %x", got, want)
			}
		})
	}
}

func FuzzParsePrivateKey(f *testing.F) {
	for _, name := range []string{"pkcs8", "pkcs1", "small", "ec", "certificate"} {
		f.Add([]byte(testKey(f, "keys/"+name+".pem")), []byte(""))
	}
	for _, name := range []string{"pbe-sha1-3des", "pbes2-aes256", "pbes2-3des-sha1", "pbes2-sha512", "scrypt"} {
		text := testKey(f, "keys/"+name+".pem")
		f.Add([]byte(text), []byte("rahasia"))
		block, _ := pem.Decode([]byte(text))
		f.Add(block.Bytes, []byte("rahasia")) // in DER a changed byte goes deeper
	}
	f.Fuzz(func(t *testing.T, data, passphrase []byte) {
		key, err := ParsePrivateKey(data, passphrase)
		if (key == nil) == (err == nil) {
			t.Errorf("key = %v, error = %v, want one of them", key != nil, err)
		}
	})
}
