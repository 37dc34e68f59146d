// Package integration tests the built binary from outside: the simulator on one
// side, a merchant's app on the other, the sidecar as a process between them.
package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

const (
	clientID         = "BRN-0000-0000000000000"
	secretKey        = "SK-test-0123456789ABCDEF"
	partnerServiceID = "    8808"

	dokuPublicKey = "test-doku-public.pem" // in testdata

	tokenPath   = "/authorization/v1/access-token/b2b"
	createPath  = "/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va"
	updatePath  = "/virtual-accounts/bi-snap-va/v1.1/transfer-va/update-va"
	deletePath  = "/virtual-accounts/bi-snap-va/v1.1/transfer-va/delete-va"
	statusPath  = "/orders/v1.0/transfer-va/status"
	inquiryPath = "/v1.1/transfer-va/inquiry"
	paymentPath = "/v1.1/transfer-va/payment"
)

// binary returns the path of the built binary: CADDY_DOKU_BIN, which the
// Makefile sets, or bin/caddy-doku.
func binary(t testing.TB) string {
	t.Helper()
	path := os.Getenv("CADDY_DOKU_BIN")
	if path == "" {
		path = filepath.Join("..", "bin", "caddy-doku")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the built binary is needed: run `make build` first: %v", err)
	}
	return path
}

// app is a merchant's app that records the calls that it gets.
type app struct {
	mu        sync.Mutex
	calls     []appCall
	forgetful bool
	answer    func(appCall) (int, string) // nil: 200 with a notification's answer
}

type appCall struct {
	target  string
	header  http.Header
	body    string
	trailer http.Header
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<22))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	call := appCall{r.RequestURI, r.Header.Clone(), string(body), r.Trailer.Clone()}
	a.mu.Lock()
	if !a.forgetful {
		a.calls = append(a.calls, call)
	}
	answer := a.answer
	a.mu.Unlock()
	status, text := http.StatusOK, `{"responseCode":"2002500","responseMessage":"Successful"}`
	if answer != nil {
		status, text = answer(call)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

func (a *app) seen() []appCall {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]appCall(nil), a.calls...)
}

// forget makes the app record no calls from now on.
func (a *app) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.forgetful = true
}

func (a *app) setAnswer(f func(appCall) (int, string)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = f
}

// testEnv is a simulated DOKU, a sidecar and an app.
type testEnv struct {
	doku      *simulator.Simulator
	gate      *doktest.Gate // in front of doku
	dokuAhead *atomic.Int64 // by how much its clock is ahead, in nanoseconds
	app       *app
	outward   string // base URL for the app
	inward    string // base URL for DOKU
	admin     string // base URL of Caddy's admin API
	log       *doktest.Log
	config    string // the sidecar's Caddyfile
	sidecar   *doktest.Process
	variables []string // of the sidecar, in addition

	dokuURL, appAddress string // for the configuration
}

// options are additions to the configuration.
type options struct {
	global       string // in the option doku
	account      string // in its account
	sign, verify string // options of the directives, which override those of caddyfile
	environment  string // default: the simulator
	app          string // address of the app; default: the recording one
	inbox        string // if not empty, what follows the app's address behind doku_inbox
}

// start starts a sidecar with its environment for one test.
func start(t *testing.T, o options) *testEnv {
	t.Helper()
	env := newEnv(t)
	env.run(t, env.caddyfile(o))
	return env
}

// caddyfile returns the configuration of a sidecar. Its timeouts are long, so that no call
// fails only because the machine is busy; tests of a timeout set a short one.
func (env *testEnv) caddyfile(o options) string {
	if o.environment == "" {
		o.environment = env.dokuURL
	}
	if o.app == "" {
		o.app = env.appAddress
	}
	proxy := "reverse_proxy"
	if o.inbox != "" {
		proxy = "doku_inbox"
	}
	return fmt.Sprintf(`{
	admin %s
	persist_config off
	metrics
	log {
		level DEBUG
		format filter {
			request>headers>X-Signature delete
			request>headers>Authorization-Customer delete
		}
	}
	doku {
		environment %s
		account {
			client_id {env.DOKU_CLIENT_ID}
			secret_key {env.DOKU_SECRET_KEY}
			private_key {env.DOKU_PRIVATE_KEY}
			doku_public_key {env.DOKU_PUBLIC_KEY}
			%s
		}
		%s
	}
}
%s {
	tracing
	doku_sign {
		timeout 2m
		token_timeout 1m
		%s
	}
}
%s {
	tracing
	doku_token %s
	doku_verify /v1.1/transfer-va/* {
		timeout 2m
		body_timeout 1m
		%s
	}
	%s /v1.1/transfer-va/* %s
}
`, strings.TrimPrefix(env.admin, "http://"), o.environment, o.account, o.global,
		env.outward, o.sign, env.inward, tokenPath, o.verify, proxy, o.app+" "+o.inbox)
}

