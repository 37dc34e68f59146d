package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// usualVariables are the variables of [usualAccount], with right values.
func usualVariables(t *testing.T) (variables []string) {
	t.Helper()
	for name, right := range settings(t) {
		variables = append(variables, variableOf[name]+"="+right)
	}
	return variables
}

func TestAServiceThatDOKUDoesNotCallIsRefused(t *testing.T) {
	t.Parallel()
	const says = "expected 24 (inquiries about a virtual account), 25 (notifications of a virtual account's payment), " +
		"56 (notifications of direct debit and e-wallets), found "
	for service, valid := range map[string]bool{
		"24": true, "25": true, "56": true, "27": false, "52": false, "99": false, "73": false, "00": false,
	} {
		for _, site := range []string{
			"doku_app 127.0.0.1:3000 {\npath /pay service " + service + "\n}",
			"doku_app 127.0.0.1:3000 {\npath /pay\nservice " + service + "\n}",
			"route /pay {\ndoku_verify {\nservice " + service + "\ntoken any\n}\ndoku_inbox 127.0.0.1:3000\n}\ndoku_unhandled",
		} {
			out, err := checked(t, usualAccount, "", "http://127.0.0.1:9443 {\n"+site+"\n}\n", usualVariables(t)...)
			if (err == nil) != valid || !valid && !strings.Contains(out, says+`\"`+service+`\"`) {
				t.Errorf("%s in %s: %v: it says %s", service, site, err, out)
			}
		}
	}
}

// appSites are the ways to name an address of the app.
func appSites(address string) map[string]string {
	return map[string]string{
		"doku_app":             "doku_app " + address + " {\ntoken any\n}",
		"doku_app and deliver": "doku_app {\ntoken any\ndeliver {\nreverse_proxy " + address + "\n}\n}",
		"doku_inbox":           "doku_verify /pay {\ntoken any\nservice 25\n}\ndoku_inbox /pay " + address + "\ndoku_unhandled",
	}
}

func TestAnAddressThatIsNoAppsIsRefused(t *testing.T) {
	t.Parallel()
	for address, says := range map[string]string{
		"3000": "write 127.0.0.1:3000", "{env.NOPE}": "the variable NOPE is not set, or empty", "{env.EMPTY}": "the variable EMPTY is not set",
		"{env.PORT}": "write 127.0.0.1:3000", "127.0.0.1:{env.NOPE}": "the variable NOPE is not set",
		"https://api.doku.com": "which is DOKU itself", "api-sandbox.doku.com:443": "which is DOKU itself", "256.1.1.1:80": "neither a name nor an IP",
		"127.0.0.1:0": "names no port", "127.0.0.1:3000 127.0.0.1:3000": "twice", "*:3000": "neither a name nor an IP", "unix//": "app's socket",
		"unix//dev/null": "is no socket",
	} {
		for name, site := range appSites(address) {
			variables := append(usualVariables(t), "EMPTY=", "PORT=3000")
			out, err := checked(t, usualAccount, "", "http://127.0.0.1:9443 {\n"+site+"\n}\n", variables...)
			if err == nil || !strings.Contains(out, says) {
				t.Errorf("%s in %s: %v: it says %s", address, name, err, out)
			}
		}
	}
	for address, says := range map[string]string{
		`""`: "found an empty text", `" "`: "found an empty text",
		"127.0.0.1:3000,": "take the last character away", `"127.0.0.1:3000 "`: "without quotes", "127.0.0.1:3000,127.0.0.1:3001": "separated by a blank",
		"http://:3000": "names no host", "::1:3000": "stands in brackets", "https://x/y": "write https://x", "{$NOPE}": "expected the app's address",
		"https://api-sandbox.doku.com/v1": "without a path", "127.0.0.1:70000": "70000", "http://a:b@127.0.0.1:1": "one with a user",
	} {
		out, err := checked(t, usualAccount, "", "http://127.0.0.1:9443 {\ndoku_app "+address+" {\ntoken any\n}\n}\n", usualVariables(t)...)
		if err == nil || !strings.Contains(out, says) {
			t.Errorf("%s: %v: it says %s", address, err, out)
		}
	}
	for _, address := range []string{
		"127.0.0.1:3000", "localhost:3000", "app", "app:3000", "[::1]:3000", "http://app:3000", "https://app", "127.0.0.1:3000-3001", "{env.APP}",
		"unix//run/of/an/app/that/starts/later.sock", "h2c://app:1", "127.0.0.1:3000 127.0.0.1:3001", "my_app.internal:80", ":3000", "0.0.0.0:3000",
	} {
		for name, site := range appSites(address) {
			out, err := checked(
				t,
				usualAccount,
				"",
				"http://127.0.0.1:9443 {\n"+site+"\n}\n",
				append(usualVariables(t), "APP=127.0.0.1:3000")...)
			if err != nil {
				t.Errorf("%s in %s: %v: it says %s", address, name, err, out)
			}
		}
	}
}

