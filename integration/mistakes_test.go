package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

// checked runs `validate` on a configuration whose account has the given settings, with
// variables in addition to none of the usual ones, and returns what it prints.
func checked(t *testing.T, account, global, sites string, variables ...string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "Caddyfile")
	text := "{\n\tdoku {\n\t\tenvironment sandbox\n" + global + "\n\t\taccount {\n" + account + "\n\t\t}\n\t}\n}\n" + sites
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary(t), "validate", "--config", file, "--adapter", "caddyfile")
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "XDG_DATA_HOME=" + dir}, variables...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// settings are right ones, of which a test changes one.
func settings(t *testing.T) map[string]string {
	t.Helper()
	return map[string]string{
		"client_id": "BRN-0211-1696919651919", "secret_key": "SK-VknOxwR4xZSEPnG7fpJo",
		"private_key": doktest.Path(t, doktest.MerchantKey), "doku_public_key": doktest.Path(t, dokuPublicKey),
	}
}

var variableOf = map[string]string{
	"client_id": "DOKU_CLIENT_ID", "secret_key": "DOKU_SECRET_KEY", "private_key": "DOKU_PRIVATE_KEY", "doku_public_key": "DOKU_PUBLIC_KEY",
}

const usualAccount = "client_id {env.DOKU_CLIENT_ID}\nsecret_key {env.DOKU_SECRET_KEY}\n" +
	"private_key {env.DOKU_PRIVATE_KEY}\ndoku_public_key {env.DOKU_PUBLIC_KEY}"

// withSetting validates with one setting changed, in a variable or in a file.
func withSetting(t *testing.T, setting, value string, inFile bool) (string, error) {
	t.Helper()
	if inFile {
		file := filepath.Join(t.TempDir(), "value")
		if err := os.WriteFile(file, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		value = file
	}
	var variables []string
	for name, right := range settings(t) {
		if name == setting {
			right = value
		}
		variables = append(variables, variableOf[name]+"="+right)
	}
	return checked(t, usualAccount, "", "", variables...)
}

func TestAWrongSettingIsFoundByValidate(t *testing.T) {
	t.Parallel()
	read := func(name string) string { return string(doktest.Data(t, name)) }
	private := read("keys/pkcs8.pem")
	for _, test := range []struct{ id, setting, value, says string }{
		{"C1 curly quotes", "secret_key", "“SK-VknOxwR4xZSEPnG7fpJo”", "secret_key: it is in quotes"},
		{"C1 quotes of an env file", "secret_key", `"SK-VknOxwR4xZSEPnG7fpJo"`, "secret_key: it is in quotes"},
		{"C2 the placeholder", "secret_key", "SK-…", "secret_key: it is a placeholder"},
		{"C2 changeme", "secret_key", "changeme", "secret_key: it is a placeholder"},
		{"C3 masked", "secret_key", "SK-****************", "secret_key: it is masked"},
		{"C4 a PEM", "secret_key", read(dokuPublicKey), "found a public key; are secret_key and doku_public_key swapped?"},
		{"C5 a | in the client id", "client_id", "BRN|1", "client_id: expected a client id such as BRN-0211-1696919651918, found one with |"},
		{"C7 newlines became |", "private_key", strings.ReplaceAll(private, "\n", "|"), "'|' (U+007C) in line 1 at character 28"},
		{"C7 em dashes", "private_key", strings.ReplaceAll(private, "-----", "—"), "(U+2014, em dash)"},
		{"C7 an OpenSSH key", "doku_public_key", "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC7", "ssh-keygen -e -m PKCS8"},
		{"one hyphen", "private_key", strings.ReplaceAll(private, "-----", "-"), `expected five hyphens (-----) before BEGIN, found \"-\"`},
		{"JSON", "secret_key", `{"secret":"SK-VknOxwR4xZSEPnG7fpJo"}`, "secret_key: expected the secret key alone, found JSON"},
		{"a text of JSON", "secret_key", `"SK-VknOxwR4xZSEPnG7fpJo",`, "secret_key: it is in quotes"},
		{"a quote inside", "secret_key", `SK-Vkn"OxwR4xZSEPnG7fpJo`, "quotation mark (U+0022) at place 7"},
		{"a quote at one end", "secret_key", `SK-VknOxwR4xZSEPnG7fpJo"`, "secret_key: it is in quotes"},
		{"a comma", "secret_key", "SK-VknOxwR4xZSEPnG7fpJo,", "comma (U+002C) at place 24; it is the last one; take it away"},
		{"a line of a shell", "secret_key", `export KEY="SK-VknOxwR4xZSEPnG7fpJo"`, "secret_key: expected the secret key alone, found NAME"},
		{"a comma behind the client id", "client_id", "BRN-0211-1696919651919,", "comma (U+002C) at its end; take it away"},
		{"a line of an env file as the client id", "client_id", "DOKU_CLIENT_ID=BRN-0211-1696919651919", "client_id: expected a client id"},
		{"C9 an elliptic curve key", "private_key", read("keys/ec.pem"), "expected an RSA private key, found an elliptic curve one"},
	} {
		for _, inFile := range []bool{false, true} {
			if inFile && test.setting == "client_id" {
				continue
			}
			out, err := withSetting(t, test.setting, test.value, inFile)
			if err == nil || !strings.Contains(out, test.says) || strings.Contains(out, "VknO") || strings.Contains(out, "; and ") ||
				strings.Contains(out, "Valid configuration") {
				t.Errorf("%s, in a file %v: %v: it says %s", test.id, inFile, err, out)
			}
		}
	}
}

func TestAnOddSettingIsWarnedOfByValidate(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ id, setting, value, says string }{
		{"C3 another key of the dashboard", "secret_key", "doku_key_0123456789abcdef", "it does not begin with SK-"},
		{"C5 another id", "client_id", "hello", "it does not look like BRN-0211-1696919651918"},
	} {
		out, err := withSetting(t, test.setting, test.value, false)
		valid := err == nil && strings.Contains(out, "Valid configuration")
		if !valid || !strings.Contains(out, test.says) || strings.Contains(out, "doku_key_") {
			t.Errorf("%s: %v: it says %s", test.id, err, out)
		}
	}
}

