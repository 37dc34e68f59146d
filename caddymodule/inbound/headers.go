package inbound

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/snap"
)

// sidecarHeaders are the headers that only the sidecar sets for the app. Hop-by-hop
// headers are among them: Connection could name others for a proxy to remove.
var sidecarHeaders = headerSet(httpio.HeaderError, httpio.HeaderExternalID, httpio.HeaderReplayed,
	httpio.HeaderAccount, httpio.HeaderService, httpio.HeaderVerified, httpio.HeaderIdempotencyKey, httpio.HeaderAttempt,
	"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade")

// removedHeaders are those that the app of a verified call does not get. Without
// Accept-Encoding it does not compress its answer, which the sidecar reads.
var removedHeaders = headerSet(
	append(slices.Collect(maps.Keys(sidecarHeaders)), snap.HeaderAuthorization, snap.HeaderSignature, "Accept-Encoding")...)

func headerSet(all ...string) map[string]bool {
	set := make(map[string]bool, len(all))
	for _, name := range all {
		set[http.CanonicalHeaderKey(name)] = true
	}
	return set
}

// mark removes the headers in without from h, and sets those that tell the app about
// the call.
func (in *call) mark(h http.Header, without map[string]bool, ok bool) {
	for name := range h {
		if without[name] {
			delete(h, name)
		}
	}
	values := make([]string, 0, 4) // one allocation for all
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

// forApp returns the request as the app gets it. It changes the headers of r. Trailers
// are removed: they are not signed, and some servers take them for headers.
func (v *Verify) forApp(ctx context.Context, r *http.Request, in *call) *http.Request {
	out := r.WithContext(in.passOn(ctx, true))
	in.mark(out.Header, removedHeaders, true)
	out.Body = io.NopCloser(bytes.NewReader(in.body))
	if out.ContentLength != int64(len(in.body)) { // it came without a length
		out.ContentLength = int64(len(in.body))
		out.Header.Set("Content-Length", strconv.Itoa(len(in.body)))
	}
	out.TransferEncoding, out.Trailer = nil, nil
	return out
}
