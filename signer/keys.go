package signer

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des" //nolint:gosec // the cipher of the key files that DOKU's guide makes
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // likewise
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"unicode/utf16"

	"go.step.sm/crypto/pemutil"
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
	mostRounds  = 10_000_000 // of a key derivation, so that no file keeps the machine busy
)

const howToConvert = "convert it with `openssl pkcs8 -topk8 -nocrypt -in <file> -out <new file>`"

// ParsePrivateKey reads an RSA private key of 2048 bits or more: PKCS#1, PKCS#8,
// or PKCS#8 encrypted with passphrase: by PBES2, which is usual, or by
// `openssl pkcs8 -v1 PBE-SHA1-3DES`, which DOKU's guide uses. The key may be PEM,
// with any text or other PEM around it, with line ends of any kind, with "\n"
// written out as backslash and n, or on a single line; the base64 of PEM alone; or
// DER. A key that is not encrypted needs no passphrase, and ignores it.
//
// Of PBES2 it reads AES-CBC and 3DES with PBKDF2 and SHA-1 or SHA-256, the defaults of
// openssl. For another encryption, the error has the openssl command that removes it.
func ParsePrivateKey(data, passphrase []byte) (*rsa.PrivateKey, error) {
	kind, der, err := unwrap(data, beginPrivate)
	if err != nil {
		return nil, err
	}
	if strings.Contains(kind, "PUBLIC") || kind == "CERTIFICATE" {
		return nil, fmt.Errorf("%w: expected a private key, found a %s", ErrKeyKind, strings.ToLower(kind))
	}
	if key, err := privateFromDER(der); !errors.Is(err, ErrKeyFormat) {
		return key, err
	}
	if der, err = decrypt(der, passphrase); err != nil {
		return nil, err
	}
	key, err := privateFromDER(der)
	if errors.Is(err, ErrKeyFormat) {
		return nil, ErrPassphrase // decrypted to nonsense
	}
	return key, err
}

func privateFromDER(der []byte) (*rsa.PrivateKey, error) {
	key, err := x509.ParsePKCS1PrivateKey(der)
	if err != nil {
		var parsed any
		if parsed, err = x509.ParsePKCS8PrivateKey(der); err != nil {
			return nil, notPrivate(der)
		}
		var isRSA bool
		if key, isRSA = parsed.(*rsa.PrivateKey); !isRSA {
			return nil, fmt.Errorf("%w: expected an RSA private key, found %T", ErrKeyKind, parsed)
		}
	}
	if err := key.Validate(); err != nil {
		return nil, fmt.Errorf("%w: the RSA key is inconsistent", ErrKeyFormat)
	}
	if err := bigEnough(&key.PublicKey); err != nil {
		return nil, err
	}
	return key, nil
}

// notPrivate returns the error for der, which is not an RSA private key. It names the kind.
func notPrivate(der []byte) error {
	if _, err := x509.ParseECPrivateKey(der); err == nil {
		return fmt.Errorf("%w: expected an RSA private key, found an elliptic curve one", ErrKeyKind)
	}
	_, spki := x509.ParsePKIXPublicKey(der)
	_, pkcs1 := x509.ParsePKCS1PublicKey(der)
	if spki == nil || pkcs1 == nil {
		return fmt.Errorf("%w: expected a private key, found a public key", ErrKeyKind)
	}
	if _, err := x509.ParseCertificate(der); err == nil {
		return fmt.Errorf("%w: expected a private key, found a certificate", ErrKeyKind)
	}
	return fmt.Errorf("%w: expected an RSA private key, PKCS#1 or PKCS#8", ErrKeyFormat)
}

// ParsePublicKey reads an RSA public key of 2048 bits or more: SubjectPublicKeyInfo
// ("PUBLIC KEY"), PKCS#1 ("RSA PUBLIC KEY") or an X.509 certificate, written in
// any of the ways that [ParsePrivateKey] takes.
func ParsePublicKey(data []byte) (*rsa.PublicKey, error) {
	kind, der, err := unwrap(data, beginPublic)
	if err != nil {
		return nil, err
	}
	if strings.Contains(kind, "PRIVATE") {
		return nil, fmt.Errorf("%w: expected DOKU's public key, found a private key", ErrKeyKind)
	}
	var parsed any
	if parsed, err = x509.ParsePKCS1PublicKey(der); err != nil {
		parsed, err = x509.ParsePKIXPublicKey(der)
	}
	if err != nil {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			if _, err := privateFromDER(der); !errors.Is(err, ErrKeyFormat) {
				return nil, fmt.Errorf("%w: expected DOKU's public key, found a private key", ErrKeyKind)
			}
			return nil, fmt.Errorf("%w: expected an RSA public key, as DOKU's dashboard shows it", ErrKeyFormat)
		}
		parsed = certificate.PublicKey
	}
	key, isRSA := parsed.(*rsa.PublicKey)
	if !isRSA {
		return nil, fmt.Errorf("%w: expected an RSA public key, found %T", ErrKeyKind, parsed)
	}
	if err := bigEnough(key); err != nil {
		return nil, err
	}
	return key, nil
}

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

