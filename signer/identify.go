package signer

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"strings"
)

// content says what a file holds. The zero value means that it is not known.
type content struct {
	name      string // such as "a certificate"
	algorithm string // of a key: "an RSA", "an elliptic curve", …
	todo      string // what to do to get a key that can be used; or ""

	private, public bool // the half of a key
	sealed          bool // an encrypted private key

	privateKey  *rsa.PrivateKey
	publicKey   *rsa.PublicKey
	certificate *x509.Certificate
}

// advice returns what to do, as the end of an error.
func (c content) advice() string {
	if c.todo == "" {
		return ""
	}
	return "; " + c.todo
}

const (
	fromSSHPrivate = "convert a copy of it with `ssh-keygen -p -m PKCS8 -f <copy>`"
	fromSSHPublic  = "convert it with `ssh-keygen -e -m PKCS8 -f <file>`"
	fromPKCS12     = "extract the key with `openssl pkcs12 -in <file> -nocerts -nodes -out <new file>`"
)

// Magic numbers of files that are not DER.
var (
	magicOpenSSH    = []byte("openssh-key-v1\x00")
	magicSSHPublic  = []byte("\x00\x00\x00\x07ssh-")
	magicECDSAInSSH = []byte("\x00\x00\x00\x13ecdsa-")
	magicJKS        = []byte("\xfe\xed\xfe\xed")
)

var (
	oidRSAPSS     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}
	oidDSA        = asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 1}
	oidEC         = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	oidPKCS7      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7}
	oidPBE        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5}
	oidPKCS12PBEs = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 1}
)

// identify says what der is. The label of its PEM, which may be wrong, counts only if der
// does not tell.
func identify(label string, der []byte) content {
	switch {
	case bytes.HasPrefix(der, magicOpenSSH):
		return content{name: "an OpenSSH private key", algorithm: "an OpenSSH", private: true, todo: fromSSHPrivate}
	case bytes.HasPrefix(der, magicSSHPublic), bytes.HasPrefix(der, magicECDSAInSSH):
		return content{name: "an OpenSSH public key", todo: fromSSHPublic}
	case bytes.HasPrefix(der, magicJKS):
		return content{name: "a Java keystore", todo: "convert it to PKCS#12 with keytool, then " + fromPKCS12}
	}
	if label == "TRUSTED CERTIFICATE" { // openssl's own: a certificate and more
		if size, ok := sizeOf(der); ok && size < len(der) {
			der = der[:size]
		}
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return content{algorithm: "an RSA", private: true, privateKey: key}
	}
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		c := content{algorithm: algorithmOf(key), private: true}
		c.privateKey, _ = key.(*rsa.PrivateKey)
		return c
	}
	if _, err := x509.ParseECPrivateKey(der); err == nil {
		return content{algorithm: "an elliptic curve", private: true}
	}
	if key, err := x509.ParsePKCS1PublicKey(der); err == nil {
		return content{name: "a public key", algorithm: "an RSA", public: true, publicKey: key}
	}
	if key, err := x509.ParsePKIXPublicKey(der); err == nil {
		c := content{name: "a public key", algorithm: algorithmOf(key), public: true}
		c.publicKey, _ = key.(*rsa.PublicKey)
		return c
	}
	if certificate, err := x509.ParseCertificate(der); err == nil {
		c := content{
			name: "a certificate", algorithm: "a certificate of " + algorithmOf(certificate.PublicKey), public: true, certificate: certificate,
		}
		c.publicKey, _ = certificate.PublicKey.(*rsa.PublicKey)
		return c
	}
	if c := identifyRest(der); c != (content{}) {
		return c
	}
	if known, ok := foreignLabels[label]; ok {
		return known
	}
	return content{}
}

// identifyRest recognizes the files that nothing can be read from.
func identifyRest(der []byte) content {
	if _, err := x509.ParseCertificateRequest(der); err == nil {
		return foreignLabels["CERTIFICATE REQUEST"]
	}
	if _, err := x509.ParseRevocationList(der); err == nil {
		return foreignLabels["X509 CRL"]
	}
	var sealed encryptedKey
	if rest, err := asn1.Unmarshal(der, &sealed); err == nil && len(rest) == 0 {
		if id := sealed.Algorithm.Algorithm; within(id, oidPBE) || within(id, oidPKCS12PBEs) {
			return content{sealed: true}
		}
	}
	var private struct {
		Version   int
		Algorithm pkix.AlgorithmIdentifier
		Key       []byte
	}
	if _, err := asn1.Unmarshal(der, &private); err == nil {
		return content{algorithm: algorithmName(private.Algorithm.Algorithm), private: true, todo: "make one with `openssl genrsa 2048`"}
	}
	var public struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &public); err == nil {
		return content{name: "a public key", algorithm: algorithmName(public.Algorithm.Algorithm), public: true}
	}
	var message struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue
	}
	if _, err := asn1.Unmarshal(der, &message); err == nil && within(message.Type, oidPKCS7) {
		return foreignLabels["PKCS7"]
	}
	var archive struct {
		Version int
		Safe    struct {
			Type    asn1.ObjectIdentifier
			Content asn1.RawValue
		}
		MAC asn1.RawValue `asn1:"optional"`
	}
	if _, err := asn1.Unmarshal(der, &archive); err == nil && within(archive.Safe.Type, oidPKCS7) {
		return content{name: "a PKCS#12 file", todo: fromPKCS12}
	}
	return content{}
}

