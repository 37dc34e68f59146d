package snap

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestEachServiceThatMerchantsServeIsNamed(t *testing.T) {
	t.Parallel()
	for service := range notifications {
		if err := service.CheckInbound(); err != nil {
			t.Error(err)
		}
	}
	err := ServiceVACreate.CheckInbound()
	if err == nil {
		t.Fatal("a service that merchants call is taken")
	}
	for service := range notifications {
		if !strings.Contains(err.Error(), string(service)+" ("+service.Inbound()+")") {
			t.Errorf("%s is not named: %v", service, err)
		}
	}
}

func TestAcknowledge(t *testing.T) {
	t.Parallel()
	const (
		plain = `{"responseCode":"2002500","responseMessage":"Successful"}`
		paid  = `"paidAmount":{"value":"11500.00","currency":"IDR"},"additionalInfo":{"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA"}`
	)
	tests := []struct {
		name         string
		service      Service
		notification string
		want         string
	}{
		{
			"a payment is repeated, white space in its texts too", ServiceVAPayment,
			`{"partnerServiceId":"    8808","customerNo":"1","virtualAccountNo":"    88081","trxId":"T","paymentRequestId":"P",` + paid + `}`,
			`{"responseCode":"2002500","responseMessage":"Successful","virtualAccountData":{"partnerServiceId":"    8808",` +
				`"customerNo":"1","virtualAccountNo":"    88081","paymentRequestId":"P",` + paid + `}}`,
		},
		{
			"a name in other letters is another name", ServiceVAPayment, `{"paymentrequestid":"X","paymentRequestId":"P"}`,
			`{"responseCode":"2002500","responseMessage":"Successful","virtualAccountData":{"paymentRequestId":"P"}}`,
		},
		{"what is no object gets the outcome alone", ServiceVAPayment, `[1]`, plain},
		{"what is no JSON gets the outcome alone", ServiceVAPayment, `{`, plain},
		{
			"other notifications get the outcome alone", ServiceDebitNotify,
			`{"originalExternalId":"E"}`, `{"responseCode":"2005600","responseMessage":"Successful"}`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := string(Acknowledge(test.service, []byte(test.notification))); got != test.want {
				t.Errorf("found    %s\nexpected %s", got, test.want)
			}
		})
	}
}

func TestPaymentIDAndOrder(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		service Service
		body    string
		id      string
		order   string
	}{
		{
			"the payment of a virtual account", ServiceVAPayment,
			`{"virtualAccountNo":"    88081","paymentRequestId":"P-1"}`,
			"P-1", "    88081",
		},
		{
			"each status of a direct debit is one of its own, in the order of the transaction", ServiceDebitNotify,
			`{"originalExternalId":"E-1","latestTransactionStatus":"00"}`,
			"E-1/00", "E-1",
		},
		{"an id with an escape", ServiceVAPayment, `{"paymentRequestId":"P\"1","virtualAccountNo":"8\\8"}`, `P"1`, `8\8`},
		{"an id that is a number", ServiceVAPayment, `{"paymentRequestId":12345678901234567890}`, "12345678901234567890", ""},
		{"an id that is an object", ServiceVAPayment, `{"paymentRequestId":{"a":[1,"}"]},"virtualAccountNo":"1"}`, `{"a":[1,"}"]}`, "1"},
		{"an id that is a list", ServiceVAPayment, `{"virtualAccountNo":"1","paymentRequestId":[1]}`, "[1]", "1"},
		{"an id that is true", ServiceVAPayment, `{"paymentRequestId":true}`, "true", ""},
		{"the last one of several", ServiceVAPayment, `{"paymentRequestId":"P-1","paymentRequestId":7}`, "7", ""},
		{"an id that is null", ServiceVAPayment, `{"paymentRequestId":null}`, "", ""},
		{"an empty id", ServiceVAPayment, `{"paymentRequestId":""}`, "", ""},
		{"an id of something else", ServiceVAPayment, `{"a":{"paymentRequestId":"P-1"}}`, "", ""},
		{"a payment without an id", ServiceVAPayment, `{}`, "", ""},
		{"a direct debit without an id", ServiceDebitNotify, `{"latestTransactionStatus":"00"}`, "", ""},
		{"an inquiry is no notification", ServiceVAInquiry, `{"virtualAccountNo":"1","paymentRequestId":"P-1"}`, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			id, order := PaymentID(test.service, []byte(test.body)), OrderedBy(test.service, []byte(test.body))
			if id != test.id || order != test.order {
				t.Errorf("found %q and %q, expected %q and %q", id, order, test.id, test.order)
			}
		})
	}
}

func TestEveryNotificationHasAPathAndAnAcknowledgement(t *testing.T) {
	t.Parallel()
	reached := make(map[Service]bool)
	for end, operation := range operations {
		if service, matches := ServiceOf(operation.method, "/merchant/"+end); !matches || service != operation.service {
			t.Errorf("%s is service %s", end, service)
		}
		reached[operation.service] = operation.method == http.MethodPost
	}
	for service, row := range notifications {
		if !reached[service] {
			t.Errorf("no path leads to service %s", service)
		}
		if row.paymentID == nil || row.orderedBy == "" || row.acknowledge == nil {
			t.Errorf("the row of service %s is not complete", service)
		}
		var answer Answer
		if err := json.Unmarshal(Acknowledge(service, []byte(`{}`)), &answer); err != nil || answer.ResponseCode != Successful.Code(service) {
			t.Errorf("the acknowledgement of service %s is %+v, %v", service, answer, err)
		}
	}
}

func TestReferenceOf(t *testing.T) {
	t.Parallel()
	expires := time.Date(2026, 8, 28, 9, 0, 0, 0, time.UTC)
	want := Reference{VirtualAccountNo: "88081", CustomerNo: "1", TrxID: "T-1", Expires: expires}
	const number, end = `"virtualAccountNo":"    88081","customerNo":"1",`, `"expiredDate":"2026-08-28T09:00:00Z"`
	for name, body := range map[string]string{
		"a call":                  `{` + number + `"trxId":"T-1",` + end + `}`,
		"an answer":               `{"virtualAccountData":{"virtualAccountNo":"000088081","customerNo":"1","trxId":"T-1",` + end + `}}`,
		"an id in additionalInfo": `{` + number + `"additionalInfo":{"trxId":"T-1"},` + end + `}`,
	} {
		if got := ReferenceOf([]byte(body)); got != want {
			t.Errorf("%s: found %+v, expected %+v", name, got, want)
		}
	}
	got := ReferenceOf([]byte(`{` + number + `"trxId":"T-1","expiredDate":"tomorrow"}`))
	if got != (Reference{VirtualAccountNo: "88081", CustomerNo: "1", TrxID: "T-1"}) {
		t.Errorf("found %+v with an end that cannot be read", got)
	}
	if got := ReferenceOf([]byte("no JSON")); got != (Reference{}) {
		t.Errorf("found %+v in a body without JSON", got)
	}
}

func TestAReferenceIsCompletedByAnother(t *testing.T) {
	t.Parallel()
	call := Reference{VirtualAccountNo: "88081", Expires: time.Unix(1, 0)}
	answer := Reference{VirtualAccountNo: "88082", CustomerNo: "1", TrxID: "T-1", Expires: time.Unix(2, 0)}
	if got, want := call.Or(answer), (Reference{"88081", "1", "T-1", time.Unix(1, 0)}); got != want {
		t.Errorf("found %+v, expected %+v", got, want)
	}
	if got := (Reference{}).Or(answer); got != answer {
		t.Errorf("found %+v, expected %+v", got, answer)
	}
}
