package caddymodule

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-doku/caddy-doku/signer"
	"github.com/caddy-doku/caddy-doku/simulator"
)

const (
	clientID         = "BRN-0000-0000000000000"
	secretKey        = "SK-test-0123456789ABCDEF"
	partnerServiceID = "    8808"

	createPath  = "/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va"
	paymentPath = "/v1.1/transfer-va/payment"
)

// house is a provisioned configuration with a simulated DOKU behind it, in this
// process and without a server: its handlers are called directly.
type house struct {
	ctx  caddy.Context
	app  *App
	doku *simulator.Simulator
}

func testKey(t testing.TB, name string) (path string, key *rsa.PrivateKey) {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if key, err = signer.ParsePrivateKey(data, nil); err != nil {
		t.Fatal(err)
	}
	return path, key
}

// newSimulator returns a simulated DOKU that knows the merchant of these tests, and
// what time it is.
func newSimulator(t testing.TB, now func() time.Time) *simulator.Simulator {
	t.Helper()
	_, merchant := testKey(t, "test-merchant-private.pem")
	_, doku := testKey(t, "test-doku-private.pem")
	s, err := simulator.New(simulator.Config{Now: now, Merchant: simulator.Merchant{
		ClientID: clientID, SecretKey: secretKey, PublicKey: &merchant.PublicKey, DOKUKey: doku, PartnerServiceID: partnerServiceID,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var provisioning sync.Mutex // Caddy provisions one configuration at a time

// build provisions the configuration of one account for an environment.
func build(t testing.TB, environment string) *house {
	t.Helper()
	merchantKey, _ := testKey(t, "test-merchant-private.pem")
	app, err := json.Marshal(App{Environment: environment, Accounts: []*Account{{
		ClientID: clientID, SecretKeys: []string{secretKey}, PrivateKey: merchantKey,
		DOKUPublicKeys: []string{filepath.Join(filepath.Dir(merchantKey), "test-doku-public.pem")},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	provisioning.Lock()
	defer provisioning.Unlock()
	ctx, err := caddy.ProvisionContext(&caddy.Config{AppsRaw: caddy.ModuleMap{"doku": app}})
	if err != nil {
		t.Fatal(err)
	}
	h := &house{ctx: ctx}
	if h.app, err = findApp(ctx); err != nil {
		t.Fatal(err)
	}
	return h
}

// newHouse provisions a configuration with a simulated DOKU of its own.
func newHouse(t testing.TB) *house {
	t.Helper()
	return newHouseAt(t, time.Now)
}

// newHouseAt is newHouse at a time of the test's own.
func newHouseAt(t testing.TB, now func() time.Time) *house {
	t.Helper()
	doku := newSimulator(t, now)
	server := httptest.NewServer(doku)
	t.Cleanup(server.Close)
	h := build(t, server.URL)
	h.doku = doku
	h.app.Accounts[0].clock.Now = now
	t.Cleanup(func() {
		if err := h.app.Cleanup(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// sign returns the handlers that the directive doku_sign sets up.
func (h *house) sign(t testing.TB, s *Sign) caddyhttp.Handler {
	t.Helper()
	h.provision(t, s)
	proxy := &reverseproxy.Handler{
		TransportRaw:        json.RawMessage(`{"protocol":"doku"}`),
		DynamicUpstreamsRaw: json.RawMessage(`{"source":"doku"}`),
	}
	h.provision(t, proxy)
	t.Cleanup(func() { _ = proxy.Cleanup() })
	return caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		return s.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			return proxy.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil }))
		}))
	})
}

func (h *house) provision(t testing.TB, module caddy.Provisioner) {
	t.Helper()
	provisioning.Lock()
	defer provisioning.Unlock()
	if err := module.Provision(h.ctx); err != nil {
		t.Fatal(err)
	}
	if validator, ok := module.(caddy.Validator); ok {
		if err := validator.Validate(); err != nil {
			t.Fatal(err)
		}
	}
}

// serve gives a request to a handler as Caddy's server does.
func serve(t testing.TB, handler caddyhttp.Handler, r *http.Request) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, &caddyhttp.Server{})
	if err := handler.ServeHTTP(w, r); err != nil {
		t.Fatal(err)
	}
	return w
}

// create is the app's request for a VA.
func create(ctx context.Context, trxID string) *http.Request {
	body := `{"partnerServiceId":"    8808","virtualAccountName":"Toru","trxId":"` + trxID + `","totalAmount":{"value":"10000.00","currency":"IDR"},` +
		`"virtualAccountTrxType":"C","additionalInfo":{"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA"}}`
	return httptest.NewRequestWithContext(ctx, http.MethodPost, createPath, strings.NewReader(body))
}
