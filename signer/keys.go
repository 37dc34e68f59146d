package signer

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
)

// Why a key is not taken. Test for them with [errors.Is]. No error holds any
// part of a key.
var (
	ErrKeyFormat   = errors.New("not a key in a known format")
	ErrKeyKind     = errors.New("another kind of key than expected")
	ErrKeyTooSmall = errors.New("RSA key smaller than 2048 bits")
	ErrPassphrase  = errors.New("passphrase missing or wrong")
)

const (
	smallestKey = 2048 // bits
	largestKey  = 64 << 10
)

// ParsePrivateKey reads an RSA private key of 2048 bits or more: PKCS#1, PKCS#8,
// or PKCS#8 encrypted with passphrase: by PBES2, which is usual, or by
// `openssl pkcs8 -v1 PBE-SHA1-3DES`, which DOKU's guide uses. A key that is not
// encrypted needs no passphrase, and ignores it.
//
// The key may be PEM, with any text or other PEM around it; the base64 of PEM, with or
// without its BEGIN and END lines, also in the alphabet of URLs; the base64 of a whole
// PEM file; or DER. Line ends may be of any kind, missing, or written out as backslash
// and n. Indentation, backslashes at line ends, quotes around the key, byte order marks
// and other invisible characters do not matter, nor do UTF-16, two to any number of hyphens
// in place of five, or a name before bare base64, as in a line of an env file.
//
// Of PBES2 it reads AES-CBC and 3DES with PBKDF2 and SHA-1 or SHA-256, the defaults of
// openssl. For another encryption, the error has the openssl command that removes it.
func ParsePrivateKey(data, passphrase []byte) (*rsa.PrivateKey, error) {
	label, der, err := unwrap(data, privateLabels)
	if err != nil {
		return nil, err
	}
	found := identify(label, der)
	if found.sealed {
		if der, err = decrypt(der, passphrase); err != nil {
			return nil, err
		}
		if found = identify("", der); found == (content{}) {
			return nil, ErrPassphrase // decrypted to nonsense
		}
	}
	switch {
	case found.privateKey != nil:
		if err := found.privateKey.Validate(); err != nil {
			return nil, fmt.Errorf("%w: the RSA key is inconsistent", ErrKeyFormat)
		}
		if err := bigEnough(&found.privateKey.PublicKey); err != nil {
			return nil, err
		}
		return found.privateKey, nil
	case found.private:
		return nil, fmt.Errorf("%w: expected an RSA private key, found %s one%s", ErrKeyKind, found.algorithm, found.advice())
	case found.name != "":
		return nil, fmt.Errorf("%w: expected a private key, found %s%s", ErrKeyKind, found.name, found.advice())
	}
	return nil, fmt.Errorf("%w: expected an RSA private key, PKCS#1 or PKCS#8%s", ErrKeyFormat, damage(der))
}

// ParsePublicKey reads an RSA public key of 2048 bits or more: SubjectPublicKeyInfo
// ("PUBLIC KEY"), PKCS#1 ("RSA PUBLIC KEY") or an X.509 certificate, written in
// any of the ways that [ParsePrivateKey] takes. It does not look at the times of a
// certificate; see [ParseCertificate].
func ParsePublicKey(data []byte) (*rsa.PublicKey, error) {
	label, der, err := unwrap(data, publicLabels)
	if err != nil {
		return nil, err
	}
	found := identify(label, der)
	switch {
	case found.publicKey != nil:
		if err := bigEnough(found.publicKey); err != nil {
			return nil, err
		}
		return found.publicKey, nil
	case found.public:
		return nil, fmt.Errorf("%w: expected an RSA public key, found %s one%s", ErrKeyKind, found.algorithm, found.advice())
	case found.private || found.sealed:
		return nil, fmt.Errorf("%w: expected DOKU's public key, found a private key", ErrKeyKind)
	case found.name != "":
		return nil, fmt.Errorf("%w: expected DOKU's public key, found %s%s", ErrKeyKind, found.name, found.advice())
	}
	return nil, fmt.Errorf("%w: expected an RSA public key, as DOKU's dashboard shows it%s", ErrKeyFormat, damage(der))
}

// ParseCertificate returns the X.509 certificate that [ParsePublicKey] reads the key
// from, or nil if data is no certificate.
func ParseCertificate(data []byte) *x509.Certificate {
	label, der, err := unwrap(data, publicLabels)
	if err != nil {
		return nil
	}
	return identify(label, der).certificate
}

// DescribeKey says which kind of key data holds, such as "a public key", in whatever way
// it is written, or returns "" if it holds none that is known. Use it to recognize a key
// where something else is expected.
func DescribeKey(data []byte) string {
	label, der, err := unwrap(data, privateLabels)
	if foreign, ok := errors.AsType[foreignError](err); ok {
		return foreign.name
	}
	found := identify(label, der)
	switch {
	case found.sealed, found.private:
		return "a private key"
	case found.name != "":
		return found.name
	case brokenKey.Match(data):
		return "a part of a key"
	}
	return ""
}

// brokenKey matches what begins as keys do: PEM, base64 of DER or of PEM.
var brokenKey = regexp.MustCompile(`BEGIN [A-Z0-9 ]*(KEY|CERTIFICATE)|^\W*(MII[A-Za-z0-9+/_-]{40}|LS0tLS1CRUdJTi)`)

func bigEnough(key *rsa.PublicKey) error {
	if bits := key.N.BitLen(); bits < smallestKey {
		return fmt.Errorf("%w: it has %d", ErrKeyTooSmall, bits)
	}
	return nil
}

// Fingerprint identifies a public key in logs: it is "SHA256:" and the base64 of the SHA-256 of its SubjectPublicKeyInfo.
func Fingerprint(key *rsa.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "SHA256:invalid"
	}
	sum := sha256.Sum256(der)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}
