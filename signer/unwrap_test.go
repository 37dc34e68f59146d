package signer

import (
	"bytes"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

func TestKeysAreReadInEveryWrapping(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"pkcs8", "pkcs1", "pbes2-aes256", "pbe-sha1-3des"} {
		want, err := ParsePrivateKey([]byte(testKey(t, "keys/"+name+".pem")), []byte("rahasia"))
		if err != nil {
			t.Fatal(err)
		}
		for _, wrapping := range doktest.Wrappings(t, doktest.Data(t, "keys/"+name+".pem")) {
			if got, err := ParsePrivateKey(wrapping.Key, []byte("rahasia")); err != nil || !got.Equal(want) {
				t.Errorf("%s, %s: error %v", name, wrapping.Name, err)
			}
			if wrapping.Name != "as a line of an env file" && DescribeKey(wrapping.Key) != "a private key" {
				t.Errorf("%s, %s: it is described as %q", name, wrapping.Name, DescribeKey(wrapping.Key))
			}
		}
	}
	for _, name := range []string{"test-doku-public", "keys/public-pkcs1", "keys/certificate"} {
		want, err := ParsePublicKey([]byte(testKey(t, name+".pem")))
		if err != nil {
			t.Fatal(err)
		}
		for _, wrapping := range doktest.Wrappings(t, doktest.Data(t, name+".pem")) {
			got, err := ParsePublicKey(wrapping.Key)
			if err != nil || !got.Equal(want) {
				t.Errorf("%s, %s: error %v", name, wrapping.Name, err)
			}
			if isCertificate := ParseCertificate(wrapping.Key) != nil; isCertificate != (name == "keys/certificate") {
				t.Errorf("%s, %s: it is a certificate: %v", name, wrapping.Name, isCertificate)
			}
		}
	}
}