var (
	beginPrivate = regexp.MustCompile("-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
	beginPublic  = regexp.MustCompile("-----BEGIN [A-Z0-9 ]*PUBLIC KEY-----")
)

// unwrap returns the DER in data and the PEM type, if it has one. Of several PEM
// blocks it takes the first that begins as wanted, or else the first.
func unwrap(data []byte, wanted *regexp.Regexp) (kind string, der []byte, err error) {
	if len(data) > largestKey {
		return "", nil, fmt.Errorf("%w: more than %d bytes", ErrKeyFormat, largestKey)
	}
	var sequence asn1.RawValue
	if rest, err := asn1.Unmarshal(data, &sequence); err == nil && sequence.Tag == asn1.TagSequence && len(bytes.TrimSpace(rest)) == 0 {
		return "", sequence.FullBytes, nil
	}
	text := strings.NewReplacer(`\r`, "", `\n`, "\n", "\r", "\n", "\ufeff", "").Replace(string(data))
	text = strings.Trim(strings.TrimSpace(text), `"'`)
	if strings.Contains(text, "Proc-Type: 4,ENCRYPTED") {
		return "", nil, fmt.Errorf("%w: encrypted in the old way of PKCS#1; %s", ErrKeyFormat, howToConvert)
	}
	if begin := wanted.FindStringIndex(text); begin != nil {
		text = text[begin[0]:]
	}
	if _, after, found := strings.Cut(text, "-----BEGIN "); found {
		kind, after, _ = strings.Cut(after, "-----")
		body, _, ended := strings.Cut(after, "-----END ")
		if !ended {
			return "", nil, fmt.Errorf("%w: PEM without its END line", ErrKeyFormat)
		}
		text = body
	}
	der, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil || len(der) == 0 {
		return "", nil, fmt.Errorf("%w: expected PEM or base64", ErrKeyFormat)
	}
	return kind, der, nil
}

// encryptedKey is EncryptedPrivateKeyInfo of RFC 5208.
type encryptedKey struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

var (
	oidPBES2       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBESHA13DES = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 1, 3} // RFC 7292, appendix C

	oidPBKDF2         = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidHMACWithSHA1   = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 7}
	oidHMACWithSHA256 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}

	// cbcBlockSizes has the ciphers of PBES2 that are read.
	cbcBlockSizes = map[string]int{
		"2.16.840.1.101.3.4.1.2":  aes.BlockSize, // AES-128
		"2.16.840.1.101.3.4.1.22": aes.BlockSize, // AES-192
		"2.16.840.1.101.3.4.1.42": aes.BlockSize, // AES-256
		"1.2.840.113549.3.7":      des.BlockSize, // 3DES
	}
)

// decrypt opens an encrypted PKCS#8 key.
func decrypt(der, passphrase []byte) ([]byte, error) {
	var sealed encryptedKey
	if rest, err := asn1.Unmarshal(der, &sealed); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("%w: expected an RSA private key, PKCS#1 or PKCS#8", ErrKeyFormat)
	}
	if len(passphrase) == 0 {
		return nil, fmt.Errorf("%w: the key is encrypted; give its passphrase, or %s", ErrPassphrase, howToConvert)
	}
	switch {
	case sealed.Algorithm.Algorithm.Equal(oidPBES2):
		if err := checkPBES2(sealed); err != nil {
			return nil, err
		}
		open, err := pemutil.DecryptPKCS8PrivateKey(der, passphrase)
		if errors.Is(err, x509.IncorrectPasswordError) {
			return nil, ErrPassphrase
		} else if err != nil { // not wrapped, since it is not ours to say that it holds nothing secret
			return nil, fmt.Errorf("%w: unusable encryption parameters; %s", ErrKeyFormat, howToConvert)
		}
		return open, nil
	case sealed.Algorithm.Algorithm.Equal(oidPBESHA13DES):
		return decryptPBESHA13DES(sealed, passphrase)
	}
	return nil, fmt.Errorf("%w: encrypted by algorithm %s; %s", ErrKeyFormat, sealed.Algorithm.Algorithm, howToConvert)
}

