package verifier

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
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
	if token, err := issuer(t, client, noon, secret).IssueFor(Grant{}); token != "" || !errors.Is(err, ErrConfig) {
		t.Errorf("an issuer gave %q, %v, for a request that was not checked", token, err)
	}
	head, err := verifier(t, noon).Head(call.Method, call.Target, call.Header, noon.Add(time.Hour))
	if !errors.Is(err, ErrTimestampOld) {
		t.Fatal(err)
	}
	if _, err := head.Verify(call.Body, nil); !errors.Is(err, ErrSignature) {
		t.Errorf("the head of a call whose headers were refused: %v", err)
	}
}

func TestARequestHasOneTokenWhoseLifeDoesNotGrow(t *testing.T) {
	t.Parallel()
	key := doktest.Key(t, doktest.DOKUKey)
	requests, err := NewTokenRequest(client, []*rsa.PublicKey{&key.PublicKey}, Window{})
	if err != nil {
		t.Fatal(err)
	}
	tokenAt := func(timestamp string, now time.Time) string {
		t.Helper()
		sum := sha256.Sum256([]byte(snap.TokenStringToSign(client, timestamp)))
		raw, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		h := http.Header{
			"X-Client-Key": {client}, "X-Timestamp": {timestamp}, "X-Signature": {base64.StdEncoding.EncodeToString(raw)},
		}
		head, err := requests.Head(h, now)
		if err != nil {
			t.Fatal(err)
		}
		grant, err := head.Grant([]byte(`{"grantType":"client_credentials"}`))
		if err != nil {
			t.Fatal(err)
		}
		token, err := issuer(t, client, now, secret).IssueFor(grant) // another sidecar each time
		if err != nil {
			t.Fatal(err)
		}
		if err := issuer(t, client, now.Add(TokenLife-time.Nanosecond), secret).Check(token); err != nil {
			t.Errorf("the token of %s at %s does not live as long as promised: %v", timestamp, now, err)
		}
		return token
	}
	first := snap.Timestamp(noon)
	early := tokenAt(first, noon.Add(-2*time.Minute))
	for _, now := range []time.Time{noon, noon.Add(time.Second), noon.Add(10 * time.Minute)} {
		if again := tokenAt(first, now); again != early {
			t.Errorf("the same request at %s has another token", now)
		}
	}
	if err := issuer(t, client, noon.Add(10*time.Minute+TokenLife), secret).Check(early); !errors.Is(err, ErrTokenExpired) {
		t.Errorf("the token lives on: %v", err)
	}
	other := tokenAt(snap.Timestamp(noon.Add(time.Second)), noon)
	sameInstant := tokenAt(noon.UTC().Format("2006-01-02T15:04:05.5Z"), noon.Add(10*time.Minute))
	if other == early || sameInstant == early || sameInstant == other {
		t.Error("two requests have the same token")
	}
}
