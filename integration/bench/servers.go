package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/caddy-doku/caddy-doku/snap"
)

const (
	tokenPath  = "/authorization/v1/access-token/b2b"
	servedPath = "/served" // where the upstream says how many calls it has answered

	clientID  = "BRN-0000-0000000000000"
	secretKey = "SK-bench-0123456789ABCDEF"

	tokenLength = 550 // about that of a JSON Web Token with a 2048-bit RSA signature

	startDeadline = 20 * time.Second
	stopDeadline  = 5 * time.Second
	askDeadline   = 10 * time.Second
)

// What the upstream sees in a call, which it says in its answer.
const (
	seenPlain    = "plain"
	seenSigned   = "signed"   // it has a signature
	seenVerified = "verified" // it has none any more, but the sidecar's word
)

// answerTo returns the upstream's answer to a call.
func answerTo(seen string) []byte {
	return []byte(`{"responseCode":"2002700","responseMessage":"Successful","virtualAccountData":{"partnerServiceId":"  088899",` +
		`"customerNo":"00000000000000000001","virtualAccountNo":"  08889900000000000000000001"},"additionalInfo":{"seen":"` + seen + `"}}`)
}

// acknowledgement is how the answer begins that DOKU gets for what is kept.
const acknowledgement = `{"responseCode":"2002500","responseMessage":"Successful","virtualAccountData":{`

// newUpstream returns the handler that stands for DOKU and for the merchant's app.
func newUpstream() http.Handler {
	var served atomic.Int64
	send := func(w http.ResponseWriter, body []byte) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body) // the load notices
	}
	answers := make(map[string][]byte)
	for _, seen := range []string{seenPlain, seenSigned, seenVerified} {
		answers[seen] = answerTo(seen)
	}
	mux := http.NewServeMux()
	mux.HandleFunc(tokenPath, func(w http.ResponseWriter, _ *http.Request) {
		send(w, []byte(`{"responseCode":"2007300","responseMessage":"Successful","accessToken":"`+strings.Repeat("token", tokenLength/5)+`","tokenType":"Bearer","expiresIn":900}`))
	})
	mux.HandleFunc(servedPath, func(w http.ResponseWriter, _ *http.Request) {
		send(w, strconv.AppendInt(nil, served.Load(), 10))
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		seen := seenPlain
		switch signed := r.Header.Get(snap.HeaderSignature) != ""; {
		case signed:
			seen = seenSigned
		case r.Header.Get("X-Doku-Account") != "":
			seen = seenVerified
		}
		if n, err := io.Copy(io.Discard, r.Body); err != nil || n != r.ContentLength {
			http.Error(w, fmt.Sprintf("expected a body of %d bytes, found %d: %v", r.ContentLength, n, err), http.StatusBadRequest)
			return
		}
		served.Add(1)
		send(w, answers[seen])
	})
	return mux
}

// runUpstream serves the upstream on a loopback port, which it prints as its
// first line, until stdin ends or ctx does.
func runUpstream(ctx context.Context, _ []string, stdout, _ io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the process
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: newUpstream(), ReadHeaderTimeout: roundDeadline}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if _, err := fmt.Fprintln(stdout, listener.Addr()); err != nil {
		return err
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// process is a server that bench has started.
type process struct {
	name    string
	address string // host:port
	admin   string // host:port of Caddy's admin API, if it has one

	cmd   *exec.Cmd
	log   *tail
	ended chan struct{} // closed when it has ended
}

// start starts cmd, whose context ends it, as a server called name.
func start(name string, cmd *exec.Cmd) (*process, error) {
	p := &process{name: name, cmd: cmd, log: new(tail), ended: make(chan struct{})}
	cmd.Stderr = p.log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopDeadline
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		_ = cmd.Wait() // whoever talks to it notices
		close(p.ended)
	}()
	return p, nil
}

// stop ends the process and waits for its end.
func (p *process) stop() {
	select {
	case <-p.ended:
		return
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(stopDeadline):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// ready waits until the process accepts connections.
func (p *process) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-retry.C:
		case <-p.ended:
			return fmt.Errorf("%s has ended: %s", p.name, p.log)
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen on %s: %w: %s", p.name, p.address, ctx.Err(), p.log)
		}
	}
}

