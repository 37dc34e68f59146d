package integration

import (
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

func readDoc(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// example returns Caddyfile.example, with the addresses of the test in place of those
// that it names.
func (env *testEnv) example(t *testing.T) string {
	t.Helper()
	config := readDoc(t, "Caddyfile.example")
	for _, test := range [][2]string{
		{"127.0.0.1:3000", env.appAddress}, // first, since an address of the test may begin so
		{"admin unix/caddy-doku.sock|0600", "admin " + strings.TrimPrefix(env.admin, "http://") + "\npersist_config off"},
		{"environment sandbox", "environment " + env.dokuURL},
		{"http://:9180", strings.Replace(env.outward, "127.0.0.1", "", 1)},
		{"http://:9181", "http://" + strings.TrimPrefix(doktest.FreeAddress(t), "127.0.0.1")},
		{"\n:8443", "\n" + env.inward},
	} {
		if strings.Count(config, test[0]) != 1 {
			t.Fatalf("expected %q once in Caddyfile.example", test[0])
		}
		config = strings.Replace(config, test[0], test[1], 1)
	}
	return config
}

func TestTheExampleConfigurationWorks(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	env.variables = []string{"OTEL_TRACES_EXPORTER=none"}
	env.run(t, env.example(t))
	// In both directions with a header that must not be logged.
	env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", ""), "Authorization-Customer", customer).
		expect(t, http.StatusOK, "2002700")
	env.notify(t, simulator.Outgoing{Mutate: func(r *http.Request) { r.Header.Set("Authorization-Customer", customer) }}).
		expect(t, http.StatusOK, "2002500")
	if receipt, err := env.doku.Pay(t.Context(), partnerServiceID+"1", "1000.00"); err != nil || !receipt.Notification.OK() ||
		len(env.app.seen()) != 2 {
		t.Errorf("receipt %+v, %v, after %d calls of the app", receipt, err, len(env.app.seen()))
	}
	if !strings.Contains(env.adminGet("/metrics"), "\ncaddy_doku_key_info{") {
		t.Error("expected the metrics on the admin address, without an option for them")
	}
	for _, address := range []string{env.inward + "/elsewhere", env.inward + "/v1.1/transfer-va"} {
		resp, err := http.Get(address)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: HTTP %d, which DOKU may take for a yes", address, resp.StatusCode)
		}
	}
}

// listensField is a field of the warning about a listener that other machines can reach.
const listensField = `"listens":"`

func TestTheExampleListensForTheAppOnThisMachineOnly(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	env.variables = []string{"OTEL_TRACES_EXPORTER=none"}
	env.run(t, env.example(t))
	_, port, _ := strings.Cut(strings.TrimPrefix(env.outward, "http://"), ":")
	// Where all of 127.0.0.0/8 is this machine, a listener on all interfaces is found here.
	if conn, err := net.DialTimeout("tcp", "127.0.0.2:"+port, time.Second); err == nil {
		conn.Close()
		t.Error("others than this machine's programs can call DOKU in the merchant's name")
	}
	resp, err := http.Post("http://localhost:"+port+createPath, "application/json", strings.NewReader(bill("1", "A", "1000.00", "C", "")))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Header.Get("X-Doku-External-Id") == "" {
		t.Errorf("HTTP %d from Caddy by itself, which the app may take for a yes", resp.StatusCode)
	}
	env.sidecar.Stop() // so that its log is complete
	if env.hasLine(`"level":"warn"`, listensField) {
		t.Error("there is a warning for the example")
	}
}

func TestTheExampleSpeaksHTTP1Only(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	env.run(t, env.example(t))
	for _, site := range []string{env.inward, env.outward} {
		conn := connect(t, strings.Replace(site, "localhost", "127.0.0.1", 1))
		const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00" // and empty settings
		if _, err := io.WriteString(conn, preface); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 9)
		n, _ := io.ReadFull(conn, answer)
		if n == len(answer) && answer[3] == 4 { // a frame of settings
			t.Errorf("%s speaks HTTP/2", site)
		}
		conn.Close()
	}
}

func TestASiteThatListensForOthersIsWarnedOf(t *testing.T) {
	t.Parallel()
	env := start(t, options{}) // its site is http://127.0.0.1:<port>, without a bind
	env.awaitLine(t, `"level":"warn"`, listensField)
}