func TestAKeyThatCannotBeReadIsNamedWithItsCause(t *testing.T) {
	t.Parallel()
	private, public := testKey(t, "keys/pkcs8.pem"), testKey(t, "test-doku-public.pem")
	lines := strings.Split(strings.TrimSpace(private), "\n")
	replaced := func(newline string) string { return strings.Join(lines, newline) }
	block, _ := pem.Decode([]byte(private))
	bare := strings.ReplaceAll(pemBody(private), "\n", "")
	tests := []struct {
		name, key string
		is        error
		says      string
	}{
		{"newlines became |", replaced("|"), ErrKeyFormat, `found the character '|' (U+007C) in line 1 at character 28`},
		{"newlines became commas", replaced(","), ErrKeyFormat, `found the character ',' (U+002C) in line 1`},
		{"newlines became the letter n", replaced("n"), ErrKeyFormat, "its line ends have become the letter n"},
		{
			"a character in the third line",
			lines[0] + "\n" + lines[1] + "\nab?d\n" + lines[len(lines)-1],
			ErrKeyFormat,
			`found the character '?' (U+003F) in line 3 at character 3`,
		},
		{"quoted in a mail", "> " + replaced("\n> "), ErrKeyFormat, `found the character '>' (U+003E) in line 2 at character 1`},
		{"a line lost to an ellipsis", lines[0] + "\n" + lines[1] + "…\n" + lines[len(lines)-1], ErrKeyFormat, "(U+2026, ellipsis)"},
		{
			"em dashes",
			strings.ReplaceAll(private, "-----", "—"),
			ErrKeyFormat,
			`expected five hyphens (-----) before BEGIN, found "—" (U+2014, em dash)`,
		},
		{"en dashes", strings.ReplaceAll(private, "--", "–"), ErrKeyFormat, "(U+2013, en dash)"},
		{"an em dash before END", strings.ReplaceAll(private, "-----END", "—END"), ErrKeyFormat, "before END, found \"—\""},
		{"one hyphen", strings.ReplaceAll(private, "-----", "-"), ErrKeyFormat, `before BEGIN, found "-"`},
		{"BEGIN in small letters", strings.ReplaceAll(private, "BEGIN PRIVATE KEY", "begin private key"), ErrKeyFormat, "in capital letters"},
		{"BEGIN in mixed letters", strings.ReplaceAll(private, "PRIVATE KEY", "Private Key"), ErrKeyFormat, "in capital letters"},
		{"bare base64 in JSON", `{"key":"` + bare + `"}`, ErrKeyFormat, "found JSON without PEM in it"},
		{"no hyphens", strings.ReplaceAll(private, "-----", ""), ErrKeyFormat, "found none"},
		{"an unfinished BEGIN line", strings.Replace(private, "KEY-----", "KEY—", 1), ErrKeyFormat, "expected a BEGIN and an END line"},
		{"without its BEGIN line", replaced("\n")[len(lines[0]):], ErrKeyFormat, "expected a BEGIN and an END line"},
		{"without its END line", strings.Join(lines[:10], "\n"), ErrKeyFormat, "PEM without its END line: it is cut off"},
		{
			"with a line missing",
			strings.Join(append(append([]string{}, lines[:5]...), lines[6:]...), "\n"),
			ErrKeyFormat,
			"it is cut off: expected 1",
		},
		{"bare base64 that is cut off", bare[:400], ErrKeyFormat, "it is cut off: expected 1"},
		{
			"bare base64 that is cut off within four characters",
			bare[:401],
			ErrKeyFormat,
			"the base64 is cut off: it has 401 characters",
		},
		{"DER that is cut off", string(block.Bytes[:500]), ErrKeyFormat, "DER that is cut off: expected 1"},
		{"base64 and more behind it", "QUJD=" + bare[3:], ErrKeyFormat, "expected the end of the base64 after ="},
		{
			"an OpenSSH public key",
			"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC7 siti@laptop",
			ErrKeyKind,
			"found an OpenSSH public key; convert it with `ssh-keygen -e -m PKCS8 -f <file>`",
		},
		{"an OpenSSH public key alone", "AAAAB3NzaC1yc2EAAAADAQABAAABgQC7", ErrKeyKind, "found an OpenSSH public key"},
		{"a key of PuTTY", "PuTTY-User-Key-File-3: ssh-rsa\nEncryption: none", ErrKeyKind, "puttygen <file> -O private-openssh"},
		{
			"a PGP key",
			"-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: 1\n\nlQOY\n-----END PGP PRIVATE KEY BLOCK-----",
			ErrKeyKind,
			"found a PGP key",
		},
		{"a key in XML", "<RSAKeyValue><Modulus>AQAB</Modulus></RSAKeyValue>", ErrKeyKind, "found a key in XML; export it as PEM"},
		{"a JSON web key", `{"kty":"RSA","n":"AQAB"}`, ErrKeyKind, "found a JSON web key (JWK)"},
		{"a Java keystore", "\xfe\xed\xfe\xed\x00\x00\x00\x02", ErrKeyKind, "found a Java keystore"},
		{"an elliptic curve key", testKey(t, "keys/ec.pem"), ErrKeyKind, "expected an RSA private key, found an elliptic curve one"},
		{"another binary file", "\x7fELF\xff\xff", ErrKeyFormat, "found a binary file of another kind"},
		{"DOKU's key", public, ErrKeyKind, "expected a private key, found a public key"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := ParsePrivateKey([]byte(test.key), nil)
			if !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "*") {
				t.Errorf("error %v, expected it to say %q", err, test.says)
			}
		})
	}
}

