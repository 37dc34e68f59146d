package integration

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// Personal data of a customer, and the number of their account.
const (
	customerName   = "Siti Rahmawati"
	customerEmail  = "siti@pelanggan.example"
	customerPhone  = "6281293912081"
	customerNumber = "90909090909012"
)

// about is a body with everything about a customer in it.
func about(more string) string {
	return fmt.Sprintf(

		`{"partnerServiceId":%q,"customerNo":%q,"virtualAccountNo":%q,"virtualAccountName":%q,"virtualAccountEmail":%q,"virtualAccountPhone":%q,%s}`,
		partnerServiceID, customerNumber, partnerServiceID+customerNumber, customerName, customerEmail, customerPhone, more,
	)
}

// TestNothingSecretOrPersonalIsInAnySpan sends known values through every flow and through
// every way in which it fails, and looks for them in every exported span.
func TestNothingSecretOrPersonalIsInAnySpan(t *testing.T) {
	t.Parallel()
	env := start(t, options{inbox: "{\nfolder " + t.TempDir() + "\nanswer_within 10s\n}"})
	creation := about(
		`"trxId":"INV-1","totalAmount":{"value":"10000.00","currency":"IDR"},"virtualAccountTrxType":"C","additionalInfo":{"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA"}`,
	)
	query := "?email=" + customerEmail + "&va=" + customerNumber

	// Outbound: a success, a repeat, every refusal, and errors of DOKU.
	env.call(t, http.MethodPost, createPath+query, creation, "Idempotency-Key", customerEmail,
		"Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"Tracestate", "toko=1", "Baggage", "customer="+customerPhone).
		expect(t, http.StatusOK, "2002700")
	env.call(t, http.MethodPost, createPath+query, creation, "Idempotency-Key", customerEmail)
	env.call(t, http.MethodPost, createPath, creation, "Idempotency-Key", customerEmail)
	env.call(t, http.MethodPut, updatePath, creation)
	env.call(t, http.MethodPost, statusPath, about(`"additionalInfo":{}`))
	env.call(t, http.MethodPost, createPath, creation[:len(creation)-1])
	env.call(t, http.MethodPost, createPath, creation, "X-EXTERNAL-ID", customerName)
	env.call(t, http.MethodPost, "/elsewhere", creation)
	for _, fault := range []simulator.Fault{
		{
			Status: http.StatusBadRequest, Times: 1,
			Body: `{"responseCode":"4002701","responseMessage":"Invalid Field Format ` + customerEmail + `"}`,
		},
		{Times: 1}, // the connection breaks
		{Status: http.StatusOK, Body: customerName, Times: 1},
		{Status: http.StatusUnauthorized, Body: `{"responseCode":"4012701"}`, Times: 1},
	} {
		env.doku.SetFault(createPath, &fault)
		env.call(t, http.MethodPost, createPath, creation)
	}
	env.doku.SetFault(createPath, nil)
	env.doku.ExpireToken()
	env.doku.SetFault(
		tokenPath,
		&simulator.Fault{
			Status: http.StatusUnauthorized,
			Body:   `{"responseCode":"4017300","responseMessage":"` + customerName + `"}`,
			Times:  1,
		},
	)
	env.call(t, http.MethodPost, createPath, creation) // gets DOKU's refusal
	env.call(t, http.MethodPost, createPath, creation).expect(t, http.StatusServiceUnavailable, "5032700")

	// Inbound: a success, a repeat, forged and late calls, a body that is no JSON, and errors of the app.
	paid := []byte(about(`"trxId":"INV-1","paymentRequestId":"P-1","paidAmount":{"value":"10000.00","currency":"IDR"}`))
	external := "VIRTUAL_ACCOUNT" + customerNumber + "1"
	env.notify(t, simulator.Outgoing{Body: paid, ExternalID: external}).expect(t, http.StatusOK, "2002500")
	env.notify(t, simulator.Outgoing{Body: paid, ExternalID: external})
	env.notify(t, simulator.Outgoing{Body: bytes.Replace(paid, []byte("INV-1"), []byte("INV-2"), 1), ExternalID: external})
	env.notify(t, simulator.Outgoing{Body: paid, Sent: bytes.Replace(paid, []byte("10000"), []byte("90000"), 1)})
	env.notify(t, simulator.Outgoing{Body: paid, Timestamp: time.Now().Add(-time.Hour).Format(time.RFC3339)})
	env.notify(t, simulator.Outgoing{Body: paid[:len(paid)-1]})
	env.notify(t, simulator.Outgoing{Body: paid, Mutate: func(r *http.Request) { r.Header.Set("X-PARTNER-ID", customerName) }})
	env.notify(t, simulator.Outgoing{Body: paid, Mutate: func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+secretKey) }})
	env.notify(t, simulator.Outgoing{URL: env.inward + inquiryPath, Body: []byte(about(`"inquiryRequestId":"D-1"`))})
	env.app.setAnswer(func(appCall) (int, string) { return http.StatusServiceUnavailable, customerName })
	env.notify(t, simulator.Outgoing{URL: env.inward + inquiryPath, Body: []byte(about(`"inquiryRequestId":"D-2"`))})
	env.notify(t, simulator.Outgoing{Body: bytes.Replace(paid, []byte("P-1"), []byte("P-2"), 1), ExternalID: external + "2"})
	env.app.setAnswer(func(appCall) (int, string) { return http.StatusNotFound, `{"responseCode":"4042412"}` })
	env.notify(t, simulator.Outgoing{URL: env.inward + inquiryPath, Body: []byte(about(`"inquiryRequestId":"D-3"`))})
	env.app.setAnswer(nil)
	doktest.Eventually(t, "the delivery", func() bool { waiting, _ := env.kept(t); return waiting == 0 })

	if !env.sidecar.Stop() { // which exports what is left
		t.Fatal("the sidecar did not end")
	}
	var spans strings.Builder
	for line := range strings.Lines(env.log.String()) {
		if strings.HasPrefix(line, `{"Name":`) {
			spans.WriteString(line)
		}
	}
	exported := spans.String()
	for _, name := range []string{
		"doku.sign", "doku.token", "doku.token.fetch", "doku.repeat", "doku.verify", "doku.issue_token", "doku.ledger",
		"doku.redeliver", "POST " + createPath, "POST " + paymentPath,
	} {
		if !strings.Contains(exported, `{"Name":"`+name+`"`) {
			t.Errorf("no span %s was exported", name)
		}
	}
	for _, outcome := range []string{
		"succeeded", "declined", "replayed", "idempotency_key_reused", "body_not_json", "external_id", "outcome_unknown", "token_refused", "token",
		"accepted", "conflict", "signature", "timestamp_old", "body_format", "client_unknown", "token_invalid", "app_refused", "app_undecided", "kept",
	} {
		if !strings.Contains(exported, `{"Key":"doku.outcome","Value":{"Type":"STRING","Value":"`+outcome+`"}}`) {
			t.Errorf("no span tells of the outcome %s", outcome)
		}
	}
	for _, personal := range []string{customerName, "Siti", "Rahmawati", customerEmail, "pelanggan", customerPhone, customerNumber} {
		if i := strings.Index(exported, personal); i >= 0 {
			t.Errorf("%s is in a span: …%s…", personal, exported[max(0, i-300):i])
		}
	}
	env.checkSecrets(t, map[string]string{"the spans": exported})

	// And nothing of the traces has reached DOKU.
	for _, e := range env.doku.Exchanges() {
		for name := range e.Header {
			if e.Inbound && (strings.HasPrefix(name, "Trace") || name == "Baggage" || strings.Contains(name, "B3")) {
				t.Errorf("DOKU received %s: %s with %s", e.Target, name, e.Header[name])
			}
		}
	}
}