func TestAKeyInAnyWrappingIsTakenByValidate(t *testing.T) {
	t.Parallel()
	for _, setting := range []string{"private_key", "doku_public_key"} {
		key := doktest.Data(t, map[string]string{"private_key": "keys/pkcs8.pem", "doku_public_key": dokuPublicKey}[setting])
		for _, wrapping := range doktest.Wrappings(t, key) {
			switch wrapping.Name { // all of them: caddymodule/doku
			case "base64 of the whole PEM", "DER", "a backslash at each line's end", "a zero-width space before it", "literal \\n":
			case "bare base64 on one line", "six hyphens", "four hyphens", "bare base64 as a line of a shell":
			case "UTF-16", "UTF-16, the higher byte first":
			default:
				continue
			}
			for _, inFile := range []bool{false, true} {
				if wrapping.Binary && !inFile {
					continue
				}
				if out, err := withSetting(t, setting, string(wrapping.Key), inFile); err != nil {
					t.Errorf("%s, %s, in a file %v: %v: it says %s", setting, wrapping.Name, inFile, err, out)
				}
			}
		}
	}
}

func TestASecretInUTF16IsTakenByValidate(t *testing.T) {
	t.Parallel()
	for _, content := range []string{"\xff\xfe", "\xfe\xff"} {
		for _, r := range "SK-VknOxwR4xZSEPnG7fpJo\r\n" {
			if content[0] == '\xff' {
				content += string(r) + "\x00"
			} else {
				content += "\x00" + string(r)
			}
		}
		out, err := withSetting(t, "secret_key", content, true)
		if err != nil || !strings.Contains(out, "Valid configuration") || strings.Contains(out, "unusual") || strings.Contains(out, "VknO") {
			t.Errorf("%v: it says %s", err, out)
		}
	}
}