// newEnv starts everything but the sidecar.
func newEnv(t *testing.T) *testEnv {
	t.Helper()
	env := &testEnv{app: &app{}, dokuAhead: new(atomic.Int64)}
	env.doku = newDOKU(t, clientID, secretKey, env.dokuAhead)
	env.gate = doktest.NewGate(env.doku)
	doku := httptest.NewServer(env.gate)
	t.Cleanup(doku.Close)
	server := httptest.NewServer(env.app)
	t.Cleanup(server.Close)
	env.dokuURL, env.appAddress = doku.URL, server.Listener.Addr().String()
	env.chooseAddresses(t)
	return env
}

// newDOKU returns a simulated DOKU whose clock is ahead of this machine's.
func newDOKU(t *testing.T, clientID, secretKey string, ahead *atomic.Int64) *simulator.Simulator {
	t.Helper()
	// A connection for each call: a reload can close one that is kept alive in the very
	// moment in which the next call is sent on it, as with every server.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: doktest.Patience}
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	s, err := simulator.New(simulator.Config{Client: client, Now: now, Merchant: simulator.Merchant{
		ClientID: clientID, SecretKey: secretKey, PublicKey: &doktest.Key(t, doktest.MerchantKey).PublicKey,
		DOKUKey: doktest.Key(t, doktest.DOKUKey), PartnerServiceID: partnerServiceID,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// chooseAddresses gives the sidecar addresses and a log of its own.
func (env *testEnv) chooseAddresses(t *testing.T) {
	t.Helper()
	env.log = new(doktest.Log)
	for _, address := range []*string{&env.outward, &env.inward, &env.admin} {
		*address = "http://" + doktest.FreeAddress(t)
	}
	env.doku.SetMerchantURLs(env.inward+tokenPath, env.inward+inquiryPath, env.inward+paymentPath)
}

// another returns an environment with the same DOKU and app, and a sidecar of its own
// that is not started yet. DOKU calls the latest one.
func (env *testEnv) another(t *testing.T) *testEnv {
	t.Helper()
	copied := *env
	copied.chooseAddresses(t)
	return &copied
}

// run starts the sidecar with a Caddyfile, waits until it listens on its sites and on
// others and until the admin API knows the configuration, and ends it with the test. Then
// its log, its spans and its admin API must not contain anything secret.
func (env *testEnv) run(t *testing.T, config string, others ...string) {
	t.Helper()
	outputs := make(map[string]string)
	t.Cleanup(func() { // after the sidecar has ended, and its last spans are in the log
		outputs["log and spans"] = env.log.String()
		env.checkSecrets(t, outputs)
	})
	var sites []string
	for _, site := range append([]string{env.outward, env.inward, env.admin}, others...) {
		sites = append(sites, strings.TrimPrefix(site, "http://"))
	}
	env.sidecar = doktest.Start(t, env.log, env.command(t, config), sites...)
	t.Cleanup(func() { // before it ends
		for _, path := range []string{"/config/", "/metrics", "/doku/accounts"} {
			outputs[path] = env.adminGet(path)
		}
		checkMetrics(t, outputs["/metrics"])
	})
	doktest.Eventually(t, "the admin API to know the configuration, which comes after its sites", func() bool {
		return strings.Contains(env.adminGet("/config/"), `"apps":{`)
	})
}

// command returns the command that runs the sidecar with a Caddyfile.
func (env *testEnv) command(t *testing.T, config string) *exec.Cmd {
	t.Helper()
	env.config = config
	dir := t.TempDir()
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary(t), "run", "--config", file, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "DOKU_CLIENT_ID="+clientID, "DOKU_SECRET_KEY="+secretKey,
		"DOKU_PRIVATE_KEY="+doktest.Path(t, doktest.MerchantKey), "DOKU_PUBLIC_KEY="+doktest.Path(t, dokuPublicKey),
		"OTEL_TRACES_EXPORTER=console", "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
	cmd.Env = append(cmd.Env, env.variables...)
	return cmd
}

// adminGet returns the answer of the admin API to a GET, or nothing if the sidecar does
// not run.
func (env *testEnv) adminGet(path string) string {
	client := http.Client{Timeout: doktest.Patience}
	resp, err := client.Get(env.admin + path)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return string(body)
}

// awaitMetrics waits until the metrics have all of the lines.
func (env *testEnv) awaitMetrics(t *testing.T, lines ...string) {
	t.Helper()
	for _, line := range lines {
		doktest.Eventually(t, "the metric "+line, func() bool { return strings.Contains(env.adminGet("/metrics"), "\ncaddy_doku_"+line) })
	}
}

// hasLine reports whether a line of the sidecar's log contains all of the texts.
func (env *testEnv) hasLine(texts ...string) bool {
	for line := range strings.Lines(env.log.String()) {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
			return true
		}
	}
	return false
}

// awaitLine waits until the sidecar's log has a line that contains all of the texts.
func (env *testEnv) awaitLine(t *testing.T, texts ...string) {
	t.Helper()
	doktest.Eventually(t, fmt.Sprintf("a log line with %q", texts), func() bool { return env.hasLine(texts...) })
}

var inFlight = regexp.MustCompile(`(?m)^caddy_http_requests_in_flight\{[^}]*\} (\d+)$`)

// awaitInFlight waits until a site works on at least a number of requests.
func (env *testEnv) awaitInFlight(t *testing.T, n int) {
	t.Helper()
	doktest.Eventually(t, fmt.Sprint(n, " requests in flight"), func() bool {
		for _, found := range inFlight.FindAllStringSubmatch(env.adminGet("/metrics"), -1) {
			if count, err := strconv.Atoi(found[1]); err == nil && count >= n {
				return true
			}
		}
		return false
	})
}

var accessToken = regexp.MustCompile(`"accessToken":"([^"]+)"`)

// checkSecrets checks that no secret and no customer's name is in any output of a sidecar.
func (env *testEnv) checkSecrets(t *testing.T, outputs map[string]string) {
	t.Helper()
	// The names are those of bill and payment.
	secrets := map[string]string{secretKey: "the secret key", "Putri": "a customer's name", "Toru": "a customer's name"}
	for _, name := range []string{doktest.MerchantKey, doktest.DOKUKey} {
		for line := range strings.SplitSeq(string(doktest.Data(t, name)), "\n") {
			if len(line) == 64 {
				secrets[line] = "a line of " + name
			}
		}
	}
	for _, e := range env.doku.Exchanges() {
		if token := strings.TrimPrefix(e.Header.Get("Authorization"), "Bearer "); len(token) > 20 {
			secrets[token] = "a token"
		}
		if token := strings.TrimPrefix(e.Header.Get("Authorization-Customer"), "Bearer "); len(token) > 20 {
			secrets[token] = "a customer's token"
		}
		if found := accessToken.FindSubmatch(e.Answer); len(found) == 2 && len(found[1]) > 20 {
			secrets[string(found[1])] = "a token"
		}
		if signature := e.Header.Get("X-Signature"); len(signature) > 20 {
			secrets[signature] = "a signature"
		}
	}
	for where, text := range outputs {
		for secret, what := range secrets {
			if i := strings.Index(text, secret); i >= 0 {
				t.Errorf("%s is in %s: …%s…", what, where, text[max(0, i-200):i])
			}
		}
	}
}

// answer is an HTTP answer, read.
type answer struct {
	status int
	header http.Header
	body   string
}

// connect opens a connection to a site. Nothing waits for it for longer than a test may wait.
// The caller closes it.
func connect(t testing.TB, site string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(site, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(doktest.Patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// call sends the app's request to the sidecar.
func (env *testEnv) call(t testing.TB, method, target, body string, header ...string) answer {
	t.Helper()
	got, err := env.try(t, method, target, body, header...)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// try is call for a sidecar whose connections may break.
func (env *testEnv) try(t testing.TB, method, target, body string, header ...string) (answer, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), doktest.Patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, env.outward+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	req.Close = true // a reload closes connections that are kept open, even while a call begins
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(text)}, err
}

// expect checks an answer's HTTP status and response code.
func (a answer) expect(t testing.TB, status int, code string) {
	t.Helper()
	if a.status != status || !strings.Contains(a.body, `"responseCode":"`+code+`"`) {
		t.Errorf("found HTTP %d %s, expected HTTP %d with response code %s", a.status, a.body, status, code)
	}
}

// firstCall returns DOKU's first exchange with the merchant, tokens aside.
func (env *testEnv) firstCall(t testing.TB) simulator.Exchange {
	t.Helper()
	for _, e := range env.doku.Exchanges() {
		if e.Inbound && e.Target != tokenPath {
			return e
		}
	}
	t.Fatal("DOKU has received nothing")
	return simulator.Exchange{}
}

// received returns DOKU's last exchange with the merchant, tokens aside.
func (env *testEnv) received(t testing.TB) simulator.Exchange {
	t.Helper()
	all := env.doku.Exchanges()
	for _, e := range slices.Backward(all) {
		if e.Inbound && e.Target != tokenPath {
			return e
		}
	}
	t.Fatal("DOKU has received nothing")
	return simulator.Exchange{}
}
