package outbound

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/tokens"
	"github.com/caddy-doku/caddy-doku/snap"
)

func init() {
	caddy.RegisterModule(Transport{})
	caddy.RegisterModule(Upstreams{})
}

// Transport signs calls to DOKU when they leave. On each attempt, a copy of the request
// gets the six SNAP headers, with a fresh X-TIMESTAMP, and an X-SIGNATURE over exactly
// the method, target and body that go on the wire. The transport talks to the account's
// environment only. If DOKU says that the token is invalid (401xx01, 401xx03), it gets
// another token and sends the call once more, with the same X-EXTERNAL-ID.
//
// Of the app's headers, only Accept, CHANNEL-ID, X-EXTERNAL-ID, X-IP-ADDRESS,
// X-DEVICE-ID and Authorization-Customer go to DOKU. Nothing about the merchant's
// network does.
//
// It takes the options of the `http` transport too, with these defaults: TLS as
// the environment asks for it, 5 s to connect, 256 idle connections kept, no
// compression. The handler `doku_sign` must come before the proxy.
type Transport struct {
	*reverseproxy.HTTPTransport

	app *doku.App

	// gets sends GETs, each on a connection of its own. net/http sends a GET again by itself
	// if a kept connection dies under it, with the same X-EXTERNAL-ID, which DOKU takes once.
	gets *reverseproxy.HTTPTransport
}

// CaddyModule returns the Caddy module information.
func (Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.doku",
		New: func() caddy.Module { return &Transport{HTTPTransport: new(reverseproxy.HTTPTransport)} },
	}
}

const (
	dialTimeout     = 5 * time.Second
	idleConnections = 256
	writeBuffer     = 72 << 10
)

// Provision sets the defaults and prepares the HTTP transport.
func (t *Transport) Provision(ctx caddy.Context) error {
	if t.HTTPTransport == nil {
		t.HTTPTransport = new(reverseproxy.HTTPTransport)
	}
	var err error
	if t.app, err = doku.Find(ctx); err != nil {
		return err
	}
	for _, account := range t.app.Accounts {
		if account.BaseURL().Scheme == "https" && t.TLS == nil {
			t.TLS = new(reverseproxy.TLSConfig)
		}
	}
	if t.DialTimeout == 0 {
		t.DialTimeout = caddy.Duration(dialTimeout)
	}
	if t.KeepAlive == nil {
		t.KeepAlive = &reverseproxy.KeepAlive{MaxIdleConnsPerHost: idleConnections}
	}
	if t.WriteBufferSize == 0 {
		t.WriteBufferSize = writeBuffer
	}
	if t.Compression == nil {
		t.Compression = new(bool)
	}
	if t.gets, err = withoutKeepAlive(t.HTTPTransport); err != nil {
		return err
	}
	if err := t.gets.Provision(ctx); err != nil {
		return err
	}
	return t.HTTPTransport.Provision(ctx)
}

// withoutKeepAlive returns a copy of a transport that is not provisioned yet. The copy uses
// each connection once.
func withoutKeepAlive(t *reverseproxy.HTTPTransport) (*reverseproxy.HTTPTransport, error) {
	config, err := json.Marshal(t)
	if err != nil {
		return nil, fmt.Errorf("copying the options of the transport: %w", err)
	}
	copied := new(reverseproxy.HTTPTransport)
	if err := json.Unmarshal(config, copied); err != nil {
		return nil, fmt.Errorf("copying the options of the transport: %w", err)
	}
	copied.KeepAlive = &reverseproxy.KeepAlive{Enabled: new(bool)}
	return copied, nil
}

// Cleanup closes idle connections.
func (t *Transport) Cleanup() error {
	var errs []error
	for _, transport := range []*reverseproxy.HTTPTransport{t.HTTPTransport, t.gets} {
		if transport != nil && transport.Transport != nil {
			errs = append(errs, transport.Cleanup())
		}
	}
	return errors.Join(errs...)
}

// of returns the transport for calls with a method.
func (t *Transport) of(method string) *reverseproxy.HTTPTransport {
	if method == http.MethodGet {
		return t.gets
	}
	return t.HTTPTransport
}

var errNotPrepared = errors.New(
	"the transport doku was given a request that doku_sign has not prepared; write `doku_sign` in place of this reverse_proxy, or the handler doku_sign before it, and no active health check",
)

