package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
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

// setup has the parts that all cases share: the upstream, and a folder with keys.
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
