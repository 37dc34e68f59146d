package inbound

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/moduletest"
	"github.com/caddy-doku/caddy-doku/signer"
	"github.com/caddy-doku/caddy-doku/snap"
)

// unwritten is a response to nobody, so that a benchmark has no other's garbage.
type unwritten struct {
	header http.Header
	status int
}

func (w *unwritten) Header() http.Header         { return w.header }
func (w *unwritten) WriteHeader(status int)      { w.status = status }
func (w *unwritten) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkVerify is what a verified notification costs in the handler doku_verify,
// without server and app. Each is another one, and stays in the ledger.
func BenchmarkVerify(b *testing.B) {
	h := moduletest.New(b, moduletest.Options{})
	v := new(Verify)
	h.Provision(b, v)
	account := h.App().(*doku.App).Accounts[0]
	token, err := account.Credentials().Issuer().Issue()
	if err != nil {
		b.Fatal(err)
	}
	said := []byte(
		`{"responseCode":"2002500","responseMessage":"Successful","virtualAccountData":{"partnerServiceId":"    8808","customerNo":"1","virtualAccountNo":"    88081"}}`,
	)
	app := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.Header()["Content-Type"] = []string{"application/json"}
		w.Header()["Content-Length"] = []string{strconv.Itoa(len(said))}
		w.WriteHeader(http.StatusOK)
		_, err := w.Write(said)
		return err
	})
	requests := make([]*http.Request, 256)
	sent := 0
	prepare := func() {
		now := time.Now()
		for i := range requests {
			id := fmt.Sprintf("%032d", sent)
			sent++
			body := []byte(`{"partnerServiceId":"    8808","customerNo":"` + id + `","virtualAccountNo":"    8808` + id +
				`","paymentRequestId":"` + id + `","note":"` + strings.Repeat("Kopi susu ", 80) + `"}`)
			r := httptest.NewRequest(http.MethodPost, moduletest.PaymentPath, bytes.NewReader(body))
			r.Header.Set("Content-Type", "application/json")
			err := account.Credentials().Signer().Sign(r.Header, signer.Request{
				Method: http.MethodPost, Target: moduletest.PaymentPath, Token: token, Digest: snap.Digest(body),
				Time: now, ExternalID: id, ChannelID: "VA004",
			})
			if err != nil {
				b.Fatal(err)
			}
			requests[i] = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), &unwritten{}, &caddyhttp.Server{})
		}
	}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%len(requests) == 0 {
			b.StopTimer()
			prepare()
			b.StartTimer()
		}
		w := &unwritten{header: http.Header{"Server": {"Caddy"}}}
		if err := v.ServeHTTP(w, requests[n%len(requests)], app); err != nil || w.status != http.StatusOK {
			b.Fatalf("HTTP %d, %v, expected 200", w.status, err)
		}
	}
}
