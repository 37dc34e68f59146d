package verifier

import (
	"errors"
	"net/http"
	"testing"
	"time"

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

func TestAnIssuerNeedsAClientIDASecretAndAClock(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		clientID string
		secrets  []*snap.Secret
		now      func() time.Time
	}{
		{"no client id", "", []*snap.Secret{secret}, fixed(noon)},
		{"no secret", client, nil, fixed(noon)},
		{"a secret that is none", client, []*snap.Secret{secret, nil}, fixed(noon)},
		{"an empty secret", client, []*snap.Secret{snap.NewSecret(nil)}, fixed(noon)},
		{"no clock", client, []*snap.Secret{secret}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if i, err := NewIssuer(test.clientID, test.secrets, test.now); i != nil || !errors.Is(err, ErrConfig) {
				t.Errorf("found %v, %v", i, err)
			}
		})
	}
}

func TestZeroValuesAcceptNothingAndDoNotPanic(t *testing.T) {
	t.Parallel()
	call := genuine(t, secret, `{}`)
	if _, err := verify(new(Verifier), call, noon); !errors.Is(err, ErrClientUnknown) {
		t.Errorf("a verifier: %v", err)
	}
	if _, err := new(Head).Verify(call.Body, nil); !errors.Is(err, ErrSignature) {
		t.Errorf("the head of a call: %v", err)
	}
	if token, err := new(Issuer).Issue(); token != "" || !errors.Is(err, ErrConfig) {
		t.Errorf("an issuer gave %q, %v", token, err)
	}
	head, err := verifier(t, noon).Head(call.Method, call.Target, call.Header, noon.Add(time.Hour))
	if !errors.Is(err, ErrTimestampOld) {
		t.Fatal(err)
	}
	if _, err := head.Verify(call.Body, nil); !errors.Is(err, ErrSignature) {
		t.Errorf("the head of a call whose headers were refused: %v", err)
	}
}
