package integration

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/simulator"
)

// appSite returns a configuration with doku_app in the site for DOKU's calls.
func (env *testEnv) appSite(options string) string {
	return env.withSite("doku_app " + env.appAddress + " " + options)
}

func TestDokuAppTakesDOKUsCalls(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	env.run(t, env.appSite("{\n path /v1.1/transfer-va/*\n path /pay service 25\n}"))
	env.notify(t, simulator.Outgoing{}).expect(t, 200, "2002500")
	env.notify(t, simulator.Outgoing{URL: env.inward + "/pay", ExternalID: "E-2", Body: paymentTo("2", "P-2")}).expect(t, 200, "2002500")
	env.notify(t, simulator.Outgoing{URL: env.inward + "/V1/Transfer-VA/Payment", ExternalID: "E-3", Body: paymentTo("3", "P-3")}).
		expect(t, 404, "4040000")
	if n := len(env.app.seen()); n != 2 {
		t.Errorf("the app was called %d times", n)
	}
}

func TestDokuAppTakesBareAnswersIfItIsToldTo(t *testing.T) {
	t.Parallel()
	for options, want := range map[string]int{"{\n app_answers loose\n}": 200, "{\n app_answers strict\n}": 500} {
		env, app := newEnv(t), newWireApp(t)
		app.set(wire("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nOK"))
		env.appAddress = app.address
		env.run(t, env.appSite(options))
		if got := env.notify(t, simulator.Outgoing{}); got.status != want {
			t.Errorf("%s: DOKU got HTTP %d", options, got.status)
		}
	}
}

func TestAPathInDokuAppThatTellsNoServiceIsRefused(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	if out := env.startFails(t, env.appSite("{\n path /bayar\n}")); !strings.Contains(out, "write `path /bayar service 25`") {
		t.Errorf("it said %s", out)
	}
}

func TestASignedCallThatNobodyHandlesIsWarnedOf(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ target, path, hint string }{
		"another version":     {"/v1/transfer-va/payment", "/v1/transfer-va/payment", "write `path /v1/transfer-va/payment` in doku_app"},
		"other words":         {"/api/doku", "/api/doku", "write `path /api/doku service 25` in doku_app"},
		"N7, a parameter":     {"/v1.1;x=1/transfer-va/payment", "/v1.1;x=1/transfer-va/payment", "spelt otherwise than in the Caddyfile, which has /v1.1/transfer-va/*"},
		"N7, escaped twice":   {"/v1.1%252Ftransfer-va/payment", "/v1.1%252Ftransfer-va/payment", "spelt otherwise than in the Caddyfile"},
		"the token's path":    {"/v1/access-token/b2b", "/v1/access-token/b2b", "write `token_path /v1/access-token/b2b`"},
		"escaped controls":    {"/%1b%5b2J", "/%1b%5b2J", "somebody else is calling"},
		"bytes above ASCII":   {"/\u009b2J", "/?2J", "somebody else is calling"},
		"with a long end":     {"/" + strings.Repeat("x", 3000), "/" + strings.Repeat("x", 199) + "…", "somebody else is calling"},
		"with a secret query": {"/a?token=1", `"/a"`, "somebody else is calling"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := newEnv(t)
			env.run(t, env.appSite(""))
			for range 3 {
				got := env.sendInward(t, "POST "+test.target+" HTTP/1.1\r\nHost: 127.0.0.1\r\nX-SIGNATURE: s\r\n"+
					"X-PARTNER-ID: BRN-1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				if !strings.Contains(got, "404 Not Found") || !strings.Contains(got, `"responseCode":"4040000"`) {
					t.Errorf("found %s", got)
				}
			}
			env.awaitLine(t, `"level":"warn"`, "that nobody handles", test.path, test.hint)
			if n := strings.Count(env.log.String(), "that nobody handles"); n != 1 {
				t.Errorf("found %d warnings within a minute", n)
			}
		})
	}
}

