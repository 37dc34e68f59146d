package verifier

import (
	"errors"
	"net/http"
	"testing"

	"github.com/caddy-doku/caddy-doku/snap"
)

func TestWithoutAKeyNothingIsAccepted(t *testing.T) {
	t.Parallel()
	requests := &TokenRequest{clientKey: client} // as nobody else can make it
	h := make(http.Header)
	h.Set(snap.HeaderClientKey, client)
	h.Set(snap.HeaderTimestamp, snap.Timestamp(noon))
	h.Set(snap.HeaderSignature, "c2lnbmVk")
	if err := requests.Verify(h, []byte(`{"grantType":"client_credentials"}`), noon); !errors.Is(err, ErrSignature) {
		t.Errorf("a token request: %v", err)
	}
	if err := new(Issuer).Check("token"); !errors.Is(err, ErrTokenInvalid) {
		t.Errorf("a token: %v", err)
	}
}
