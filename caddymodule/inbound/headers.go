package inbound

import (
	"bytes"
	"context"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/baggage"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/snap"
)

// DOKU signs neither header names nor values, but for X-TIMESTAMP. So the app gets only
// the headers that it needs to read the call. A header that is not listed cannot make a
// framework do something else than book a payment.
var (
	callHeaders = headerSet("Content-Type", "Content-Length", snap.HeaderTimestamp, snap.HeaderPartnerID, snap.HeaderExternalID,
		snap.HeaderChannelID)

	// forwardedHeaders are those that Caddy's reverse_proxy sets. Those of a trusted proxy
	// are added to.
	forwardedHeaders = headerSet("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host")

	// ownHeaders are those that the sidecar sets for the app.
	ownHeaders = headerSet(httpio.HeaderAccount, httpio.HeaderService, httpio.HeaderVerified, httpio.HeaderIdempotencyKey,
		httpio.HeaderAttempt, "Accept", "User-Agent")

	// connectionHeaders are about one connection. Connection could name others for a
	// proxy to remove.
	connectionHeaders = headerSet("Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade")

	// neverPassed are those that pass_headers cannot add: the sidecar sets them, has
	// checked them, or they are untrue for what the app gets.
	neverPassed = union(callHeaders, forwardedHeaders, ownHeaders, connectionHeaders, headerSet(snap.HeaderAuthorization,
		snap.HeaderSignature, "Host", "Content-Encoding", "Accept-Encoding", "Expect", "Via", "Traceparent", "Tracestate", "Baggage"))
)

func headerSet(all ...string) map[string]bool {
	set := make(map[string]bool, len(all))
	for _, name := range all {
		set[http.CanonicalHeaderKey(name)] = true
	}
	return set
}

func union(sets ...map[string]bool) map[string]bool {
	all := make(map[string]bool)
	for _, set := range sets {
		maps.Copy(all, set)
	}
	return all
}

const jsonType = "application/json"

// allowed are the headers that reach the app.
type allowed map[string]bool

// allow returns the headers that reach the app if pass_headers has these names.
func allow(passed []string) allowed {
	return union(callHeaders, forwardedHeaders, headerSet(passed...))
}

// filter removes the other headers from h, and what the sidecar itself sets. The caller
// sets the latter afterwards.
func (a allowed) filter(h http.Header) {
	for name := range h {
		if !a[name] {
			delete(h, name)
		}
	}
	// The label of the body is not signed, but that the body is JSON is known.
	if values := h["Content-Type"]; len(values) != 1 || !isJSONType(values[0]) {
		h["Content-Type"] = []string{jsonType}
	}
	if values := h[snap.HeaderKey(snap.HeaderChannelID)]; len(values) > 1 || len(values) == 1 && !shortText(values[0]) {
		delete(h, snap.HeaderKey(snap.HeaderChannelID))
	}
}

// isJSONType reports whether a Content-Type is true for a JSON body, which is in UTF-8.
func isJSONType(value string) bool {
	if value == jsonType {
		return true
	}
	media, params, err := mime.ParseMediaType(value)
	charset, found := params["charset"]
	return err == nil && media == jsonType && (len(params) == 0 || len(params) == 1 && found && strings.EqualFold(charset, "utf-8"))
}

// shortText reports whether a CHANNEL-ID is one: DOKU's have five characters.
func shortText(value string) bool {
	odd := func(r rune) bool { return r < ' ' || r > '~' }
	return len(value) <= 64 && strings.IndexFunc(value, odd) < 0
}

// setHost sets the Host of a request to the app. Without a name it is the app's
// address, which only the proxy knows; X-Forwarded-Host is then left out.
func setHost(r *http.Request, host string) {
	r.Host = host
	if host == "" && len(r.Header["X-Forwarded-Host"]) == 0 {
		r.Header["X-Forwarded-Host"] = nil // Caddy sets none then
	}
}

// dashes writes a header's name as CGI and its heirs read it.
var dashes = strings.NewReplacer("_", "-", ".", "-")

// isOurs reports whether a header has a name that only the sidecar uses, or that the
// app's framework might take for one.
func isOurs(name string) bool {
	name = http.CanonicalHeaderKey(dashes.Replace(name))
	return strings.HasPrefix(name, "X-Doku-") || strings.HasPrefix(name, "Doku-") || name == httpio.HeaderIdempotencyKey
}

// mark sets the headers that tell the app about the call.
func (in *call) mark(h http.Header, ok bool) {
	values := make([]string, 0, 6) // one allocation for all
	set := func(name, value string) {
		values = append(values, value)
		h[name] = values[len(values)-1 : len(values) : len(values)]
	}
	set(httpio.HeaderService, string(in.service))
	set(httpio.HeaderVerified, strconv.FormatBool(ok))
	if in.account != nil {
		set(httpio.HeaderAccount, in.account.Name)
	}
	if ok {
		set(httpio.HeaderIdempotencyKey, in.id.Key())
	}
}

// introduce sets the headers by which the app knows its caller. Frameworks answer
// errors as JSON, and do not redirect, if the caller accepts JSON only.
func introduce(h http.Header) {
	h["Accept"] = []string{jsonType}
	h["User-Agent"] = []string{"caddy-doku"}
}

// forApp returns the request as the app gets it. It changes the headers of r. Trailers
// are removed: they are not signed, and some servers take them for headers.
func (v *Verify) forApp(ctx context.Context, r *http.Request, in *call) *http.Request {
	ctx = baggage.ContextWithoutBaggage(ctx) // it is text of the caller's
	out := r.WithContext(in.passOn(ctx, true))
	v.allowed.filter(out.Header)
	if trusted, _ := caddyhttp.GetVar(ctx, caddyhttp.TrustedProxyVarKey).(bool); !trusted {
		for name := range forwardedHeaders {
			delete(out.Header, name)
		}
	}
	in.mark(out.Header, true)
	introduce(out.Header)
	setHost(out, v.host(r))
	out.Body = io.NopCloser(bytes.NewReader(in.body))
	out.ContentLength = int64(len(in.body))
	if length := strconv.Itoa(len(in.body)); !slices.Equal(out.Header["Content-Length"], []string{length}) { // it came without a length
		out.Header["Content-Length"] = []string{length}
	}
	out.TransferEncoding, out.Trailer, out.Close = nil, nil, false
	out.Proto, out.ProtoMajor, out.ProtoMinor = "HTTP/1.1", 1, 1 // Via tells the app; the inbox does not know DOKU's
	return out
}

// host returns the Host for the app: app_host, the name of the site, or "" for the
// app's address. r is DOKU's request.
func (v *Verify) host(r *http.Request) string {
	if v.AppHost == "" {
		return v.site().name
	}
	host := v.AppHost
	if strings.Contains(host, "{") {
		repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		if !ok {
			return v.site().name
		}
		host = repl.ReplaceAll(host, "")
	}
	if !validHost(host) {
		return v.site().name
	}
	return host
}

// unmarked removes from h what only the sidecar sets, for `enforce report`.
func unmarked(h http.Header) {
	for name := range h {
		if connectionHeaders[name] || isOurs(name) {
			delete(h, name)
		}
	}
}
