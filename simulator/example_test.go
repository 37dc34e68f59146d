package simulator_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/caddy-doku/caddy-doku/simulator"
)

// newMerchant returns a merchant with new keys, as registered with DOKU.
func newMerchant() simulator.Merchant {
	merchantKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	dokuKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return simulator.Merchant{
		ClientID: "BRN-1", SecretKey: "SK-secret", PublicKey: &merchantKey.PublicKey, DOKUKey: dokuKey, PartnerServiceID: "    8808",
	}
}

// A merchant calls DOKU without a signature. The answer has the code, the exchange also
// has the reason.
func Example() {
	doku, err := simulator.New(simulator.Config{Merchant: newMerchant()})
	if err != nil {
		panic(err)
	}
	server := httptest.NewServer(doku)
	defer server.Close()

	const path = "/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va"
	resp, err := http.Post(server.URL+path, "application/json", strings.NewReader(`{"trxId":"INV-1"}`))
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Printf("%d %s %v\n", resp.StatusCode, body, err)
	fmt.Println(doku.Exchanges()[0].Reason)
	// Output:
	// 400 {"responseCode":"4002702","responseMessage":"Invalid Mandatory Field X-TIMESTAMP"} <nil>
	// X-TIMESTAMP is missing
}

// DOKU sends a notification of the test's making.
func ExampleSimulator_Call() {
	doku, err := simulator.New(simulator.Config{Merchant: newMerchant()})
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

// A customer pays. DOKU asks the merchant for the bill and notifies it of the payment. The
// merchant fails once, so DOKU repeats the notification after 30 minutes.
func ExampleSimulator_Pay() {
	clock, notifications := time.Now(), 0
	doku, err := simulator.New(simulator.Config{Merchant: newMerchant(), Now: func() time.Time { return clock }})
	if err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"responseCode":"2007300","accessToken":"token-for-doku","tokenType":"Bearer","expiresIn":900}`)
	})
	mux.HandleFunc("POST /inquiry", func(w http.ResponseWriter, r *http.Request) {
		var bill map[string]any
		if err := json.NewDecoder(r.Body).Decode(&bill); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		bill["virtualAccountName"], bill["virtualAccountTrxType"] = "Toru Yamashita", "C"
		bill["totalAmount"] = map[string]string{"value": "11500.00", "currency": "IDR"}
		bill["additionalInfo"] = map[string]string{"trxId": "INV-1"}
		_ = json.NewEncoder(w).Encode(map[string]any{"responseCode": "2002400", "virtualAccountData": bill})
	})
	mux.HandleFunc("POST /payment", func(w http.ResponseWriter, _ *http.Request) {
		if notifications++; notifications == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	merchant := httptest.NewServer(mux)
	defer merchant.Close()
	doku.SetMerchantURLs(merchant.URL+"/token", merchant.URL+"/inquiry", merchant.URL+"/payment")

	_, err = doku.Pay(context.Background(), "    8808123", "1.00")
	fmt.Println("the amount is wrong:", errors.Is(err, simulator.ErrAmount))
	receipt, err := doku.Pay(context.Background(), "    8808123", "11500.00")
	fmt.Println("first attempt:", receipt.Notification.Status, err)
	clock = clock.Add(30 * time.Minute)
	answers, err := doku.RunDue(context.Background())
	fmt.Println("second attempt:", answers[0].Status, err)
	// Output:
	// the amount is wrong: true
	// first attempt: 503 <nil>
	// second attempt: 200 <nil>
}