func within(id, above asn1.ObjectIdentifier) bool {
	return len(id) >= len(above) && id[:len(above)].Equal(above)
}

// algorithmOf names a key's algorithm as users know it.
func algorithmOf(key any) string {
	switch key.(type) {
	case *rsa.PrivateKey, *rsa.PublicKey:
		return "an RSA"
	case *ecdsa.PrivateKey, *ecdsa.PublicKey:
		return "an elliptic curve"
	case ed25519.PrivateKey, ed25519.PublicKey:
		return "an Ed25519"
	case *ecdh.PrivateKey, *ecdh.PublicKey:
		return "an X25519"
	}
	return "another"
}

func algorithmName(id asn1.ObjectIdentifier) string {
	switch {
	case id.Equal(oidRSAPSS):
		return "an RSA-PSS"
	case id.Equal(oidDSA):
		return "a DSA"
	case id.Equal(oidEC):
		return "an elliptic curve"
	}
	return "another"
}

// foreignLabels are PEM labels of what cannot be used.
var foreignLabels = map[string]content{
	"OPENSSH PRIVATE KEY":     {name: "an OpenSSH private key", algorithm: "an OpenSSH", private: true, todo: fromSSHPrivate},
	"SSH2 PUBLIC KEY":         {name: "an SSH public key", todo: fromSSHPublic},
	"CERTIFICATE REQUEST":     {name: "a certificate request (CSR)", todo: "give the key itself"},
	"NEW CERTIFICATE REQUEST": {name: "a certificate request (CSR)", todo: "give the key itself"},
	"X509 CRL":                {name: "a list of revoked certificates", todo: "give the key itself"},
	"PKCS7":                   {name: "a PKCS#7 bundle", todo: "give the key itself"},
	"CMS":                     {name: "a PKCS#7 bundle", todo: "give the key itself"},
	"DSA PRIVATE KEY":         {algorithm: "a DSA", private: true, todo: "make one with `openssl genrsa 2048`"},
	"EC PRIVATE KEY":          {algorithm: "an elliptic curve", private: true, todo: "make one with `openssl genrsa 2048`"},
	"DH PARAMETERS":           {name: "parameters without a key"},
	"EC PARAMETERS":           {name: "parameters without a key"},
}

// foreignError is the error of a file that is recognized, but of another program. It is
// an [ErrKeyKind].
type foreignError struct{ content }

func (e foreignError) Error() string {
	return fmt.Sprintf("%v: expected an RSA key in PEM, found %s%s", ErrKeyKind, e.name, e.advice())
}

func (foreignError) Unwrap() error { return ErrKeyKind }

// foreignText recognizes texts of other programs.
func foreignText(text string) error {
	starts := func(prefixes ...string) bool {
		for _, prefix := range prefixes {
			if strings.HasPrefix(text, prefix) {
				return true
			}
		}
		return false
	}
	switch {
	case starts("ssh-rsa", "ssh-dss", "ssh-ed25519", "ecdsa-sha2-", "sk-ssh-", "AAAAB3NzaC1", "AAAAC3NzaC1", "AAAAE2VjZHNh"):
		return foreignError{content{name: "an OpenSSH public key", todo: fromSSHPublic}}
	case starts("---- BEGIN SSH2 ENCRYPTED PRIVATE KEY"):
		return foreignError{content{name: "an SSH private key", todo: "convert it with ssh-keygen"}}
	case starts("---- BEGIN SSH2"):
		return foreignError{content{name: "an SSH public key", todo: "convert it with `ssh-keygen -i -f <file>`, then `ssh-keygen -e -m PKCS8`"}}
	case starts("PuTTY-User-Key-File"):
		return foreignError{content{name: "a PuTTY key", todo: "convert it with `puttygen <file> -O private-openssh -o <new file>`"}}
	case strings.Contains(text, "BEGIN PGP "):
		return foreignError{content{name: "a PGP key", todo: "make an RSA key with `openssl genrsa 2048`"}}
	case starts("<RSAKeyValue", "<?xml"):
		return foreignError{content{name: "a key in XML", todo: "export it as PEM"}}
	case starts("{") && strings.Contains(text, `"kty"`):
		return foreignError{content{name: "a JSON web key (JWK)", todo: "export it as PEM"}}
	}
	return nil
}