func TestABlockDeliverMustReachAnApp(t *testing.T) {
	t.Parallel()
	const noApp = "expected a reverse_proxy (or php_fastcgi) to the app"
	for block, says := range map[string]string{
		"": noApp, "respond 200": noApp, "header X-A b": noApp, "rewrite * /x": noApp, "handle {\nrespond 200\n}": noApp, "file_server": noApp,
		"reverse_proxy": "reverse_proxy: expected the app's address", "respond 200\nreverse_proxy 127.0.0.1:3000": "respond answers every call before the app",
		"route {\nerror 503\nreverse_proxy 127.0.0.1:3000\n}": "error answers every call before the app",
		"reverse_proxy 127.0.0.1:3000":                        "", "php_fastcgi 127.0.0.1:9000": "", "rewrite * /x\nreverse_proxy 127.0.0.1:3000": "",
		"respond /no 404\nreverse_proxy 127.0.0.1:3000": "", "handle {\nreverse_proxy 127.0.0.1:3000\n}": "",
		"handle /v1.1/* {\nreverse_proxy 127.0.0.1:3000\n}\nhandle {\nrespond 404\n}": "",
		"reverse_proxy {\ndynamic srv app.internal\n}":                                "",
	} {
		for name, site := range map[string]string{
			"doku_app":   "doku_app {\ntoken any\ndeliver {\n" + block + "\n}\n}",
			"doku_inbox": "route /pay {\ndoku_verify {\ntoken any\nservice 25\n}\ndoku_inbox {\ndeliver {\n" + block + "\n}\n}\n}\ndoku_unhandled",
		} {
			out, err := checked(t, usualAccount, "", "http://127.0.0.1:9443 {\n"+site+"\n}\n", usualVariables(t)...)
			if (err == nil) != (says == "") || !strings.Contains(out, says) {
				t.Errorf("%q in %s: %v: it says %s", block, name, err, out)
			}
		}
	}
}

func TestTheSidecarsOwnAddressIsNoApps(t *testing.T) {
	t.Parallel()
	const outward = "\nhttp://127.0.0.1:9444 {\ndoku_sign\n}\nhttp://localhost:9445 {\nbind 127.0.0.1\nrespond the-app\n}\n"
	for address, own := range map[string]bool{
		"127.0.0.1:9443": true, "localhost:9443": true, "[::1]:9443": true, "0.0.0.0:9443": true, "pay.example.com:9443": true, ":9443": true,
		"127.0.0.1:9444": true, "localhost:9444": true, "http://127.0.0.1:9444": true, "{env.APP}": true,
		"127.0.0.1:9445": false, "127.0.0.1:9446": false, "192.0.2.1:9443": false, "app:9443": false, "other.example.com:9443": false,
	} {
		for name, site := range appSites(address) {
			out, err := checked(t, usualAccount, "", "http://pay.example.com:9443 {\n"+site+"\n}\n"+outward,
				append(usualVariables(t), "APP=127.0.0.1:9443")...)
			if (err != nil) != own || own && !strings.Contains(out, "there the sidecar itself listens") {
				t.Errorf("%s in %s: %v: it says %s", address, name, err, out)
			}
		}
		site := "doku_verify /pay {\ntoken any\nservice 25\n}\nreverse_proxy /pay " + address + "\ndoku_unhandled"
		out, err := checked(t, usualAccount, "", "http://pay.example.com:9443 {\n"+site+"\n}\n"+outward,
			append(usualVariables(t), "APP=127.0.0.1:9443")...)
		if (err != nil) != own {
			t.Errorf("%s behind doku_verify: %v: it says %s", address, err, out)
		}
	}
}

func TestATokenPathThatIsAnotherCallsIsRefused(t *testing.T) {
	t.Parallel()
	for options, says := range map[string]string{
		"token_path /v1.1/transfer-va/payment":            "ends like a path of service 25",
		"token_path /v1.1/transfer-va/token":              "is one of `path /v1.1/transfer-va/*` too",
		"path /doku/*\ntoken_path /doku/token":            "is one of `path /doku/*` too",
		"token_path /doku/token":                          "",
		"path /doku/v1.1/*\ntoken_path /doku/token":       "",
		"path /pay service 25\ntoken_path /payment-token": "",
	} {
		out, err := checked(
			t,
			usualAccount,
			"",
			"http://127.0.0.1:9443 {\ndoku_app 127.0.0.1:3000 {\n"+options+"\n}\n}\n",
			usualVariables(t)...)
		if (err == nil) != (says == "") || !strings.Contains(out, says) {
			t.Errorf("%s: %v: it says %s", options, err, out)
		}
	}
}

func TestAnEnvironmentThatDoesNotExistIsRefusedWithItsPlace(t *testing.T) {
	t.Parallel()
	for global, line := range map[string]string{
		"\t\tenvironment sanbox\n": "Caddyfile:3", "\t\tenvironment http://api.doku.com\n": "Caddyfile:3",
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "Caddyfile")
		text := "{\n\tdoku {\n" + global + "\t\taccount {\n" + usualAccount + "\n\t\t}\n\t}\n}\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), binary(t), "validate", "--config", file, "--adapter", "caddyfile").CombinedOutput()
		if err == nil || !strings.Contains(string(out), line) || !strings.Contains(string(out), "environment: ") {
			t.Errorf("%q: %v: it says %s", global, err, out)
		}
	}
	out, err := checked(t, "environment sanbox\n"+usualAccount, "", "", usualVariables(t)...)
	if err == nil || !strings.Contains(out, "found \\\"sanbox\\\", at ") || !strings.Contains(out, "Caddyfile:6") {
		t.Errorf("of an account: %v: it says %s", err, out)
	}
}
