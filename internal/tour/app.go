package tour

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// demoApp is a merchant's app that knows nothing of SNAP: it answers inquiries with a bill,
// and records the payments.
type demoApp struct {
	mu    sync.Mutex
	calls []appCall
	down  bool // it answers 503
}

// appCall is a call as the app saw it.
type appCall struct {
	method, path string
	header       http.Header
	body         []byte
	refused      bool // because the app was down
}

func (a *demoApp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	down := a.down
	a.calls = append(a.calls, appCall{r.Method, r.URL.Path, r.Header.Clone(), body, down})
	a.mu.Unlock()
	if down {
		http.Error(w, `{"error":"database is restarting"}`, http.StatusServiceUnavailable)
		return
	}
	var asked map[string]any
	if err := json.Unmarshal(body, &asked); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var answer map[string]any
	switch {
	case strings.HasSuffix(r.URL.Path, "/inquiry"):
		answer = map[string]any{
			"responseCode": "2002400", "responseMessage": "Successful",
			"virtualAccountData": map[string]any{
				"partnerServiceId": asked["partnerServiceId"], "customerNo": asked["customerNo"], "virtualAccountNo": asked["virtualAccountNo"],
				"inquiryRequestId": asked["inquiryRequestId"], "virtualAccountName": "Toru Yamashita",
				"totalAmount":           map[string]any{"value": "11500.00", "currency": "IDR"},
				"virtualAccountTrxType": "C", "inquiryStatus": "00",
				"inquiryReason":  map[string]any{"english": "Success", "indonesia": "Sukses"},
				"additionalInfo": map[string]any{"channel": "VIRTUAL_ACCOUNT_BANK_PERMATA", "trxId": "INV-DIPC-1"},
			},
		}
	default:
		answer = map[string]any{"responseCode": "2002500", "responseMessage": "Successful"}
	}
	w.Header().Set("Content-Type", "application/json")
	text, err := json.Marshal(answer)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(text) // the sidecar may be gone
}

// seen returns how many calls the app has seen, and the last of them.
func (a *demoApp) seen() (int, appCall) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.calls) == 0 {
		return 0, appCall{}
	}
	return len(a.calls), a.calls[len(a.calls)-1]
}

// deliverDeadline is how long the sidecar may take to deliver a kept payment.
const deliverDeadline = time.Minute

// awaitPayment waits until the app has taken a payment, and returns the call.
func (a *demoApp) awaitPayment(ctx context.Context, paymentRequestID string) (appCall, error) {
	ctx, cancel := context.WithTimeout(ctx, deliverDeadline)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, last := a.seen(); !last.refused && bytes.Contains(last.body, []byte(paymentRequestID)) {
			return last, nil
		}
		select {
		case <-ctx.Done():
			return appCall{}, fmt.Errorf("the app has not got payment %s: %w", paymentRequestID, ctx.Err())
		case <-tick.C:
		}
	}
}

func (a *demoApp) setDown(down bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.down = down
}
