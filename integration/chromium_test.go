package integration

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

// browse opens an address in a headless Chromium that ends with the test.
func browse(t *testing.T, address string) {
	t.Helper()
	cmd := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+t.TempDir(),
		"--host-resolver-rules=MAP * 127.0.0.1", "--remote-debugging-port=0", address)
	doktest.Start(t, new(doktest.Log), cmd)
}

func TestAPageInARealBrowserReachesNothing(t *testing.T) {
	t.Parallel()
	doktest.Need(t, "chromium")
	env := startForAnyHost(t, "")
	const page = `<!DOCTYPE html><iframe name=f></iframe><form id=form method=post enctype=text/plain target=f action="%[1]s%[2]s?form">
<input name='{"trxId":"F","x":"' value='y"}'></form><img src="%[1]s/orders/v1.0/transfer-va/status?image"><script>
fetch("%[1]s%[2]s?fetch", {method: "POST", mode: "no-cors", body: "{}"}).catch(() => {});
navigator.sendBeacon("%[1]s%[2]s?beacon", "{}");
fetch("%[1]s%[2]s?preflight", {method: "DELETE"}).catch(() => {});
document.getElementById("form").submit();
</script>`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, page, env.outward, createPath)
	}))
	t.Cleanup(server.Close)
	browse(t, server.URL)
	env.awaitMetrics(t, `calls_total{account="default",direction="outbound",outcome="browser",service="26"} 1`)
	doktest.Eventually(t, "the page's calls to be refused", func() bool {
		return strings.Count(env.log.String(), `"reason":"browser"`) >= 5
	})
	_, port, _ := strings.Cut(strings.TrimPrefix(env.outward, "http://"), ":")
	browse(t, "http://evil.example:"+port+statusPath) // a name that has been given this machine's address
	env.awaitLine(t, "call not made", "Upgrade-Insecure-Requests")
	if n := len(env.doku.Exchanges()); n != 0 {
		t.Errorf("DOKU received %d calls", n)
	}
}

func TestHTTPClientsOfOtherLanguagesGetThrough(t *testing.T) {
	t.Parallel()
	env := startForAnyHost(t, "")
	url := env.outward + statusPath
	const debianNode = "NODE_PATH=/usr/share/nodejs"
	for _, test := range []struct {
		name    string
		has     []string // succeeds if the client is installed
		command []string
	}{
		{"Node's fetch", nil, []string{"node", "-e", `fetch(process.argv[1], {method: "POST", body: "{}"})`}},
		{"axios", []string{"node", "-e", `require("axios")`}, []string{"node", "-e", `require("axios").post(process.argv[1], {})`}},
		{"Python's urllib", nil, []string{"python3", "-c", "import sys, urllib.request as u\nu.urlopen(sys.argv[1], b'{}')"}},
		{
			"Python's requests",
			[]string{"/usr/bin/python3", "-c", "import requests"},
			[]string{"/usr/bin/python3", "-c", "import sys, requests\nrequests.post(sys.argv[1], json={})"},
		},
		{
			"PHP's streams", nil,
			[]string{"php", "-r", `file_get_contents($argv[1], false, stream_context_create(["http" => ["method" => "POST", "content" => "{}"]]));`},
		},
		{
			"PHP's curl",
			[]string{"php", "-r", `exit(function_exists("curl_init") ? 0 : 1);`},
			[]string{"php", "-r", `$c = curl_init($argv[1]); curl_setopt($c, CURLOPT_POSTFIELDS, "{}"); curl_exec($c);`},
		},
		{"Ruby", nil, []string{"ruby", "-rnet/http", "-e", `Net::HTTP.post(URI(ARGV[0]), "{}")`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			doktest.Need(t, test.command[0])
			run := func(command []string) error {
				cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
				cmd.Env = append(cmd.Environ(), debianNode)
				return cmd.Run()
			}
			if test.has != nil && run(test.has) != nil {
				t.Skip("skipped, because it is not installed")
			}
			before := env.sent()
			err := run(append(test.command, url)) // some clients make an error of DOKU's 404
			if n := env.sent() - before; n != 1 {
				t.Errorf("DOKU received %d calls (%v):\n%s", n, err, env.log)
			}
		})
	}
}