func TestAllMissingVariablesAndFilesAreToldAtOnce(t *testing.T) {
	t.Parallel()
	out, err := checked(t, usualAccount, "store redis {env.REDIS_URL}", "")
	for _, name := range []string{"DOKU_CLIENT_ID", "DOKU_SECRET_KEY", "DOKU_PRIVATE_KEY", "DOKU_PUBLIC_KEY", "REDIS_URL"} {
		if err == nil || !strings.Contains(out, "{env."+name+"}") {
			t.Errorf("%v: %s is not named: %s", err, name, out)
		}
	}
	out, err = checked(t, usualAccount, "", "", "DOKU_CLIENT_ID=BRN-0211-1696919651919", "DOKU_SECRET_KEY=/nowhere/secret-key",
		"DOKU_PRIVATE_KEY=/nowhere/private.pem", "DOKU_PUBLIC_KEY=/nowhere/public.pem")
	for _, path := range []string{"/nowhere/secret-key", "/nowhere/private.pem", "/nowhere/public.pem"} {
		if err == nil || !strings.Contains(out, path) {
			t.Errorf("%v: %s is not named: %s", err, path, out)
		}
	}
}

func TestASecretInTheCaddyfileIsWarnedOf(t *testing.T) {
	t.Parallel()
	right := settings(t)
	account := "client_id " + right["client_id"] + "\nsecret_key %s\nprivate_key " + right["private_key"]
	for _, command := range []string{"adapt", "validate"} {
		for value, warned := range map[string]bool{"SK-VknOxwR4xZSEPnG7fpJo": true, "{$A_SECRET}": true, "{env.A_SECRET}": false} {
			dir := t.TempDir()
			file := filepath.Join(dir, "Caddyfile")
			text := "{\ndoku {\nenvironment sandbox\naccount {\n" + strings.Replace(account, "%s", value, 1) + "\n}\n}\n}\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), binary(t), command, "--config", file, "--adapter", "caddyfile")
			cmd.Env = append(os.Environ(), "A_SECRET=SK-VknOxwR4xZSEPnG7fpJo", "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
			var printed strings.Builder
			cmd.Stderr = &printed // the standard output of adapt has the configuration
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v: %s", err, printed.String())
			}
			out := printed.String()
			if found := strings.Contains(out, "secret_key is written in the Caddyfile"); found != warned || strings.Contains(out, "VknO") {
				t.Errorf("%s with %s says %s", command, value, out)
			}
			if warned && (!strings.Contains(out, file) || !strings.Contains(out, `"line": 6`) && !strings.Contains(out, `"line":6`)) {
				t.Errorf("%s with %s does not name the place: %s", command, value, out)
			}
		}
	}
}

func TestTwoAccountsWithOneClientIDAreNamed(t *testing.T) {
	t.Parallel()
	right := settings(t)
	account := "client_id " + right["client_id"] + "\nsecret_key {env.DOKU_SECRET_KEY}\nprivate_key " + right["private_key"]
	site := "http://127.0.0.1:0 {\n\tdoku_sign\n}\n"
	out, err := checked(t, account, "account kopi {\n"+account+"\n}", site, "DOKU_SECRET_KEY="+right["secret_key"])
	for _, says := range []string{`kopi`, `default`, `have the same client_id`, right["client_id"], "write `account <name>`"} {
		if err == nil || !strings.Contains(out, says) {
			t.Errorf("%v: it does not say %s: %s", err, says, out)
		}
	}
}

func TestAnInboxFolderThatCannotBeIsFoundByValidate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	right := settings(t)
	var variables []string
	for name, value := range right {
		variables = append(variables, variableOf[name]+"="+value)
	}
	for folder, says := range map[string]string{
		file: "expected a folder, found a file", file + "/inbox": "not a directory", os.DevNull: "expected a folder, found a device",
		dir + "/inbox": "",
	} {
		site := "http://127.0.0.1:0 {\n\tdoku_verify\n\tdoku_inbox 127.0.0.1:3000 {\n\t\tfolder " + folder + "\n\t}\n}\n"
		out, err := checked(t, usualAccount, "", site, variables...)
		if (err == nil) != (says == "") || !strings.Contains(out, says) {
			t.Errorf("%s: %v: it says %s", folder, err, out)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("validate left %v: %v", left, err)
	}
}

func TestValidatePassesBesideARunningSidecar(t *testing.T) {
	t.Parallel()
	env := start(t, options{inbox: "{\nfolder " + t.TempDir() + "\n}"})
	cmd := env.command(t, env.config)
	cmd.Args[1] = "validate"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
