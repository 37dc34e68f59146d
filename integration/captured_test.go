package integration

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// capture makes a call whose text is signed once, so that it can be sent again under
// other external ids, as somebody could who has seen it.
func (env *testEnv) capture(t *testing.T, path string, body []byte) func(externalID string) answer {
	t.Helper()
	captured := simulator.Outgoing{URL: env.inward + path, Body: body, Bearer: env.token(t), Timestamp: time.Now().Format(time.RFC3339)}
	return func(externalID string) answer {
		again := captured // several goroutines may send it
		again.ExternalID = externalID
		return env.notify(t, again)
	}
}

func TestACapturedInquiryReachesTheAppOnceUnderWhateverExternalID(t *testing.T) {
	t.Parallel()
	for name, store := range inboxStores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := start(t, options{global: store(t)})
			env.app.setAnswer(billing)
			send := env.capture(t, inquiryPath, []byte(`{"inquiryRequestId":"I-1","virtualAccountNo":"1"}`))
			send("E-0").expect(t, http.StatusOK, "2002400")
			var wg sync.WaitGroup
			for worker := range 4 {
				wg.Go(func() {
					for n := range 50 {
						send(fmt.Sprintf("E-%d-%d", worker, n)).expect(t, http.StatusOK, "2002400")
					}
				})
			}
			wg.Wait()
			if calls := len(env.app.seen()); calls != 1 {
				t.Errorf("the app was called %d times", calls)
			}
			// The ids stay free for DOKU's own calls.
			env.notify(t, simulator.Outgoing{
				URL: env.inward + inquiryPath, ExternalID: "E-1-7", Body: []byte(`{"inquiryRequestId":"I-2","virtualAccountNo":"2"}`),
			}).expect(t, http.StatusOK, "2002400")
		})
	}
}

func TestACapturedNotificationDoesNotMakeTheNextPaymentBounce(t *testing.T) {
	t.Parallel()
	for name, store := range inboxStores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := start(t, options{global: store(t), inbox: "{\n answer_within 300ms\n}"})
			env.app.setAnswer(answering(http.StatusServiceUnavailable))
			send := env.capture(t, paymentPath, payment("P-4"))
			send("E-4").expect(t, http.StatusInternalServerError, "5002502")
			env.app.setAnswer(nil)
			doktest.Eventually(t, "the delivery", func() bool { waiting, _ := env.kept(t); return waiting == 0 })
			before := len(env.app.seen())
			send("E-5").expect(t, http.StatusOK, "2002500")
			if after := len(env.app.seen()); after != before {
				t.Error("the app was called again")
			}
			env.notify(t, simulator.Outgoing{ExternalID: "E-5", Body: payment("P-5")}).expect(t, http.StatusOK, "2002500")
			if after := len(env.app.seen()); after != before+1 {
				t.Error("the next payment did not reach the app")
			}
		})
	}
}

func TestAPaymentIsKnownWhateverJSONItsIDIs(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"a number":       `{"paymentRequestId":17,"paidAmount":{"value":"1.00","currency":"IDR"}}`,
		"with an escape": `{"paymentRequestId":"P\"1","paidAmount":{"value":"1.00","currency":"IDR"}}`,
		"an object":      `{"paymentRequestId":{"a":1},"paidAmount":{"value":"1.00","currency":"IDR"}}`,
		"missing":        `{"trxId":"T-1","paidAmount":{"value":"1.00","currency":"IDR"}}`,
		"null":           `{"paymentRequestId":null,"trxId":"T-2"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := start(t, options{})
			for n := range 3 { // signed anew each time, as DOKU does
				env.notify(t, simulator.Outgoing{ExternalID: fmt.Sprint("E-", n), Body: []byte(body)}).expect(t, http.StatusOK, "2002500")
			}
			if calls := env.app.seen(); len(calls) != 1 {
				t.Errorf("the app was called %d times", len(calls))
			}
		})
	}
}
