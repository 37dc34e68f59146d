package credential

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/signer"
)

const (
	aSecret   = "SK-VknOxwR4xZSEPnG7fpJo"
	aClientID = "BRN-0211-1696919651919"
)

// read checks a value, and that the error does not repeat it.
func read(t *testing.T, check func(string) (string, error), value, wantErr, wantOdd string) {
	t.Helper()
	odd, err := check(value)
	if (err == nil) != (wantErr == "") || err != nil && !strings.Contains(err.Error(), wantErr) {
		t.Errorf("%.60q: error %v, expected %q", value, err, wantErr)
	}
	if (odd == "") != (wantOdd == "") || !strings.Contains(odd, wantOdd) {
		t.Errorf("%.60q: odd %q, expected %q", value, odd, wantOdd)
	}
	for _, text := range []string{odd, errorText(err)} {
		if strings.Contains(text, "VknO") || len(value) > 40 && strings.Contains(text, value[20:40]) {
			t.Errorf("a part of the secret is in %q", text)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestASecretThatCannotBeRightIsRefused(t *testing.T) {
	t.Parallel()
	check := func(text string) (string, error) { return CheckSecret(text, aClientID) }
	for _, of := range [][2]string{
		{`"`, `"`},
		{"'", "'"},
		{"`", "`"},
		{"“", "”"},
		{"‘", "’"},
		{"„", "“"},
		{"«", "»"},
		{"‹", "›"},
		{"「", "」"},
		{"＂", "＂"},
		{"″", "″"},
		{"´", "´"},
		{"“", `"`},
		{`"`, "”"},
		{"", `"`},
		{"'", ""},
		{"", "”"},
		{"“", ""},
		{`"'`, `'"`},
	} {
		read(t, check, of[0]+aSecret+of[1], "it is in quotes", "")
	}
	for _, text := range []string{
		"SK-…", "SK-...", "SK-", "SK-....", "<secret>", "SK-<secret>", "<SK-…>", "YOUR_SECRET", "your-secret-key", "SK-your-secret-key", "SK-yoursecretkey123",
		"changeme", "CHANGE_ME", "change-me-please", "SK-changeme", "replace_me", "REPLACE-WITH-YOUR-KEY", "secret", "SECRET_KEY", "DOKU_SECRET_KEY", "TODO",
		"placeholder", "[secret]", "{secret}", "{{ .Values.dokuSecret }}", "${DOKU_SECRET_KEY}", "$DOKU_SECRET_KEY", "{$DOKU_SECRET_KEY}", "%DOKU_SECRET_KEY%",
		"password", "null", "undefined", "none", "example", "rahasia", "ganti-ini", "ISI_DI_SINI", "isi-dengan-secret", "---", "insert-your-secret-here",
		"<your DOKU secret>", "[REDACTED]", "SK-redacted",
	} {
		read(t, check, text, "it is a placeholder", "")
	}
	for _, text := range []string{
		"SK-****************", "SK-Vkn*************pJo", "************", "SK-••••••••••••", "SK-●●●●●●", "SK-∙∙∙∙", "SK-····", "SK-■■■■", "SK-████", "SK-xxxxxxxxxxxx",
		"SK-XXXX", "SK-xxxx-xxxx-xxxx", "xxxxxxxx", "SK-VknOxxxxxxxxxxxpJo", "SK-VknO################", "SK-VknO________fpJo", "SK-????????", "SK-Vkn＊＊＊＊",
	} {
		read(t, check, text, "it is masked", "")
	}
	private := string(doktest.Data(t, "keys/pkcs8.pem"))
	for _, name := range []string{"keys/pkcs8", "keys/pkcs1", "keys/pbes2-aes256", "keys/ec"} {
		for _, wrapping := range doktest.Wrappings(t, doktest.Data(t, name+".pem")) {
			if wrapping.Name != "as a line of an env file" {
				read(t, check, string(wrapping.Key), "found a private key; are secret_key and private_key swapped?", "")
			}
		}
	}
	for _, name := range []string{"test-doku-public", "test-merchant-public", "keys/public-pkcs1"} {
		for _, wrapping := range doktest.Wrappings(t, doktest.Data(t, name+".pem")) {
			read(t, check, string(wrapping.Key), "found a public key; are secret_key and doku_public_key swapped?", "")
		}
	}
	block, _ := pem.Decode([]byte(private))
	for _, test := range [][2]string{
		{string(doktest.Data(t, "keys/certificate.pem")), "found a certificate"},
		{private[:400], "found a part of a key"},
		{base64.StdEncoding.EncodeToString(block.Bytes)[:200], "found a part of a key"},
		{base64.StdEncoding.EncodeToString([]byte(private))[:201], "found a part of a key"},
		{"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC7", "found an OpenSSH public key"},
		{aClientID, "found a client id; are client_id and secret_key swapped?"},
		{"MCH-0001-10791114622547", "found a client id"},
		{"eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJET0tVIn0.c2ln", "found a token (JWT)"},
		{"https://dashboard.doku.com/", "found a URL"},
		{"~/doku/secret", "write the whole path"},
		{"secrets/doku.txt", "write the whole path"},
		{"DOKU_SECRET_KEY=" + aSecret, "found NAME=value"},
		{"secret: " + aSecret, "found NAME=value"},
		{"export DOKU_SECRET_KEY=" + aSecret, "found NAME=value"},
		{`export DOKU_SECRET_KEY="` + aSecret + `"`, "found NAME=value"},
		{"DOKU_SECRET_KEY='" + aSecret + "'", "found NAME=value"},
		{`$env:DOKU_SECRET_KEY = "` + aSecret + `"`, "found NAME=value"},
		{"set DOKU_SECRET_KEY=" + aSecret, "found NAME=value"},
		{`const secret = "` + aSecret + `";`, "found NAME=value"},
		{`"secret": "` + aSecret + `",`, "found NAME=value"},
		{`'secret' => '` + aSecret + `',`, "found NAME=value"},
		{"DOKU_CLIENT_ID=" + aClientID + "\nDOKU_SECRET_KEY=" + aSecret, "found NAME=value"},
		{"# DOKU\nDOKU_SECRET_KEY=" + aSecret, "found the character"},
		{"secret_key " + aSecret, "blank (U+0020) at place 11"},
		{"FROM_DOKU=", "found NAME= with nothing behind it"},
		{`{"secret":"` + aSecret + `"}`, "found JSON; write only its value"},
		{`{"secret":"` + aSecret, "found JSON"},
		{"{'secret': '" + aSecret + "'}", "found JSON"},
		{"{\n  \"secret_key\": \"" + aSecret + "\",\n  \"client_id\": \"BRN-1-1\"\n}", "found JSON"},
		{`["` + aSecret + `"]`, "found JSON"},
		{`"` + aSecret + `",`, "it is in quotes"},
		{`SK-Vkn"OxwR4xZSEPnG7fpJo`, "quotation mark (U+0022) at place 7"},
		{`SK-Vkn'OxwR4xZSEPnG7fpJo`, "apostrophe (U+0027) at place 7"},
		{`SK-"VknOxwR4xZSEPnG7fpJo"`, "it is in quotes"},
		{"SK-Vkn”OxwR4xZSEPnG7fpJo", "it is in quotes"},
		{aSecret + ",", "comma (U+002C) at place 24; it is the last one; take it away"},
		{aSecret + ";", "semicolon (U+003B) at place 24; it is the last one; take it away"},
		{aSecret + ")", "U+0029 at place 24"},
		{aSecret + "}", "U+007D at place 24"},
		{aSecret + `\n`, "backslash (U+005C) at place 24; copy it again"},
		{aSecret + `\`, "backslash (U+005C) at place 24; it is the last one"},
		{aSecret + ",SK-VknOtherxZSEPnG7fpJo", "comma (U+002C) at place 24; copy it again"},
		{"doku_key_VknOxwR4xZSE;", "semicolon (U+003B) at place 22"},
		{"SK-Vkn OxwR4", "found the character blank (U+0020) at place 7"},
		{aSecret + "\nSK-old", "line end (U+000A)"},
		{"SK-Vkn\u200bOxwR4", "U+200B, which is invisible, at place 7"},
		{"SK\u2013VknOxwR4", "U+2013 at place 3"},
		{"SK-VknОxwR4xZSE", "U+041E at place 7"},
	} {
		read(t, check, test[0], test[1], "")
	}
}

func TestAnOddSecretIsTakenWithAWarning(t *testing.T) {
	t.Parallel()
	check := func(text string) (string, error) { return CheckSecret(text, aClientID) }
	for _, test := range [][2]string{
		{aSecret, ""},
		{"SK-test-0123456789ABCDEF", ""},
		{"SK-XxYy00000000aaaabbbb", ""},
		{"SK-secret0secret0secret", ""},
		{"doku_key_0123456789abcdef", "it does not begin with SK-"},
		{"sk-VknOxwR4xZSEPnG7fpJo", "it does not begin with SK-"},
		{"c2VjcmV0LWFiY2RlZg==", "it does not begin with SK-"},
		{"SK-Vkn", "is it cut off?"},
		{"SK-VknOxwR4!ZSEPnG7fpJo", "characters that DOKU's secret keys do not have"},
	} {
		read(t, check, test[0], "", test[1])
	}
}

func TestAClientIDIsOne(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ id, wrong, odd string }{
		{aClientID, "", ""},
		{"MCH-0001-10791114622547", "", ""},
		{"hello", "", "it does not look like BRN-"},
		{"3189", "", "it does not look like BRN-"},
		{"brn-0211-1696919651919", "", "it does not look like BRN-"},
		{"siti@toko.example", "", "it does not look like BRN-"},
		{"BRN-0211-1696919651918", "", "the example of the README"},
		{"", "expected a client id such as", ""},
		{`"BRN-0211-1"`, "without blanks and quotes", ""},
		{"“BRN-0211-1”", "without blanks and quotes", ""},
		{"`BRN-0211-1`", "without blanks and quotes", ""},
		{"BRN-0211-…", "expected a client id such as", ""},
		{"BRN-0211 1696919651918", "without blanks and quotes", ""},
		{"BRN-0211-1\nBRN-0211-2", "without blanks and quotes", ""},
		{"BRN-\u200b0211-1", "without blanks and quotes", ""},
		{"$DOKU_CLIENT_ID", "written as {env.NAME}", ""},
		{"BRN|1", "found one with |, which separates", ""},
		{"BRN-0211-1|BRN-0211-2", "found one with |", ""},
		{"SK-VknOxwR4xZSEPnG7fpJo", "are client_id and secret_key swapped?", ""},
		{`"SK-VknOxwR4"`, "are client_id and secret_key swapped?", ""},
		{"“sk-VknOxwR4”", "are client_id and secret_key swapped?", ""},
		{string(doktest.Data(t, "test-doku-public.pem")), "found a public key", ""},
		{string(doktest.Data(t, "keys/pkcs8.pem")), "found a private key", ""},
		{"/run/secrets/client-id", "found a path; write {file.<path>}", ""},
		{"./client-id.txt", "found a path", ""},
		{"BRN-xxxx-xxxxxxxxxxxxx", "it is masked", ""},
		{"BRN-0211-*********", "it is masked", ""},
		{"<client_id>", "it is a placeholder", ""},
		{"YOUR_CLIENT_ID", "it is a placeholder", ""},
		{"BRN-...", "it is a placeholder", ""},
		{"changeme", "it is a placeholder", ""},
		{strings.Repeat("VknOx", 20), "found 100 characters", ""},
		{aClientID + ",", "comma (U+002C) at its end; take it away", ""},
		{aClientID + ";", "semicolon (U+003B) at its end; take it away", ""},
		{"DOKU_CLIENT_ID=" + aClientID, "found NAME=value", ""},
		{"export DOKU_CLIENT_ID=" + aClientID, "found NAME=value", ""},
		{`{"client_id":"` + aClientID + `"}`, "found JSON; write only its value", ""},
		{aClientID + `"`, "without blanks and quotes", ""},
		{`BRN-"0211"-1`, "without blanks and quotes", ""},
		{"\xff\xfeB\x00R\x00N\x00", "save its file as UTF-8", ""},
	} {
		read(t, CheckID, test.id, test.wrong, test.odd)
	}
}

func TestAPathIsRepeatedOnlyIfItCannotBeASecret(t *testing.T) {
	t.Parallel()
	key := strings.Split(string(doktest.Data(t, "keys/pkcs8.pem")), "\n")[1]
	for text, want := range map[string]bool{
		"/run/secrets/merchant-private.pem": true, "./keys/doku.pem": true, "../doku": true, "/run/secrets/DOKU_PRIVATE_KEY": true,
		"~/doku.pem": true, "keys/doku.pem": true, `C:\doku\private.key`: true, "file:///run/doku.pem": true,
		"/var/lib/kubelet/pods/0b1f4c9e-8f59-4b4e-a2a5-a5b2c3d4e5f6/doku": true,
		key:       false,
		"/" + key: false,
		"/9j4" + base64.StdEncoding.EncodeToString([]byte("0123456789abcdef")): false,
		aSecret: false, "hello": false, "/run/a\nb": false,
	} {
		if got := Where("{env.K}", text) != ""; got != want {
			t.Errorf("%q is repeated: %v", text, got)
		}
	}
}

func TestWhatIsAKeyAndWhatIsItsPath(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"keys/pkcs8", "keys/pkcs1", "keys/pbe-sha1-3des", "test-doku-public", "keys/certificate"} {
		for _, wrapping := range doktest.Wrappings(t, doktest.Data(t, name+".pem")) {
			if !wrapping.Binary && !IsKey(string(wrapping.Key)) {
				t.Errorf("%s, %s, is taken for a path", name, wrapping.Name)
			}
		}
	}
	for _, key := range []string{"ssh-rsa AAAAB3NzaC1yc2E", "—BEGIN PRIVATE KEY—", `{"kty":"RSA"}`, "PuTTY-User-Key-File-3: ssh-rsa"} {
		if !IsKey(key) {
			t.Errorf("%q is taken for a path", key)
		}
	}
	for _, path := range []string{
		"/run/secrets/key", "key.pem", "./MIIkey.pem", "/run/secrets/MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA.pem", "/k\n", "../new/key",
	} {
		if IsKey(path) {
			t.Errorf("%q is taken for a key", path)
		}
	}
}

func TestASecretMayBeAPathWithoutADot(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("secrets", 0o700); err != nil {
		t.Fatal(err)
	}
	const secret = "SK-VknOxwR4xZSEPnG7fpJo"
	for _, name := range []string{"secrets/key", "secret-key"} {
		if err := os.WriteFile(name, []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := NewLoader(slog.New(slog.DiscardHandler)).SecretKey(name, "BRN-0001-1")
		if err != nil || got != secret {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := NewLoader(slog.New(slog.DiscardHandler)).SecretKey("secrets/kye", "BRN-0001-1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a misspelt path: %v", err)
	}
	for _, key := range []string{secret, "doku_key_0123456789abcdef"} {
		if got, err := NewLoader(slog.New(slog.DiscardHandler)).SecretKey(key, "BRN-0001-1"); err != nil || got != key {
			t.Errorf("%s: %q, %v", key, got, err)
		}
	}
}

func TestASecretInUTF16Loads(t *testing.T) {
	t.Parallel()
	for name, order := range map[string]binary.AppendByteOrder{"little": binary.LittleEndian, "big": binary.BigEndian} {
		for _, mark := range []string{"\ufeff", ""} {
			var content []byte
			for _, unit := range utf16.Encode([]rune(mark + aSecret + "\r\n")) {
				content = order.AppendUint16(content, unit)
			}
			file := filepath.Join(t.TempDir(), "secret")
			for _, wrong := range []bool{false, true} {
				if wrong {
					content = content[:len(content)-5]
				}
				if err := os.WriteFile(file, content, 0o600); err != nil {
					t.Fatal(err)
				}
				got, err := NewLoader(slog.New(slog.DiscardHandler)).SecretKey(file, aClientID)
				if !wrong && (err != nil || got != aSecret) {
					t.Errorf("%s endian, mark %q: error %v", name, mark, err)
				}
				if wrong && (err == nil || !strings.Contains(err.Error(), "it is in UTF-16, and cut off")) {
					t.Errorf("%s endian, mark %q, cut off: error %v", name, mark, err)
				}
			}
		}
	}
}

func TestAWrappedPassphraseIsNamedWhenItDoesNotOpenTheKey(t *testing.T) {
	t.Parallel()
	for passphrase, says := range map[string]string{
		`"rahasia"`: "the passphrase given is in quotes: is it meant so?", "PASS=rahasia": "the passphrase given is a line of NAME=value",
		`{"passphrase":"rahasia"}`: "the passphrase given is JSON", "salah": "",
	} {
		file := filepath.Join(t.TempDir(), "passphrase")
		if err := os.WriteFile(file, []byte(passphrase), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := NewLoader(slog.New(slog.DiscardHandler)).PrivateKey(doktest.Path(t, "keys/pbes2-aes256.pem"), file)
		if !errors.Is(err, signer.ErrPassphrase) || !strings.Contains(err.Error(), says) ||
			strings.Contains(err.Error(), "given") != (says != "") || strings.Contains(err.Error(), "rahasia") {
			t.Errorf("%s: error %v", says, err)
		}
	}
}
