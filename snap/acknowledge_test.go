package snap

import "testing"

func TestAcknowledge(t *testing.T) {
	t.Parallel()
	const plain = `{"responseCode":"2002500","responseMessage":"Successful"}`
	tests := []struct {
		name         string
		service      Service
		notification string
		want         string
	}{
		{
			"a payment is repeated, white space in its texts too", ServiceVAPayment,
			`{"partnerServiceId":"    8808","customerNo":"1","virtualAccountNo":"    88081","trxId":"T","paymentRequestId":"P","paidAmount":{"value":"11500.00","currency":"IDR"},"additionalInfo":{"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA"}}`,
			`{"responseCode":"2002500","responseMessage":"Successful","virtualAccountData":{"partnerServiceId":"    8808","customerNo":"1","virtualAccountNo":"    88081","paymentRequestId":"P","paidAmount":{"value":"11500.00","currency":"IDR"},"additionalInfo":{"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA"}}}`,
		},
		{
			"a name in other letters is another name", ServiceVAPayment, `{"paymentrequestid":"X","paymentRequestId":"P"}`,
			`{"responseCode":"2002500","responseMessage":"Successful","virtualAccountData":{"paymentRequestId":"P"}}`,
		},
		{"what is no object gets the outcome alone", ServiceVAPayment, `[1]`, plain},
		{"what is no JSON gets the outcome alone", ServiceVAPayment, `{`, plain},
		{"other notifications get the outcome alone", ServiceDebitNotify, `{"originalExternalId":"E"}`, `{"responseCode":"2005600","responseMessage":"Successful"}`},
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
