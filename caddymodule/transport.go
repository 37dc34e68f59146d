package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/internal/tokens"
	"github.com/caddy-doku/caddy-doku/signer"
	"github.com/caddy-doku/caddy-doku/snap"
)

func init() {
	caddy.RegisterModule(Transport{})
	caddy.RegisterModule(Upstreams{})
}

// Transport signs calls to DOKU as they leave: on each attempt, it gives a copy
// of the request the six SNAP headers, with a fresh X-TIMESTAMP and X-SIGNATURE
// over the very method, target and body that go on the wire. It talks to the
// environment of the account and to nothing else. If DOKU says that the token
// is invalid (401xx01, 401xx03), it gets another and sends the call once more,
// with the same X-EXTERNAL-ID.
//
// Of the app's headers only Accept, CHANNEL-ID, X-EXTERNAL-ID, X-IP-ADDRESS,
// X-DEVICE-ID and Authorization-Customer go to DOKU; nothing about the
// merchant's inside does.
//
// It takes the options of the `http` transport too, with these defaults: TLS as
// the environment asks for it, 5 s to connect, 256 idle connections kept, no
// compression. The handler `doku_sign` must come before the proxy.
type Transport struct {
	*reverseproxy.HTTPTransport

	app *App
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
	if t.app, err = findApp(ctx); err != nil {
		return err
	}
	for _, account := range t.app.Accounts {
		if account.base.Scheme == "https" && t.TLS == nil {
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
	return t.HTTPTransport.Provision(ctx)
}

// Cleanup closes idle connections.
func (t *Transport) Cleanup() error {
	if t.HTTPTransport == nil || t.Transport == nil {
		return nil
	}
	return t.HTTPTransport.Cleanup()
}

var errNotPrepared = errors.New("the transport doku was given a request that doku_sign has not prepared; write `doku_sign` in place of this reverse_proxy, or the handler doku_sign before it, and no active health check")

// RoundTrip signs a copy of req, sends it, and returns DOKU's answer.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	c, ok := req.Context().Value(callKey{}).(*call)
	if !ok {
		return nil, caddyhttp.Error(http.StatusInternalServerError, errNotPrepared)
	}
	if dial, ok := reverseproxy.GetDialInfo(req.Context()); ok && dial.Address != c.account.dial {
		return nil, caddyhttp.Error(http.StatusInternalServerError,
			fmt.Errorf("expected the upstream of a reverse_proxy with the transport doku to be %s, found %s", c.account.dial, dial.Address))
	}
	resp, token, err := t.send(req, c)
	if err != nil || !tokenRefused(resp.StatusCode, c.answer) {
		return resp, err
	}
	c.account.tokens.Invalidate(token)
	if _, err := c.token(c.beginSigning(req.Context())); err != nil {
		return resp, nil //nolint:nilerr // DOKU's own refusal says more than that there is no other token
	}
	resp.Body.Close()
	c.written.Store(false) // DOKU has said that it did nothing
	resp, _, err = t.send(req, c)
	return resp, err
}

// send makes one attempt, and returns the token that it was made with.
func (t *Transport) send(req *http.Request, c *call) (*http.Response, string, error) {
	c.answer, c.answered, c.status = nil, false, 0
	token, err := c.token(c.beginSigning(req.Context()))
	if err != nil {
		return nil, "", noToken(err)
	}
	c.attempts++
	header := headers(req, c, token)
	c.endSigning("")
	ctx, span := c.startAttempt(req.Context(), req, token)
	defer span.End()
	sent := c.account.clock.Now()
	resp, err := t.HTTPTransport.RoundTrip(t.outgoing(ctx, req, c, header))
	if err == nil {
		c.account.clock.Observe(sent, c.account.clock.Now(), resp.Header)
		err = c.take(resp)
		c.answered = err == nil
	}
	c.endAttempt(span, resp, err)
	took := c.account.clock.Now().Sub(sent)
	c.elsewhere += took
	if c.written.Load() {
		observe(span, upstreamDuration.WithLabelValues(c.account.Name, string(c.service)), took)
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
				c.read()
			}
		},
	}))
	target := *req.URL
	target.Scheme, target.Host = c.account.base.Scheme, c.account.base.Host
	out.URL, out.Host = &target, c.account.base.Host
	out.Header = header
	out.Body, out.GetBody, out.ContentLength = http.NoBody, nil, int64(len(c.body))
	out.Trailer, out.TransferEncoding = nil, nil
	if len(c.body) > 0 {
		out.GetBody = func() (io.ReadCloser, error) { return c.reader(), nil }
		out.Body = c.reader()
	}
	return out
}

