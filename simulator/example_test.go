package simulator_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/caddy-doku/caddy-doku/simulator"
)

// DOKU notifies a merchant of a payment.
func Example() {
	merchantKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	dokuKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	doku, err := simulator.New(simulator.Config{Merchant: simulator.Merchant{
		ClientID: "BRN-1", SecretKey: "SK-secret", PublicKey: &merchantKey.PublicKey, DOKUKey: dokuKey, PartnerServiceID: "    8808",
	}})
	if err != nil {
		panic(err)
	}
	merchant := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Method, r.URL.Path, r.Header.Get("X-PARTNER-ID"), len(r.Header.Get("X-SIGNATURE")))
		fmt.Fprint(w, `{"responseCode":"2002500","responseMessage":"Successful"}`)
	}))
	defer merchant.Close()

	answer, err := doku.Call(context.Background(), simulator.Outgoing{
		URL: merchant.URL + "/v1.1/transfer-va/payment", Body: []byte(`{"paymentRequestId":"P-1"}`), Tokenless: true,
	})
	fmt.Println(answer.Status, err)
	// Output:
	// POST /v1.1/transfer-va/payment BRN-1 88
	// 200 <nil>
}
