// Package integration tests the built binary from outside: the simulator on one
// side, a merchant's app on the other, the sidecar as a process between them.
package integration

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/simulator"
)

const (
	clientID         = "BRN-0000-0000000000000"
	secretKey        = "SK-test-0123456789ABCDEF"
	partnerServiceID = "    8808"

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

func testdata(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func privateKey(t testing.TB, name string) *rsa.PrivateKey {
	t.Helper()
	data, err := os.ReadFile(testdata(t, name))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*rsa.PrivateKey)
}

// app is a merchant's app that records what it sees.
type app struct {
	mu     sync.Mutex
	calls  []appCall
	answer func(appCall) (int, string) // nil: 200 with a notification's answer
}

type appCall struct {
	target string
	header http.Header
	body   string
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<22))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	call := appCall{r.RequestURI, r.Header.Clone(), string(body)}
	a.mu.Lock()
	a.calls = append(a.calls, call)
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

func (a *app) setAnswer(f func(appCall) (int, string)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = f
}

// world is a simulated DOKU, a sidecar and an app.
type world struct {
	doku    *simulator.Simulator
	app     *app
	outward string // base URL for the app
	inward  string // base URL for DOKU
	log     *syncBuffer
	config  string // the sidecar's Caddyfile

	environment, appAddress string // of doku and app, for the configuration
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// options are additions to the configuration.
type options struct {
	sign, verify string // the directives' blocks
	environment  string // default: the simulator
	app          string // address of the app; default: the recording one
	admin        bool   // with the admin API, for reloads
}

// start sets up a world for one test.
func start(t *testing.T, o options) *world {
	t.Helper()
	w := newWorld(t)
	if o.environment == "" {
		o.environment = w.environment
	}
	if o.app == "" {
		o.app = w.appAddress
	}
	admin := "off"
	if o.admin {
		admin = freeAddress(t)
	}
	w.run(t, fmt.Sprintf(`{
	admin %s
	persist_config off
	log {
		level DEBUG
	}
	doku {
		environment %s
		account {
			client_id {env.DOKU_CLIENT_ID}
			secret_key {env.DOKU_SECRET_KEY}
			private_key {env.DOKU_PRIVATE_KEY}
			doku_public_key {env.DOKU_PUBLIC_KEY}
		}
	}
}
%s {
	doku_sign %s
}
%s {
	doku_token %s
	doku_verify /v1.1/transfer-va/* %s
	reverse_proxy /v1.1/transfer-va/* %s
}
`, admin, o.environment, w.outward, o.sign, w.inward, tokenPath, o.verify, o.app))
	return w
}

// newWorld sets up what is around the sidecar.
func newWorld(t *testing.T) *world {
	t.Helper()
	merchant := privateKey(t, "test-merchant-private.pem")
	w := &world{app: &app{}, log: &syncBuffer{}}
	var err error
	w.doku, err = simulator.New(simulator.Config{Merchant: simulator.Merchant{
		ClientID: clientID, SecretKey: secretKey, PublicKey: &merchant.PublicKey,
		DOKUKey: privateKey(t, "test-doku-private.pem"), PartnerServiceID: partnerServiceID,
	}})
	if err != nil {
		t.Fatal(err)
	}
	doku := httptest.NewServer(w.doku)
	t.Cleanup(doku.Close)
	server := httptest.NewServer(w.app)
	t.Cleanup(server.Close)
	w.environment, w.appAddress = doku.URL, server.Listener.Addr().String()
	w.outward, w.inward = "http://"+freeAddress(t), "http://"+freeAddress(t)
	w.doku.SetMerchantURLs(w.inward+tokenPath, w.inward+inquiryPath, w.inward+paymentPath)
	return w
}

// run starts the sidecar with a Caddyfile, and ends it with the test.
func (w *world) run(t *testing.T, config string) {
	t.Helper()
	w.config = config
	runSidecar(t, config, w.log, strings.TrimPrefix(w.outward, "http://"), strings.TrimPrefix(w.inward, "http://"))
}

// runSidecar starts the binary and ends it with the test.
func runSidecar(t *testing.T, config string, log io.Writer, addresses ...string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary(t), "run", "--config", file, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "DOKU_CLIENT_ID="+clientID, "DOKU_SECRET_KEY="+secretKey,
		"DOKU_PRIVATE_KEY="+testdata(t, "test-merchant-private.pem"), "DOKU_PUBLIC_KEY="+testdata(t, "test-doku-public.pem"),
		"XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // its log says why it ended
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			t.Error("the sidecar did not end within 20 s")
		}
		if t.Failed() {
			t.Logf("the sidecar's log:\n%s", log)
		}
	})
	for _, address := range addresses {
		await(t, address, ended)
	}
}

// await waits until somebody listens on address.
func await(t *testing.T, address string, ended <-chan struct{}) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-ended:
			t.Fatalf("the program that should listen on %s has ended", address)
		case <-deadline:
			t.Fatalf("nobody listens on %s: %v", address, err)
		case <-tick.C:
		}
	}
}

func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// answer is an HTTP answer, read.
type answer struct {
	status int
	header http.Header
	body   string
}

// call sends a request of the app's to the sidecar.
func (w *world) call(t testing.TB, method, target, body string, header ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, w.outward+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	return do(t, req)
}

func do(t testing.TB, req *http.Request) answer {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// expect checks an answer's HTTP status and response code.
func (a answer) expect(t testing.TB, status int, code string) {
	t.Helper()
	if a.status != status || !strings.Contains(a.body, `"responseCode":"`+code+`"`) {
		t.Errorf("found HTTP %d %s, expected HTTP %d with response code %s", a.status, a.body, status, code)
	}
}

// received returns the last exchange of the simulator's with a merchant's call.
func (w *world) received(t testing.TB) simulator.Exchange {
	t.Helper()
	all := w.doku.Exchanges()
	for _, e := range slices.Backward(all) {
		if e.Inbound && e.Target != tokenPath {
			return e
		}
	}
	t.Fatal("DOKU has received nothing")
	return simulator.Exchange{}
}
