package outbound

import (
	"net/http"

	"github.com/caddy-doku/caddy-doku/internal/tokens"
	"github.com/caddy-doku/caddy-doku/signer"
	"github.com/caddy-doku/caddy-doku/snap"
)

// passed are the app's headers that go to DOKU, besides those of SNAP.
var passed = []string{"Accept", "X-Ip-Address", "X-Device-Id", "Authorization-Customer"}

var (
	contentType = []string{"application/json"}
	userAgent   = []string{"caddy-doku"}
)

// headers returns the headers of an attempt: those of the app that may pass, and the
// six of SNAP.
func headers(req *http.Request, c *call, token tokens.Token) http.Header {
	timestamp := snap.Timestamp(c.account.Clock().Time())
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
		timestamp, c.account.ID(), c.externalID, c.channelID, "Bearer " + token.Value, signer.Symmetric(c.credentials.Secret(), signer.Call{
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
