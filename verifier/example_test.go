package verifier_test

import (
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-doku/caddy-doku/signer"
	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/verifier"
)

// A payment notification is verified with a single call. DOKU's own time, token and
// signature stand in its headers.
func Example() {
	secret := snap.NewSecret([]byte("SK-secret"))
	now := time.Date(2026, 8, 27, 9, 0, 0, 0, snap.WIB)
	issuer, err := verifier.NewIssuer("BRN-1", []*snap.Secret{secret}, func() time.Time { return now })
	if err != nil {
		panic(err)
	}
	v, err := verifier.New(verifier.Config{PartnerID: "BRN-1", Secrets: []*snap.Secret{secret}, Tokens: issuer})
	if err != nil {
		panic(err)
	}

	// What DOKU sends.
	token, err := issuer.Issue()
	if err != nil {
		panic(err)
	}
	const target = "/v1.1/transfer-va/payment"
	body, timestamp := []byte(`{"paymentRequestId":"P-1"}`), snap.Timestamp(now)
	h := make(http.Header)
	h.Set(snap.HeaderTimestamp, timestamp)
	h.Set(snap.HeaderPartnerID, "BRN-1")
	h.Set(snap.HeaderExternalID, "1")
	h.Set(snap.HeaderAuthorization, "Bearer "+token)
	h.Set(snap.HeaderSignature, secret.Signature(snap.AppendStringToSign(nil, http.MethodPost, target, token, snap.Digest(body), timestamp)))

	verified, err := v.Verify(http.MethodPost, target, h, body, now)
	fmt.Println(verified.ExternalID, verified.BodyForm, err)

	_, err = v.Verify(http.MethodPost, target, h, []byte(`{"paymentRequestId":"P-2"}`), now)
	fmt.Println(errors.Is(err, verifier.ErrSignature), verifier.Reason(err))
	// Output:
	// 1 received <nil>
	// true signature
}

// DOKU asks for a token before it calls. The request is verified by its RSA signature,
// and gets a token that the issuer recognizes later.
func ExampleTokenRequest() {
	now := time.Date(2026, 8, 27, 9, 0, 0, 0, snap.WIB)
	doku, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	requests, err := verifier.NewTokenRequest("BRN-1", []*rsa.PublicKey{&doku.PublicKey}, verifier.Window{})
	if err != nil {
		panic(err)
	}
	issuer, err := verifier.NewIssuer("BRN-1", []*snap.Secret{snap.NewSecret([]byte("SK-secret"))}, func() time.Time { return now })
	if err != nil {
		panic(err)
	}

	// DOKU sends this. It signs as a merchant does, with its own key.
	h := make(http.Header)
	if err := signer.SignTokenRequest(h, doku, "BRN-1", now); err != nil {
		panic(err)
	}
	body := []byte(`{"grantType":"client_credentials"}`)

	head, err := requests.Head(h, now) // before the body is read
	if err != nil {
		panic(err)
	}
	grant, err := head.Grant(body)
	if err != nil {
		panic(err)
	}
	token, err := issuer.IssueFor(grant)
	if err != nil {
		panic(err)
	}
	fmt.Println(issuer.Check(token), verifier.TokenLife)

	err = requests.Verify(h, body, now.Add(time.Hour))
	fmt.Println(verifier.Reason(err))
	// Output:
	// <nil> 15m0s
	// timestamp_old
}