func TestOneVariableSwitchesTheTracesOfTheExampleOnAndOff(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, variable string
		traced         bool
	}{
		{"off", "OTEL_TRACES_EXPORTER=none", false},
		{"on", "OTEL_TRACES_EXPORTER=otlp", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var exported atomic.Int32
			collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v1/traces" {
					exported.Add(1)
				}
			}))
			defer collector.Close()
			env := newEnv(t)
			env.variables = []string{test.variable, "OTEL_EXPORTER_OTLP_ENDPOINT=" + collector.URL}
			env.run(t, env.example(t))
			env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
			if !env.sidecar.Stop() { // which exports what is left
				t.Fatal("the sidecar did not end")
			}
			if traced := exported.Load() > 0; traced != test.traced || strings.Contains(env.log.String(), "traces export") {
				t.Errorf("traces were exported %d times", exported.Load())
			}
		})
	}
}

var (
	comment   = regexp.MustCompile(`(?m)(^|[ \t]+)#.*$`)
	blankLine = regexp.MustCompile(`\n\s*\n+`)
)

// directives returns a Caddyfile without comments and blank lines.
func directives(caddyfile string) string {
	text := comment.ReplaceAllString(caddyfile, "")
	return strings.TrimSpace(blankLine.ReplaceAllString("\n"+text, "\n"))
}

func TestTheReadmeShowsTheExampleConfiguration(t *testing.T) {
	t.Parallel()
	_, rest, _ := strings.Cut(readDoc(t, "README.md"), "```caddyfile\n")
	shown, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("expected a block of caddyfile in the README")
	}
	if got, want := directives(shown), directives(readDoc(t, "Caddyfile.example")); got != want {
		t.Errorf("the README shows\n%s\nCaddyfile.example has\n%s", got, want)
	}
}

var (
	link        = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading     = regexp.MustCompile(`(?m)^#+ (.+)$`)
	notInAnchor = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// anchor returns the fragment that leads to a heading on GitHub.
func anchor(heading string) string {
	return strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}

func TestTheLinksOfTheDocsLeadSomewhere(t *testing.T) {
	t.Parallel()
	for _, name := range doktest.Docs(t) {
		for _, found := range link.FindAllStringSubmatch(readDoc(t, name), -1) {
			path, wanted, deep := strings.Cut(found[1], "#")
			if strings.Contains(path, "://") {
				continue
			}
			target := filepath.Join(filepath.Dir(name), path)
			if path == "" {
				target = name
			}
			if _, err := os.Stat("../" + target); err != nil {
				t.Errorf("%s leads to %s: %v", name, found[1], err)
				continue
			}
			if !deep {
				continue
			}
			led := false
			for _, title := range heading.FindAllStringSubmatch(readDoc(t, target), -1) {
				led = led || anchor(title[1]) == wanted
			}
			if !led {
				t.Errorf("%s leads to %s, and there is no such heading", name, found[1])
			}
		}
	}
}

// TestEveryConfigurationInTheDocsAdapts: users copy the configurations as they stand.
func TestEveryConfigurationInTheDocsAdapts(t *testing.T) {
	t.Parallel()
	shown := doktest.Snippets(t, "caddyfile")
	if len(shown) < 4 {
		t.Fatalf("found %d configurations", len(shown))
	}
	for _, config := range shown {
		cmd := exec.CommandContext(t.Context(), binary(t), "adapt", "--config", "-", "--adapter", "caddyfile")
		cmd.Stdin = strings.NewReader(config.Text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s, block %d: %v: %s\n%s", config.Doc, config.Number, err, out, config.Text)
		}
	}
}

func TestTheGuaranteesNameTestsThatExist(t *testing.T) {
	t.Parallel()
	tests := make(map[string]bool)
	err := filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, found := range regexp.MustCompile(`(?m)^func (\w+)\(`).FindAllSubmatch(text, -1) {
			tests[string(found[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(readDoc(t, "docs/guarantees.md"), -1)
	if len(named) < 20 {
		t.Fatalf("found %d names of tests", len(named))
	}
	for _, name := range named {
		if !tests[name[1]] {
			t.Errorf("there is no %s", name[1])
		}
	}
}