// tick is the unit of CPU time in /proc: 1/100 s (USER_HZ) on every
// architecture that Go supports.
const tick = 10 * time.Millisecond

// cpu returns the CPU time, user and system, that the process has used so far.
func (p *process) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("reading the CPU time of %s: %w: %s", p.name, err, p.log)
	}
	ticks, err := statTicks(text)
	if err != nil {
		return 0, fmt.Errorf("reading the CPU time of %s: %w", p.name, err)
	}
	return time.Duration(ticks) * tick, nil
}

// statTicks returns utime and stime together from the text of /proc/<pid>/stat:
// fields 14 and 15, where field 2, in parentheses, may have spaces.
func statTicks(stat []byte) (int64, error) {
	const first, utime, stime = 3, 14, 15 // first is the field after the parentheses
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= stime-first {
		return 0, fmt.Errorf("expected %d fields, found %q", stime, stat)
	}
	user, err := strconv.ParseInt(string(fields[utime-first]), 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(string(fields[stime-first]), 10, 64)
	return user + system, err
}

// memory returns the process's resident set in bytes.
func (p *process) memory() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("reading the memory of %s: %w", p.name, err)
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		return 0, fmt.Errorf("reading the memory of %s: %w", p.name, err)
	}
	return resident * int64(os.Getpagesize()), nil
}

// tail keeps the end of what is written to it: why a server has failed.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

const tailKept = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	t.kept = t.kept[max(0, len(t.kept)-tailKept):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.kept))
}

// setup is what all cases share: the upstream, and a folder with keys.
type setup struct {
	caddy    string
	admin    bool // whether the Caddys have an admin API, for profiles
	folder   string
	dokuKey  *rsa.PrivateKey
	secret   *snap.Secret
	upstream *process
}

func newSetup(ctx context.Context, caddy string, admin bool) (*setup, error) {
	s := &setup{caddy: caddy, admin: admin, secret: snap.NewSecret([]byte(secretKey))}
	if err := s.prepare(ctx); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *setup) prepare(ctx context.Context) error {
	var err error
	if s.caddy, err = exec.LookPath(s.caddy); err != nil {
		return fmt.Errorf("%w; build it first, or name it with -caddy", err)
	}
	if s.folder, err = os.MkdirTemp("", "caddy-doku-bench-"); err != nil {
		return err
	}
	merchantKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	if s.dokuKey, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(merchantKey)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(s.dokuKey.Public())
	if err != nil {
		return err
	}
	for name, block := range map[string]*pem.Block{
		"merchant-private.pem": {Type: "PRIVATE KEY", Bytes: private},
		"doku-public.pem":      {Type: "PUBLIC KEY", Bytes: public},
	} {
		if err := os.WriteFile(filepath.Join(s.folder, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return s.startUpstream(ctx)
}

func (s *setup) startUpstream(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, upstreamCommand) //nolint:gosec // this very program
	if _, err := cmd.StdinPipe(); err != nil {             // left open: its end tells the upstream that bench has ended
		return err
	}
	address, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _, _ = address.Close(), w.Close() }()
	cmd.Stdout = w
	if s.upstream, err = start("the upstream", cmd); err != nil {
		return err
	}
	if err := address.SetReadDeadline(time.Now().Add(startDeadline)); err != nil {
		return err
	}
	if _, err := fmt.Fscanln(address, &s.upstream.address); err != nil {
		return fmt.Errorf("reading the upstream's address: %w: %s", err, s.upstream.log)
	}
	return nil
}

// close ends the upstream and removes the folder.
func (s *setup) close() {
	if s.upstream != nil {
		s.upstream.stop()
	}
	if s.folder != "" {
		_ = os.RemoveAll(s.folder)
	}
}

// served returns how many calls the upstream has answered.
func (s *setup) served(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, askDeadline)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.upstream.address+servedPath, http.NoBody)
	if err != nil {
		return 0, err
	}
	body, err := ask(req)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(body))
}

