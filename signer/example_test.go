package signer_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-doku/caddy-doku/signer"
	"github.com/caddy-doku/caddy-doku/snap"
)

// A call to DOKU is signed over exactly the bytes that are sent.
func Example() {
	s, err := signer.New("BRN-0211-1696919651918", snap.NewSecret([]byte("SK-secret")))
	if err != nil {
		panic(err)
	}
	body, hazards, err := snap.AppendCanonical(nil, []byte(`{ "trxId": "INV-1" }`))
	if err != nil || len(hazards) > 0 {
		panic("DOKU may read this body differently")
	}
	req, err := http.NewRequest(http.MethodPost, "https://api.doku.com/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va",
		bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	err = s.Sign(req.Header, signer.Request{
		Method: req.Method, Target: snap.RequestTarget(req.URL.RequestURI()), Digest: snap.Digest(body),
		Token: "token-from-DOKU", Time: time.Date(2026, 8, 27, 9, 0, 0, 0, snap.WIB), ExternalID: "1756260000000", ChannelID: "H2H",
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(req.Header.Get("X-TIMESTAMP"), len(req.Header.Get("X-SIGNATURE")))
	// Output: 2026-08-27T09:00:00+07:00 88
}

// A token request is signed with the merchant's RSA key. Its body is not signed.
func ExampleSignTokenRequest() {
	key, err := rsa.GenerateKey(rand.Reader, 2048) // see ParsePrivateKey for one from a file
	if err != nil {
		panic(err)
	}
	h := make(http.Header)
	err = signer.SignTokenRequest(h, key, "BRN-0211-1696919651918", time.Date(2026, 8, 27, 9, 0, 0, 0, snap.WIB))
	if err != nil {
		panic(err)
	}
	fmt.Println(h.Get("X-CLIENT-KEY"), h.Get("X-TIMESTAMP"), len(h.Get("X-SIGNATURE")))
	// Output: BRN-0211-1696919651918 2026-08-27T09:00:00+07:00 344
}