// checkPBES2 tells whether pemutil can open a key with these PBES2 parameters
// (RFC 8018, A.4), and with a bounded effort. It must be asked first: pemutil
// panics at lengths that do not fit the cipher, and takes any hash that it does
// not know, or that follows a key length, for SHA-1.
func checkPBES2(sealed encryptedKey) error {
	var p struct {
		KDF struct {
			Algorithm asn1.ObjectIdentifier
			Params    struct {
				Salt   []byte
				Rounds int
				Length int                      `asn1:"optional"`
				PRF    pkix.AlgorithmIdentifier `asn1:"optional"`
			}
		}
		Cipher struct {
			Algorithm asn1.ObjectIdentifier
			IV        []byte
		}
	}
	_, err := asn1.Unmarshal(sealed.Algorithm.Parameters.FullBytes, &p)
	prf := p.KDF.Params.PRF.Algorithm
	block := cbcBlockSizes[p.Cipher.Algorithm.String()]
	if err != nil || block == 0 || !p.KDF.Algorithm.Equal(oidPBKDF2) || p.KDF.Params.Length != 0 ||
		len(prf) > 0 && !prf.Equal(oidHMACWithSHA1) && !prf.Equal(oidHMACWithSHA256) {
		return fmt.Errorf("%w: expected encryption by AES-CBC or 3DES, with PBKDF2 and SHA-1 or SHA-256, found another; %s", ErrKeyFormat,
			howToConvert)
	}
	if rounds := p.KDF.Params.Rounds; rounds < 1 || rounds > mostRounds {
		return fmt.Errorf("%w: expected 1 to %d rounds of key derivation, found %d", ErrKeyFormat, mostRounds, rounds)
	}
	if len(p.Cipher.IV) != block || len(sealed.Data) == 0 || len(sealed.Data)%block != 0 {
		return fmt.Errorf("%w: expected IV and encrypted data in blocks of %d bytes, found %d and %d bytes", ErrKeyFormat, block,
			len(p.Cipher.IV), len(sealed.Data))
	}
	return nil
}

// decryptPBESHA13DES opens a key that `openssl pkcs8 -v1 PBE-SHA1-3DES` made.
// The libraries that know this encryption open whole PKCS#12 files only, so its
// few lines are here.
func decryptPBESHA13DES(sealed encryptedKey, passphrase []byte) ([]byte, error) {
	var p struct {
		Salt   []byte
		Rounds int
	}
	if _, err := asn1.Unmarshal(sealed.Algorithm.Parameters.FullBytes, &p); err != nil || p.Rounds < 1 || p.Rounds > mostRounds {
		return nil, fmt.Errorf("%w: unusable encryption parameters", ErrKeyFormat)
	}
	const keyPurpose, ivPurpose = 1, 2
	password := bmpString(string(passphrase))
	block, err := des.NewTripleDESCipher(pkcs12Derive(password, p.Salt, p.Rounds, keyPurpose, 24)) //nolint:gosec // see the import
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeyFormat, err)
	}
	if len(sealed.Data) == 0 || len(sealed.Data)%block.BlockSize() != 0 {
		return nil, fmt.Errorf("%w: encrypted data of %d bytes", ErrKeyFormat, len(sealed.Data))
	}
	open := make([]byte, len(sealed.Data))
	iv := pkcs12Derive(password, p.Salt, p.Rounds, ivPurpose, block.BlockSize())
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(open, sealed.Data)
	padding := int(open[len(open)-1])
	if padding < 1 || padding > block.BlockSize() ||
		!bytes.Equal(open[len(open)-padding:], bytes.Repeat([]byte{byte(padding)}, padding)) { //nolint:gosec // at most a block
		return nil, ErrPassphrase
	}
	return open[:len(open)-padding], nil
}

// bmpString encodes a password for PKCS#12: big-endian UTF-16 with a zero at
// the end (RFC 7292, B.1).
func bmpString(s string) []byte {
	var b []byte
	for _, unit := range append(utf16.Encode([]rune(s)), 0) {
		b = binary.BigEndian.AppendUint16(b, unit)
	}
	return b
}

// pkcs12Derive derives size bytes for a purpose from password and salt, with
// SHA-1 (RFC 7292, B.2; the letters are its).
func pkcs12Derive(password, salt []byte, rounds int, purpose byte, size int) []byte {
	const v = sha1.BlockSize
	fill := func(b []byte) []byte {
		if len(b) == 0 {
			return nil
		}
		return bytes.Repeat(b, v/len(b)+2)[:(len(b)+v-1)/v*v]
	}
	var (
		one  = big.NewInt(1)
		d    = bytes.Repeat([]byte{purpose}, v)
		i    = slices.Concat(fill(salt), fill(password))
		mod  = new(big.Int).Lsh(one, 8*v)
		keys []byte
	)
	for len(keys) < size {
		a := sha1.Sum(slices.Concat(d, i)) //nolint:gosec // see the import
		for range rounds - 1 {
			a = sha1.Sum(a[:]) //nolint:gosec // see the import
		}
		keys = append(keys, a[:]...)
		b := new(big.Int).SetBytes(bytes.Repeat(a[:], v/len(a)+1)[:v])
		b.Add(b, one)
		for at := 0; at < len(i); at += v {
			part := new(big.Int).SetBytes(i[at : at+v])
			part.Add(part, b).Mod(part, mod).FillBytes(i[at : at+v])
		}
	}
	return keys[:size]
}