// awaitServed waits until the upstream has answered n calls.
func (s *setup) awaitServed(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, roundDeadline)
	defer cancel()
	for {
		served, err := s.served(ctx)
		if err != nil || served >= n {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the upstream has got %d calls of %d", served, n)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// The sites of the Caddys. reverse_proxy keeps as many idle connections to the
// upstream as the transport of doku_sign does; its own default of 32 would have
// it open new ones all the time at 256 connections, and what it then spends
// has nothing to do with signing.
const (
	plainSite = `
	reverse_proxy {$BENCH_UPSTREAM} {
		transport http {
			keepalive_idle_conns_per_host 256
		}
	}`
	signSite = `
	doku_sign`
	verifySite = `
	doku_token ` + tokenPath + `
	doku_verify /v1.1/transfer-va/*` + plainSite
	bufferedSite = `
	doku_token ` + tokenPath + `
	doku_verify /v1.1/transfer-va/*
	reverse_proxy {$BENCH_UPSTREAM} {
		request_buffers 1MiB
		transport http {
			keepalive_idle_conns_per_host 256
		}
	}`
	durableSite = `
	doku_token ` + tokenPath + `
	doku_verify /v1.1/transfer-va/*
	doku_inbox {
		policy durable
		concurrency 64
		deliver {` + plainSite + `
		}
	}`
	dokuOption = `
	doku {
		environment http://{$BENCH_UPSTREAM}
		account {
			client_id       {env.BENCH_CLIENT_ID}
			secret_key      {env.BENCH_SECRET_KEY}
			private_key     {env.BENCH_FOLDER}/merchant-private.pem
			doku_public_key {env.BENCH_FOLDER}/doku-public.pem
		}
	}`
)

// startCaddy starts a Caddy with one site, and waits until it listens.
func (s *setup) startCaddy(ctx context.Context, name, option, site string) (*process, error) {
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	admin, listen := "", "off"
	if s.admin {
		if admin, err = freeAddress(ctx); err != nil {
			return nil, err
		}
		listen = admin
	}
	_, port, _ := strings.Cut(address, ":")
	config := filepath.Join(s.folder, port+".Caddyfile")
	text := fmt.Sprintf("{\n\tadmin %s\n\tpersist_config off\n\tdefault_bind 127.0.0.1\n\tgrace_period 1s\n\tlog {\n\t\tlevel WARN\n\t}%s\n}\nhttp://:%s {%s\n}\n",
		listen, option, port, site)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, s.caddy, "run", "--adapter", "caddyfile", "--config", config) //nolint:gosec // the binary to measure
	cmd.Env = append(os.Environ(),
		"BENCH_UPSTREAM="+s.upstream.address,
		"BENCH_CLIENT_ID="+clientID,
		"BENCH_SECRET_KEY="+secretKey,
		"BENCH_FOLDER="+s.folder,
		"XDG_DATA_HOME="+filepath.Join(s.folder, port), // of its own: an inbox remembers what was taken
		"XDG_CONFIG_HOME="+s.folder)
	p, err := start(name, cmd)
	if err != nil {
		return nil, err
	}
	p.address, p.admin = address, admin
	if err := p.ready(ctx); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// freeAddress returns a loopback address that nobody listens on.
func freeAddress(ctx context.Context) (string, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// inboundToken asks the Caddy at address for a token, as DOKU does.
func (s *setup) inboundToken(ctx context.Context, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askDeadline)
	defer cancel()
	timestamp := snap.Timestamp(time.Now())
	digest := sha256.Sum256([]byte(snap.TokenStringToSign(clientID, timestamp)))
	signature, err := rsa.SignPKCS1v15(rand.Reader, s.dokuKey, crypto.SHA256, digest[:])
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+tokenPath, strings.NewReader(`{"grantType":"client_credentials"}`))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(snap.HeaderClientKey, clientID)
	req.Header.Set(snap.HeaderTimestamp, timestamp)
	req.Header.Set(snap.HeaderSignature, base64.StdEncoding.EncodeToString(signature))
	body, err := ask(req)
	if err != nil {
		return "", err
	}
	var given struct {
		AccessToken string `json:"accessToken"`
	}
	if err := json.Unmarshal(body, &given); err != nil || given.AccessToken == "" {
		return "", fmt.Errorf("expected an access token, found %q", body)
	}
	return given.AccessToken, nil
}

// ask returns the body of the answer to req, which must have status 200.
func ask(req *http.Request) ([]byte, error) {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, answerLargest))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %w, found %s: %.*q", req.Method, req.URL.Path, errStatus, resp.Status, bodyShown, body)
	}
	return body, nil
}

const answerLargest = 16 << 20 // a CPU profile is the largest
