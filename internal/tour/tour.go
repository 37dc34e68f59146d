// Package tour shows the sidecar at work. It starts a simulated DOKU, the real sidecar as
// a process of its own, and a small merchant app, all on loopback with new keys, and walks
// through every flow.
package tour

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/caddy-doku/caddy-doku/simulator"
)

// Options say how the tour is run.
type Options struct {
	Sidecar string    // path of the binary to start
	Once    bool      // end after the walk instead of staying up
	Out     io.Writer // for the text of the tour
	Log     io.Writer // for the sidecar's own log
}

const (
	clientID         = "BRN-0000-1234567890123"
	partnerServiceID = "    8808"
	startDeadline    = time.Minute // only what hangs takes so long
	stopDeadline     = 10 * time.Second
	headerDeadline   = time.Minute
)

// tourEnv is everything that the tour has started.
type tourEnv struct {
	out     io.Writer
	doku    *simulator.Simulator
	app     *demoApp
	client  *http.Client
	outward string // the sidecar's address for the app
	inward  string // the sidecar's address for DOKU
	bank    string // the simulator's address for a person with curl
	dir     string // keys and configuration
	closers []func()
}

// Run takes the tour. It returns an error if a step fails, and nil when ctx ends after the
// walk.
func Run(ctx context.Context, o Options) error {
	env := &tourEnv{out: o.Out, client: &http.Client{Timeout: time.Minute}}
	defer env.close()
	died, err := env.start(ctx, o)
	if err != nil {
		return err
	}
	if err := env.walk(ctx); err != nil {
		return err
	}
	if o.Once {
		return nil
	}
	env.invite()
	select {
	case <-ctx.Done():
		return nil
	case err := <-died:
		return fmt.Errorf("the sidecar has ended: %w", err)
	}
}

func (env *tourEnv) close() {
	for _, closer := range slices.Backward(env.closers) {
		closer()
	}
}