// RoundTrip signs a copy of req, sends it, and returns DOKU's answer.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	c, ok := req.Context().Value(callKey{}).(*call)
	if !ok {
		return nil, caddyhttp.Error(http.StatusInternalServerError, errNotPrepared)
	}
	if dial, ok := reverseproxy.GetDialInfo(req.Context()); ok && dial.Address != dialAddress(c.account) {
		return nil, caddyhttp.Error(http.StatusInternalServerError,
			fmt.Errorf("expected the upstream of a reverse_proxy with the transport doku to be %s, found %s", dialAddress(c.account), dial.Address))
	}
	resp, token, err := t.send(req, c)
	if err != nil || !c.tokenRejected() {
		return resp, err
	}
	c.account.Tokens().Invalidate(token)
	if _, err := c.token(c.startSigning(req.Context())); err != nil {
		return resp, nil //nolint:nilerr // DOKU's own refusal says more than that there is no other token
	}
	resp.Body.Close()
	c.written.Store(false) // DOKU has said that it did nothing
	resp, _, err = t.send(req, c)
	return resp, err
}

// send makes one attempt, and returns the token that it was made with.
func (t *Transport) send(req *http.Request, c *call) (*http.Response, string, error) {
	c.answer, c.plain, c.answered, c.status, c.result = nil, nil, false, 0, 0
	signing := c.startSigning(req.Context())
	var token tokens.Token
	if c.path != b2b2cTokenPath { // which is called without one
		var err error
		if token, err = c.token(signing); err != nil {
			return nil, "", noToken(err)
		}
	}
	c.sends++
	header, err := headers(req, c, token)
	if err != nil {
		return nil, "", &reasons.Rejection{Case: snap.GeneralError, Reason: reasons.Other, Err: err}
	}
	c.endSigning("")
	ctx, span := c.startAttempt(req.Context(), req, token)
	defer span.End()
	sent := c.account.Clock().Now()
	resp, err := t.of(req.Method).RoundTrip(t.outgoing(ctx, req, c, header))
	if err == nil {
		c.account.Clock().Observe(sent, c.account.Clock().Now(), resp.Header)
		err = c.readAnswer(resp)
		c.answered = err == nil
	}
	c.endAttempt(span, resp, err)
	took := c.account.Clock().Now().Sub(sent)
	c.waited += took
	if c.written.Load() {
		telemetry.Observe(span, telemetry.UpstreamDuration.WithLabelValues(c.account.Name, string(c.service)), took)
	}
	if err != nil {
		return nil, "", err
	}
	return resp, token.Value, nil
}

// outgoing returns the request of an attempt.
func (t *Transport) outgoing(ctx context.Context, req *http.Request, c *call, header http.Header) *http.Request {
	out := req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders: func() { c.written.Store(true) },
		WroteRequest: func(info httptrace.WroteRequestInfo) {
			if info.Err == nil && len(c.body) > 0 {
				c.bodyRead()
			}
		},
	}))
	target := *req.URL
	base := c.account.BaseURL()
	target.Scheme, target.Host = base.Scheme, base.Host
	out.URL, out.Host = &target, base.Host
	out.Header = header
	out.Body, out.GetBody, out.ContentLength = http.NoBody, nil, int64(len(c.body))
	out.Trailer, out.TransferEncoding = nil, nil
	if len(c.body) > 0 {
		out.GetBody = func() (io.ReadCloser, error) { return c.reader(), nil }
		out.Body = c.reader()
	}
	return out
}

// Upstreams names the one upstream that a `reverse_proxy` with the transport
// `doku` may have: DOKU, as the environment of the call's account says.
type Upstreams struct{}

// CaddyModule returns the Caddy module information.
func (Upstreams) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.reverse_proxy.upstreams.doku", New: func() caddy.Module { return new(Upstreams) }}
}

// GetUpstreams returns DOKU.
func (u *Upstreams) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	c, ok := r.Context().Value(callKey{}).(*call)
	if !ok {
		return nil, errNotPrepared
	}
	return []*reverseproxy.Upstream{{Dial: dialAddress(c.account)}}, nil
}

var (
	_ caddy.Provisioner           = (*Transport)(nil)
	_ caddy.CleanerUpper          = (*Transport)(nil)
	_ http.RoundTripper           = (*Transport)(nil)
	_ reverseproxy.TLSTransport   = (*Transport)(nil)
	_ reverseproxy.UpstreamSource = (*Upstreams)(nil)
)

// dialAddress returns host and port of the account's environment.
func dialAddress(account *doku.Account) string {
	base := account.BaseURL()
	return net.JoinHostPort(base.Hostname(), telemetry.PortOf(base))
}
