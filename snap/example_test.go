package snap_test

import (
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-doku/caddy-doku/snap"
)

// The body is signed in canonical form, which no minifier changes.
func ExampleAppendCanonical() {
	body, hazards, err := snap.AppendCanonical(nil, []byte(`{ "trxId": "INV\/1", "amount": 10000.00 }`))
	fmt.Printf("%s\n%v\n", body, err)
	for _, hazard := range hazards {
		fmt.Println(hazard.Path, hazard.Kind)
	}
	// Output:
	// {"trxId":"INV/1","amount":10000.00}
	// <nil>
	// $.amount number that is not a plain integer
}

func ExampleAppendStringToSign() {
	body := []byte(`{"trxId":"INV-1"}`)
	timestamp := snap.Timestamp(time.Date(2026, 8, 27, 9, 0, 0, 0, snap.WIB))
	fmt.Printf("%s\n", snap.AppendStringToSign(nil, http.MethodPost, "/v1/create-va", "token", snap.Digest(body), timestamp))
	// Output: POST:/v1/create-va:token:0892fec833b74d178e3957f4de52e5a29795bcf99e1ed13d6fa7f888feeaf58f:2026-08-27T09:00:00+07:00
}

func ExampleCase_Code() {
	service, _ := snap.ServiceOf(http.MethodPost, "/v1.1/transfer-va/payment")
	fmt.Println(service, snap.Unauthorized.Code(service))
	// Output: 25 4012500
}

func ExamplePaymentID() {
	body := []byte(`{"virtualAccountNo":"    88081","paymentRequestId":"P-1"}`)
	fmt.Printf("%q %q\n", snap.PaymentID(snap.ServiceVAPayment, body), snap.OrderedBy(snap.ServiceVAPayment, body))
	// Output: "P-1" "    88081"
}
