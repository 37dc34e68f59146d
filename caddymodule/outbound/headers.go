package outbound

import (
	"net/http"

	"github.com/caddy-doku/caddy-doku/internal/tokens"
	"github.com/caddy-doku/caddy-doku/signer"
	"github.com/caddy-doku/caddy-doku/snap"
)

// passed are the app's headers that go to DOKU, besides those of SNAP.
var passed = []string{"Accept", "X-Ip-Address", "X-Device-Id", "Authorization-Customer"}

// onceOnly are the headers of SNAP that a call must not have twice. [Sign.setExternalID] and
// checkPartner look at two more.
var onceOnly = []string{"Channel-Id", "X-Ip-Address", "X-Device-Id", "Authorization-Customer"}

var (
	contentType = []string{"application/json"}
	userAgent   = []string{"caddy-doku"}
)

// headers returns the headers of an attempt: those of the app that may pass, and the
// six of SNAP, or the three of a token request.
func headers(req *http.Request, c *call, token tokens.Token) (http.Header, error) {
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
	if c.path == b2b2cTokenPath {
		return h, signer.SignTokenRequest(h, c.credentials.PrivateKey(), c.account.ID(), c.account.Clock().Time())
	}
	return h, c.credentials.Signer().Sign(h, signer.Request{
		Method:     req.Method,
		Target:     snap.RequestTarget(req.URL.RequestURI()),
		Digest:     c.digest,
		Token:      token.Value,
		Time:       c.account.Clock().Time(),
		ExternalID: c.externalID,
		ChannelID:  c.channelID,
	})
}
