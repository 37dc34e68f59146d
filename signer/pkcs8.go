package signer

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"  //nolint:gosec // the cipher of the key files that DOKU's guide makes
	"crypto/sha1" //nolint:gosec // likewise
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"unicode/utf16"

	"go.step.sm/crypto/pemutil"
)

const mostRounds = 10_000_000 // of a key derivation, so that no file keeps the machine busy

const howToConvert = "convert it with `openssl pkcs8 -topk8 -nocrypt -in <file> -out <new file>`"

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
