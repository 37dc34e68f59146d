// Package moduletest provisions the app doku with a simulated DOKU behind it, in the
// process of a test and without a server: tests call the handlers directly. It knows
// the app by its module id only, so the tests of every room can use it.
package moduletest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// The merchant that DOKU knows, and the paths of calls.
const (
	ClientID         = "BRN-0000-0000000000000"
	SecretKey        = "SK-test-0123456789ABCDEF"
	PartnerServiceID = "    8808"

	CreatePath  = "/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va"
	InquiryPath = "/v1.1/transfer-va/inquiry"
	PaymentPath = "/v1.1/transfer-va/payment"
	TokenPath   = "/authorization/v1/access-token/b2b"
)

// Env is a provisioned configuration.
type Env struct {
	Ctx  caddy.Context
	DOKU *simulator.Simulator // nil after [Build]
}

// Object is a JSON object.
type Object map[string]any

// Options change the configuration of the app and of its account.
type Options struct {
	App     Object
	Account Object
	Now     func() time.Time // DOKU's clock; default: this machine's
}

// NewSimulator returns a simulated DOKU that knows the merchant.
func NewSimulator(t testing.TB, now func() time.Time) *simulator.Simulator {
	t.Helper()
	s, err := simulator.New(simulator.Config{Now: now, Merchant: simulator.Merchant{
		ClientID: ClientID, SecretKey: SecretKey, PublicKey: &doktest.Key(t, doktest.MerchantKey).PublicKey,
		DOKUKey: doktest.Key(t, doktest.DOKUKey), PartnerServiceID: PartnerServiceID,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var provisioning sync.Mutex // Caddy provisions one configuration at a time

// Build provisions the app for an environment. The caller cleans up.
func Build(t testing.TB, environment string, o Options) *Env {
	t.Helper()
	account := Object{
		"client_id": ClientID, "secret_keys": []string{SecretKey}, "private_key": doktest.Path(t, doktest.MerchantKey),
		"doku_public_keys": []string{doktest.Path(t, "test-doku-public.pem")},
	}
	maps.Copy(account, o.Account)
	app := Object{"environment": environment, "accounts": []Object{account}}
	maps.Copy(app, o.App)
	config, err := json.Marshal(app)
	if err != nil {
		t.Fatal(err)
	}
	provisioning.Lock()
	defer provisioning.Unlock()
	ctx, err := caddy.ProvisionContext(&caddy.Config{AppsRaw: caddy.ModuleMap{"doku": config}})
	if err != nil {
		t.Fatal(err)
	}
	return &Env{Ctx: ctx}
}

var listeners atomic.Uint32

// listen listens on an address that no other environment of this process has or had. The
// accounts of all environments share a store, and DOKU's address is what tells them apart;
// a port is given away again.
func listen(t testing.TB) net.Listener {
	t.Helper()
	n := listeners.Add(1)
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+n>>16&0x7f, n>>8&0xff, n&0xff))
	if err != nil { // not every system has all of 127.0.0.0/8
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// New provisions the app with a simulated DOKU of its own, until the test ends.
func New(t testing.TB, o Options) *Env {
	t.Helper()
	if o.Now == nil {
		o.Now = time.Now
	}
	doku := NewSimulator(t, o.Now)
	server := httptest.NewUnstartedServer(doku)
	server.Listener.Close()
	server.Listener = listen(t)
	server.Start()
	t.Cleanup(server.Close)
	env := Build(t, server.URL, o)
	env.DOKU = doku
	t.Cleanup(func() {
		if err := env.App().(caddy.CleanerUpper).Cleanup(); err != nil {
			t.Error(err)
		}
	})
	return env
}

// App returns the app, a *doku.App.
func (env *Env) App() any {
	app, err := env.Ctx.AppIfConfigured("doku")
	if err != nil {
		panic(err) // it was provisioned
	}
	return app
}

// Provision provisions and validates a module.
func (env *Env) Provision(t testing.TB, module caddy.Provisioner) {
	t.Helper()
	provisioning.Lock()
	defer provisioning.Unlock()
	if err := module.Provision(env.Ctx); err != nil {
		t.Fatal(err)
	}
	if validator, ok := module.(caddy.Validator); ok {
		if err := validator.Validate(); err != nil {
			t.Fatal(err)
		}
	}
}

// Serve gives a request to a handler as Caddy's server does.
func Serve(t testing.TB, handler caddyhttp.Handler, r *http.Request) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, &caddyhttp.Server{})
	if err := handler.ServeHTTP(w, r); err != nil {
		t.Fatal(err)
	}
	return w
}

// Nothing is a handler that does nothing.
var Nothing = caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })

// CreateRequest is the app's request for a virtual account.
func CreateRequest(ctx context.Context, trxID string) *http.Request {
	body := `{"partnerServiceId":"    8808","virtualAccountName":"Toru","trxId":"` + trxID + `",` +
		`"totalAmount":{"value":"10000.00","currency":"IDR"},` +
		`"virtualAccountTrxType":"C","additionalInfo":{"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA"}}`
	return httptest.NewRequestWithContext(ctx, http.MethodPost, CreatePath, strings.NewReader(body))
}

// Notification is the body of a payment notification.
func Notification() []byte {
	return []byte(
		`{"partnerServiceId":"    8808","customerNo":"90909090","virtualAccountNo":"    880890909090",` +
			`"virtualAccountName":"Toru","trxId":"T-1",` +
			`"paymentRequestId":"P-1","paidAmount":{"value":"11500.00","currency":"IDR"}}`,
	)
}

// Clock is a clock that the test moves. It is safe for concurrent use.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that shows now.
func NewClock(now time.Time) *Clock { return &Clock{now: now} }

// Now returns the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Move moves the clock.
func (c *Clock) Move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