// The keys of other programs are made by those programs.
func TestKeysOfOtherProgramsAreNamed(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"openssl", "ssh-keygen"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("skipped, because there is no " + program)
		}
	}
	dir := t.TempDir()
	run := func(line string) {
		t.Helper()
		words := strings.Split(line, " ")
		for i, word := range words {
			if word == "''" {
				words[i] = ""
			}
		}
		cmd := exec.Command(words[0], words[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
	key := doktest.Path(t, "keys/pkcs8.pem")
	run("ssh-keygen -q -t rsa -b 2048 -N '' -f ssh")
	run("openssl req -new -key " + key + " -subj /CN=toko -out request.pem")
	run("openssl req -new -x509 -key " + key + " -subj /CN=toko -out certificate.pem")
	run("openssl pkcs12 -export -inkey " + key + " -in certificate.pem -passout pass:rahasia -out archive.p12")
	run("openssl crl2pkcs7 -nocrl -certfile certificate.pem -out bundle.p7b")
	run("openssl genpkey -algorithm ED25519 -out ed25519.pem")
	run("openssl genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048 -out pss.pem")
	run("openssl ecparam -name secp256k1 -genkey -out k1.pem")
	run("openssl pkey -in " + key + " -text -out text.pem")
	run("openssl x509 -in certificate.pem -text -out certificate-text.pem")
	run("openssl x509 -in certificate.pem -trustout -out trusted.pem")
	tests := []struct{ file, private, public string }{ // "" for a key that is read
		{
			"ssh",
			"found an OpenSSH one; convert a copy of it with `ssh-keygen -p -m PKCS8 -f <copy>`",
			"expected DOKU's public key, found a private key",
		},
		{"ssh.pub", "found an OpenSSH public key", "found an OpenSSH public key; convert it with `ssh-keygen -e -m PKCS8 -f <file>`"},
		{"request.pem", "found a certificate request (CSR)", "found a certificate request (CSR)"},
		{"archive.p12", "found a PKCS#12 file; extract the key with `openssl pkcs12", "found a PKCS#12 file"},
		{"bundle.p7b", "found a PKCS#7 bundle", "found a PKCS#7 bundle"},
		{"ed25519.pem", "expected an RSA private key, found an Ed25519 one", "found a private key"},
		{"pss.pem", "expected an RSA private key, found an RSA-PSS one", "found a private key"},
		{"k1.pem", "expected an RSA private key, found an elliptic curve one", "found a private key"},
		{"text.pem", "", "found a private key"},
		{"certificate-text.pem", "found a certificate", ""},
		{"trusted.pem", "found a certificate", ""},
	}
	for _, test := range tests {
		data, err := os.ReadFile(filepath.Join(dir, test.file))
		if err != nil {
			t.Fatal(err)
		}
		check := func(err error, says string) {
			t.Helper()
			if says == "" && err != nil || says != "" && (!errors.Is(err, ErrKeyKind) || !strings.Contains(err.Error(), says)) {
				t.Errorf("%s: error %v, expected %q", test.file, err, says)
			}
		}
		_, err = ParsePrivateKey(data, nil)
		check(err, test.private)
		_, err = ParsePublicKey(data)
		check(err, test.public)
		if test.file != "text.pem" && DescribeKey(data) == "" {
			t.Errorf("%s is not recognized as a key", test.file)
		}
	}
	// The commands in the errors do what they say.
	run("ssh-keygen -q -p -m PKCS8 -N '' -f ssh")
	converted, err := os.ReadFile(filepath.Join(dir, "ssh"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParsePrivateKey(converted, nil); err != nil {
		t.Error(err)
	}
	public, err := exec.Command("ssh-keygen", "-e", "-m", "PKCS8", "-f", filepath.Join(dir, "ssh.pub")).Output()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParsePublicKey(public); err != nil {
		t.Error(err)
	}
}

func TestDERMayEndWithTheByteOfALineEnd(t *testing.T) {
	t.Parallel()
	for _, end := range []byte("\r\n \t") {
		der := []byte{0x30, 3, 4, 1, end}
		for _, behind := range []string{"", "\n", "\r\n"} {
			if got, found := sequenceIn(append(slices.Clone(der), behind...)); !found || !bytes.Equal(got, der) {
				t.Errorf("%q behind %x: found %x, %v", behind, der, got, found)
			}
		}
	}
}