// sendInward sends bytes to the site for DOKU's calls, and returns the answer's.
func (env *testEnv) sendInward(t *testing.T, request string) string {
	t.Helper()
	conn := connect(t, env.inward)
	defer conn.Close()
	if _, err := conn.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(conn) // until the server hangs up
	return string(answer)
}

func TestARequestWithoutASignatureIsNotWarnedOf(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	env.run(t, env.appSite(""))
	env.sendInward(t, "GET /scan HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
	env.sidecar.Stop()
	if strings.Contains(env.log.String(), "that nobody handles") {
		t.Error("a stranger writes warnings")
	}
}

func TestASecondSidecarOnTheSamePortsDoesNotStart(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	env.run(t, env.appSite(""))
	port := env.inward[strings.LastIndexByte(env.inward, ':'):]
	other := env.another(t)
	// Wildcard and single addresses get each other's connections.
	for _, test := range []struct{ address, bind string }{{env.inward, ""}, {"http://" + port, ""}, {"http://" + port, "bind 0.0.0.0"}} {
		config := strings.Replace(other.withSite(test.bind+"\ndoku_app "+env.appAddress), other.inward+" {", test.address+" {", 1)
		out, err := other.command(t, config).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "another process (process ") || !strings.Contains(string(out), port+": expected") ||
			!strings.Contains(string(out), "share_ports") {
			t.Errorf("%v: %v: %s", test, err, out)
		}
	}
	// The first one still has all calls.
	env.doku.SetMerchantURLs(env.inward+tokenPath, env.inward+inquiryPath, env.inward+paymentPath)
	env.notify(t, simulator.Outgoing{}).expect(t, 200, "2002500")
}

func TestSharePortsLetsStartsOverlap(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	env.run(t, env.appSite(""))
	second := env.another(t)
	second.inward = env.inward
	second.run(t, strings.Replace(second.appSite(""), "\tdoku {\n", "\tdoku {\n\t\tshare_ports\n", 1))
}

func TestAReloadKeepsItsOwnPorts(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	env.run(t, env.appSite(""))
	if out, err := env.load(t, env.appSite("{\n timeout 3s\n}")); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	env.notify(t, simulator.Outgoing{}).expect(t, 200, "2002500")
}

func TestValidateBesideARunningSidecarTakesNothing(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	config := env.appSite("")
	env.run(t, config)
	cmd := env.command(t, config)
	cmd.Args[1] = "validate"
	folder := cmd.Args[3][:strings.LastIndexByte(cmd.Args[3], '/')]
	cmd.Env = append(cmd.Env, "HOME="+folder)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if files, err := os.ReadDir(folder); err != nil || len(files) != 1 {
		t.Errorf("%v: validate left %v", err, files)
	}
	env.notify(t, simulator.Outgoing{}).expect(t, 200, "2002500")
}

func TestACallThatNoHandlerAnswersIsNeverAYes(t *testing.T) {
	t.Parallel()
	for name, site := range map[string]string{
		"verified":                  "doku_verify",
		"in shadow mode":            "doku_verify {\n enforce report\n}",
		"behind handlers that pass": "doku_verify\nencode gzip\nheader X-A b\nrequest_header X-B c",
		"in a handle":               "handle /v1.1/* {\n doku_verify\n}\nrespond /elsewhere 200",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := startWith(t, func(*testEnv) string { return "doku_token " + tokenPath + "\n" + site })
			env.notify(t, simulator.Outgoing{}).expect(t, 500, "5002500")
			env.awaitLine(t, `"reason":"app_missing"`)
		})
	}
}

func TestAnEscapedLetterOfThePathIsTheLetter(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	env.run(t, env.appSite(""))
	env.notify(t, simulator.Outgoing{URL: env.inward + "/v1.1/transfer-va/%70ayment"}).expect(t, 200, "2002500")
	env.notify(t, simulator.Outgoing{URL: env.inward + "/V1.1/Transfer-VA/Payment", ExternalID: "E-2"}).expect(t, 404, "4040000")
	env.awaitLine(t, `"reason":"service_unknown"`, "the URL at DOKU is spelt otherwise")
}