// answerRead is how much of an answer is read before any of it goes to the app, so
// that one which breaks off is known for what it is. DOKU's are much smaller.
const answerRead = 1 << 20

// take reads DOKU's answer, unless it is too large, and leaves it in resp as it was.
func (c *call) take(resp *http.Response) error {
	for _, name := range []string{headerError, headerExternalID, headerReplayed, headerEarlier} {
		delete(resp.Header, name)
	}
	if c.uncertain && (resp.StatusCode < 200 || resp.StatusCode > 299) {
		resp.Header.Set(headerEarlier, "unknown")
	}
	start, err := io.ReadAll(io.LimitReader(resp.Body, answerRead+1))
	if err != nil {
		resp.Body.Close()
		return fmt.Errorf("reading DOKU's answer: %w", err)
	}
	c.status = resp.StatusCode
	if len(start) > answerRead {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(start), resp.Body), resp.Body}
		return nil
	}
	resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(start))
	c.answer = &store.Answer{Status: resp.StatusCode, Body: start}
	if c.repeatable != nil {
		c.answer.Header = maps.Clone(resp.Header) // the proxy changes it
		c.answer.Header[headerExternalID] = []string{c.externalID}
	}
	return nil
}

// passed are the app's headers that go to DOKU besides those of a call.
var passed = []string{"Accept", "X-Ip-Address", "X-Device-Id", "Authorization-Customer"}

var (
	contentType = []string{"application/json"}
	userAgent   = []string{"caddy-doku"}
)

// headers returns the headers of an attempt: what the app may say, and the six
// of SNAP.
func headers(req *http.Request, c *call, token tokens.Token) http.Header {
	timestamp := snap.Timestamp(c.account.clock.Time())
	h := make(http.Header) // eight headers, if the app has nothing to add, for which a map needs no table
	for _, name := range passed {
		if values := req.Header[name]; len(values) > 0 {
			h[name] = values
		}
	}
	if len(c.body) > 0 {
		h["Content-Type"] = contentType
	}
	h["User-Agent"] = userAgent
	values := [...]string{ // on the heap as one
		timestamp, c.account.clientID, c.externalID, c.channelID, "Bearer " + token.Value, signer.Symmetric(c.credentials.secrets[0], signer.Call{
			Method:    req.Method,
			Target:    snap.RequestTarget(req.URL.RequestURI()),
			Token:     token.Value,
			Digest:    c.digest,
			Timestamp: timestamp,
		}),
	}
	for i, name := range [len(values)]string{
		snap.HeaderTimestamp, snap.HeaderPartnerID, snap.HeaderExternalID, snap.HeaderChannelID, snap.HeaderAuthorization, snap.HeaderSignature,
	} {
		h[snap.HeaderKey(name)] = values[i : i+1 : i+1]
	}
	return h
}

// tokenRefused reports whether an answer of DOKU's is a 401 about the token.
func tokenRefused(status int, a *store.Answer) bool {
	if status != http.StatusUnauthorized || a == nil {
		return false
	}
	var fields struct {
		ResponseCode snap.ResponseCode `json:"responseCode"`
	}
	if json.Unmarshal(a.Body, &fields) != nil {
		return false
	}
	status, number, ok := fields.ResponseCode.Case()
	return ok && status == http.StatusUnauthorized && (number == 1 || number == 3)
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
	return []*reverseproxy.Upstream{{Dial: c.account.dial}}, nil
}

var (
	_ caddy.Provisioner           = (*Transport)(nil)
	_ caddy.CleanerUpper          = (*Transport)(nil)
	_ http.RoundTripper           = (*Transport)(nil)
	_ reverseproxy.TLSTransport   = (*Transport)(nil)
	_ reverseproxy.UpstreamSource = (*Upstreams)(nil)
)
