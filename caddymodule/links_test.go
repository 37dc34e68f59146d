package caddymodule

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/inbound"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/moduletest"
	"github.com/caddy-doku/caddy-doku/caddymodule/outbound"
	"github.com/caddy-doku/caddy-doku/simulator"
	"github.com/caddy-doku/caddy-doku/snap"
)

func TestThePaymentIsLinkedWithTheCreationOfItsVirtualAccount(t *testing.T) {
	t.Parallel()
	h, tr := moduletest.New(t, moduletest.Options{}), moduletest.NewTraces()
	merchant := serveMerchant(t, h, tr)
	sign := new(outbound.Sign)
	proxy := &reverseproxy.Handler{
		TransportRaw:        json.RawMessage(`{"protocol":"doku"}`),
		DynamicUpstreamsRaw: json.RawMessage(`{"source":"doku"}`),
	}
	h.Provision(t, sign)
	h.Provision(t, proxy)
	t.Cleanup(func() { _ = proxy.Cleanup() })
	handler := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		return sign.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			return proxy.ServeHTTP(w, r, moduletest.Nothing)
		}))
	})
	links := h.App().(*doku.App).Accounts[0].Links()
	// kept waits until so many links of the virtual account are written.
	kept := func(n int, reference string) {
		t.Helper()
		began := time.Now()
		for len(links.Find(t.Context(), snap.ReferenceOf([]byte(reference)))) < n {
			if time.Since(began) > time.Minute {
				t.Fatal("the links are not written")
			}
			time.Sleep(time.Millisecond)
		}
	}
	creation := func(trxID string, n int) sdktrace.ReadOnlySpan {
		body := `{"partnerServiceId":"    8808","customerNo":"90909090","virtualAccountNo":"    880890909090",` +
			`"virtualAccountName":"Toru","trxId":"` + trxID + `",` +
			`"totalAmount":{"value":"11500.00","currency":"IDR"},"virtualAccountTrxType":"C",` +
			`"additionalInfo":{"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA"}}`
		tr.Serve(t, handler,
			httptest.NewRequestWithContext(context.Background(), http.MethodPost, moduletest.CreatePath, strings.NewReader(body)))
		kept(n, `{"virtualAccountNo":"880890909090"}`)
		return tr.Last(t, "POST "+moduletest.CreatePath)
	}
	called := func(path string, body []byte) sdktrace.ReadOnlySpan {
		if _, err := h.DOKU.Call(t.Context(), simulator.Outgoing{URL: merchant + path, Body: body}); err != nil {
			t.Fatal(err)
		}
		return tr.Last(t, "POST "+path)
	}
	created := creation("T-1", 1)
	inquired := called(
		moduletest.InquiryPath,
		[]byte(`{"partnerServiceId":"00008808","customerNo":"90909090","virtualAccountNo":"0000880890909090","inquiryRequestId":"D-1"}`),
	)
	kept(2, `{"virtualAccountNo":"880890909090"}`)
	another := creation("T-2", 2) // the number is used again
	paid := called(moduletest.PaymentPath, moduletest.Notification())
	if !moduletest.Linked(inquired, created) || !moduletest.Linked(paid, created) || !moduletest.Linked(paid, inquired) ||
		moduletest.Linked(paid, another) {
		t.Errorf("links of the inquiry %v, of the payment %v", inquired.Links(), paid.Links())
	}
}

// serveMerchant serves doku_verify with an app that accepts everything, inside spans,
// and returns its address.
func serveMerchant(t *testing.T, h *moduletest.Env, tr *moduletest.Traces) string {
	t.Helper()
	verify, token := new(inbound.Verify), new(inbound.Token)
	h.Provision(t, token)
	h.Provision(t, verify)
	app := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		answer := `{"responseCode":"2002500","responseMessage":"Successful"}`
		if r.URL.Path == moduletest.InquiryPath {
			answer = `{"responseCode":"2002400","responseMessage":"Successful","virtualAccountData":{"additionalInfo":{"trxId":"T-1"}}}`
		}
		_, err := io.WriteString(w, answer)
		return err
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, span := tr.Provider.Tracer("test").Start(r.Context(), "handler", trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		r = caddyhttp.PrepareRequest(r.WithContext(ctx), caddy.NewReplacer(), w, &caddyhttp.Server{})
		handler := caddyhttp.MiddlewareHandler(verify)
		if r.URL.Path == moduletest.TokenPath {
			handler = token
		}
		if err := handler.ServeHTTP(w, r, app); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	h.DOKU.SetMerchantURLs(server.URL+moduletest.TokenPath, server.URL+moduletest.InquiryPath, server.URL+moduletest.PaymentPath)
	return server.URL
}