// start starts everything but the walk. The channel gets an error if the sidecar ends by
// itself.
func (env *tourEnv) start(ctx context.Context, o Options) (<-chan error, error) {
	var err error
	if env.dir, err = os.MkdirTemp("", "caddy-doku-tour-"); err != nil {
		return nil, err
	}
	env.closers = append(env.closers, func() { os.RemoveAll(env.dir) })
	merchantKey, err := newKey(env.dir, "merchant-private.pem")
	if err != nil {
		return nil, err
	}
	dokuKey, err := newKey(env.dir, "doku-private.pem")
	if err != nil {
		return nil, err
	}
	if err := writePublic(env.dir, "doku-public.pem", &dokuKey.PublicKey); err != nil {
		return nil, err
	}
	secret := "SK-" + rand.Text()
	env.doku, err = simulator.New(simulator.Config{Merchant: simulator.Merchant{
		ClientID: clientID, SecretKey: secret, PublicKey: &merchantKey.PublicKey, DOKUKey: dokuKey, PartnerServiceID: partnerServiceID,
	}})
	if err != nil {
		return nil, err
	}
	env.app = &demoApp{}
	dokuAddress, err := env.serve(ctx, env.doku)
	if err != nil {
		return nil, err
	}
	if env.bank, err = env.serve(ctx, env.doku.Bank()); err != nil {
		return nil, err
	}
	appAddress, err := env.serve(ctx, env.app)
	if err != nil {
		return nil, err
	}
	if env.outward, err = freeAddress(ctx); err != nil {
		return nil, err
	}
	if env.inward, err = freeAddress(ctx); err != nil {
		return nil, err
	}
	env.doku.SetMerchantURLs("http://"+env.inward+"/authorization/v1/access-token/b2b",
		"http://"+env.inward+"/v1.1/transfer-va/inquiry", "http://"+env.inward+"/v1.1/transfer-va/payment")
	config := fmt.Sprintf(caddyfile, dokuAddress, env.outward, env.inward, appAddress)
	if err := os.WriteFile(filepath.Join(env.dir, "Caddyfile"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	env.introduce(config)
	return env.startSidecar(ctx, o, secret)
}

// caddyfile is like the configuration of the README, with the addresses of the tour and a
// shorter wait for the app.
const caddyfile = `{
	admin off
	persist_config off
	default_bind 127.0.0.1
	log {
		level WARN
	}
	doku {
		environment http://%s
		account {
			client_id {env.DOKU_CLIENT_ID}
			secret_key {env.DOKU_SECRET_KEY}
			private_key {env.DOKU_KEYS}/merchant-private.pem
			doku_public_key {env.DOKU_KEYS}/doku-public.pem
		}
	}
}

http://%s {
	tracing
	doku_sign
}

http://%s {
	tracing
	doku_token /authorization/v1/access-token/b2b
	doku_verify /v1.1/transfer-va/*
	doku_inbox /v1.1/transfer-va/* %s {
		answer_within 3s
	}

	# Other paths must not get Caddy's empty 200, which DOKU would take for a yes.
	@other not path /authorization/v1/access-token/b2b /v1.1/transfer-va/*
	respond @other 404
}
`

// startSidecar starts the real binary and waits until it listens.
func (env *tourEnv) startSidecar(ctx context.Context, o Options, secret string) (<-chan error, error) {
	config := filepath.Join(env.dir, "Caddyfile")
	cmd := exec.CommandContext(ctx, o.Sidecar, "run", "--config", config, "--adapter", "caddyfile") //nolint:gosec // the binary itself
	cmd.Env = append(os.Environ(),
		"DOKU_CLIENT_ID="+clientID, "DOKU_SECRET_KEY="+secret, "DOKU_KEYS="+env.dir,
		"XDG_CONFIG_HOME="+env.dir, "XDG_DATA_HOME="+env.dir)
	cmd.Env = append(cmd.Env, env.traces()...)
	cmd.Stdout, cmd.Stderr = o.Log, o.Log
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = stopDeadline
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the sidecar: %w", err)
	}
	died := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := cmd.Wait()
		if err == nil {
			err = errors.New("without an error")
		}
		died <- err
	}()
	env.closers = append(env.closers, func() {
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended already
		select {
		case <-ended:
		case <-time.After(stopDeadline):
			_ = cmd.Process.Kill()
			<-ended
		}
	})
	ctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var dialer net.Dialer
		if conn, err := dialer.DialContext(ctx, "tcp", env.inward); err == nil {
			return died, conn.Close()
		}
		select {
		case err := <-died:
			return nil, fmt.Errorf("the sidecar did not start: %w; its log is above", err)
		case <-ctx.Done():
			return nil, fmt.Errorf("the sidecar does not listen on %s: %w", env.inward, ctx.Err())
		case <-tick.C:
		}
	}
}

// traces returns the environment variables that make the sidecar export its traces to a
// collector, if one is set.
func (env *tourEnv) traces() []string {
	collector := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"))
	if collector == "" {
		return []string{"OTEL_TRACES_EXPORTER=none"}
	}
	service := cmp.Or(os.Getenv("OTEL_SERVICE_NAME"), "caddy-doku")
	fmt.Fprintf(env.out, "Its traces go to %s, as those of the service %s.\n", collector, service)
	return []string{"OTEL_TRACES_EXPORTER=otlp", "OTEL_SERVICE_NAME=" + service}
}

// serve serves h on a free loopback port.
func (env *tourEnv) serve(ctx context.Context, h http.Handler) (string, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: headerDeadline}
	go func() { _ = server.Serve(listener) }() // ends with Close below
	env.closers = append(env.closers, func() { server.Close() })
	return listener.Addr().String(), nil
}

// freeAddress returns a loopback address that was free a moment ago.
func freeAddress(ctx context.Context) (string, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

func newKey(dir, name string) (*rsa.PrivateKey, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return key, os.WriteFile(filepath.Join(dir, name), text, 0o600)
}

func writePublic(dir, name string, key *rsa.PublicKey) error {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	return os.WriteFile(filepath.Join(dir, name), text, 0o600)
}

// post sends a plain request, as the merchant's app does.
func (env *tourEnv) post(ctx context.Context, method, path, body string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+env.outward+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := env.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, answer, err
}
