package signer

import (
	"crypto/rand"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/snap"
)

const client = "BRN-0000-0000000000000"

func TestSign(t *testing.T) {
	t.Parallel()
	s, err := New(client, snap.NewSecret([]byte("SK-test-0123456789ABCDEF")))
	if err != nil {
		t.Fatal(err)
	}
	h := make(http.Header)
	err = s.Sign(h, Request{
		Method: "GET", Target: "/orders/v1.0/transfer-va/status", Token: "testB2BtokenABC123", Digest: snap.Digest(nil),
		Time: time.Date(2024, 3, 26, 16, 1, 41, 0, snap.WIB), ExternalID: "1", ChannelID: "H2H",
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"X-TIMESTAMP": "2024-03-26T16:01:41+07:00", "X-PARTNER-ID": client, "X-EXTERNAL-ID": "1", "CHANNEL-ID": "H2H",
		"Authorization": "Bearer testB2BtokenABC123",
		// A known answer, computed independently; see also testdata/vectors.json.
		"X-SIGNATURE": "Ien035oWG10CP7o+Y5ThBUBeptiQBWIVe0hrVzvgcacETQEnRUeXuY5rKz3oVuNAZxflyq03AsH0RIgcsuG8MQ==",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: found %s, expected %s", name, got, want)
		}
	}
}

func TestSignTokenRequest(t *testing.T) {
	t.Parallel()
	h := make(http.Header)
	err := SignTokenRequest(h, doktest.Key(t, doktest.MerchantKey), client, time.Date(2022, 10, 7, 14, 18, 39, 0, snap.WIB))
	// A known answer, computed independently; see also testdata/vectors.json.
	if got := h.Get("X-SIGNATURE"); err != nil || len(got) < 32 || got[:32] != "IYENnQH3LVshB4bmXGqh2wEblxpi4P0s" {
		t.Errorf("signature %s, %v", got, err)
	}
	if h.Get("X-CLIENT-KEY") != client || h.Get("X-TIMESTAMP") != "2022-10-07T14:18:39+07:00" {
		t.Errorf("found %v", h)
	}
}

func TestAnIncompleteRequestIsNotSigned(t *testing.T) {
	t.Parallel()
	secret := snap.NewSecret([]byte("SK-test"))
	_, noClient := New("", secret)
	_, noSecret := New(client, nil)
	_, emptySecret := New(client, snap.NewSecret(nil))
	s, err := New(client, secret)
	if err != nil {
		t.Fatal(err)
	}
	h := make(http.Header)
	complete := Request{Method: "GET", Target: "/", Token: "token", Time: time.Now(), ExternalID: "1", ChannelID: "H2H"}
	for name, err := range map[string]error{
		"a signer without a client id":       noClient,
		"a signer without a secret":          noSecret,
		"a signer with an empty secret":      emptySecret,
		"a signer that New has not made":     new(Signer).Sign(h, complete),
		"a request without anything":         s.Sign(h, Request{}),
		"a request without a token":          s.Sign(h, Request{Method: "GET", Target: "/", Time: time.Now(), ExternalID: "1", ChannelID: "H2H"}),
		"a token request without a key":      SignTokenRequest(h, nil, client, time.Now()),
		"a token request without an account": SignTokenRequest(h, doktest.Key(t, doktest.MerchantKey), "", time.Now()),
	} {
		if !errors.Is(err, ErrIncomplete) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(h) != 0 {
		t.Errorf("headers were set: %v", h)
	}
}

func TestTokenRejected(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status int
		body   string
		want   bool
	}{
		{http.StatusUnauthorized, `{"responseCode":"4012701"}`, true},
		{http.StatusUnauthorized, `{"responseCode":"4012503"}`, true},
		{http.StatusUnauthorized, `{"responseCode":4012701}`, true},
		{http.StatusUnauthorized, `{"responseCode":"4012700"}`, false}, // the signature
		{http.StatusUnauthorized, `{"responseCode":"4002701"}`, false},
		{http.StatusUnauthorized, `401`, false},
		{http.StatusUnauthorized, ``, false},
		{http.StatusOK, `{"responseCode":"4012701"}`, true}, // as DOKU's own libraries have it
		{http.StatusBadRequest, `{"responseCode":"4012703"}`, true},
		{http.StatusOK, `{"responseCode":"2002701"}`, false},
		{http.StatusInternalServerError, `{"responseCode":"4012701"}`, false}, // something failed, and may have been done
	} {
		if got := TokenRejected(test.status, []byte(test.body)); got != test.want {
			t.Errorf("HTTP %d %s: %v", test.status, test.body, got)
		}
	}
}

func TestExternalIDs(t *testing.T) {
	t.Parallel()
	now := time.Date(2024, 3, 26, 16, 0, 0, 0, snap.WIB)
	seen := make(map[string]bool)
	for range 10_000 {
		id, err := ExternalID(now, rand.Reader)
		if err != nil || len(id) != 32 || !ValidExternalID(id) || seen[id] {
			t.Fatalf("external id %q, %v", id, err)
		}
		seen[id] = true
	}
	for id, ok := range map[string]bool{
		"1": true, "": false, "12a": false,
		"123456789012345678901234567890123456": true, "1234567890123456789012345678901234567": false,
	} {
		if ValidExternalID(id) != ok {
			t.Errorf("ValidExternalID(%q) = %v", id, !ok)
		}
	}
}
