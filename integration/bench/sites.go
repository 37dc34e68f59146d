package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddy-doku/caddy-doku/snap"
)

// The sites of the Caddys. reverse_proxy keeps as many idle connections to the upstream as
// the transport of doku_sign. With its own default of 32 and 256 connections, it would open
// new ones all the time, at a cost that has nothing to do with signing.
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
	text := fmt.Sprintf(

		"{\n\tadmin %s\n\tpersist_config off\n\tdefault_bind 127.0.0.1\n\tgrace_period 1s\n\tlog {\n\t\tlevel WARN\n\t}%s\n}\nhttp://:%s {%s\n}\n",
		listen, option, port, site,
	)
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
	req, err := http.NewRequestWithContext(
		ctx, http.MethodPost, "http://"+address+tokenPath, strings.NewReader(`{"grantType":"client_credentials"}`),
	)
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
