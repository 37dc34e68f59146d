package outbound

import (
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/moduletest"
)

// app returns the app of a configuration.
func app(t testing.TB, env *moduletest.Env) *doku.App {
	t.Helper()
	return env.App().(*doku.App)
}

// account returns the only account of a configuration.
func account(t testing.TB, env *moduletest.Env) *doku.Account {
	t.Helper()
	return app(t, env).Accounts[0]
}

// signHandler returns the handlers that the directive doku_sign sets up.
func signHandler(t testing.TB, env *moduletest.Env, s *Sign) caddyhttp.Handler {
	t.Helper()
	env.Provision(t, s)
	proxy := &reverseproxy.Handler{
		TransportRaw:        json.RawMessage(`{"protocol":"doku"}`),
		DynamicUpstreamsRaw: json.RawMessage(`{"source":"doku"}`),
	}
	env.Provision(t, proxy)
	t.Cleanup(func() { _ = proxy.Cleanup() })
	return caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		return s.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			return proxy.ServeHTTP(w, r, moduletest.Nothing)
		}))
	})
}

func TestABufferIsNotReusedWhileATransportMayReadIt(t *testing.T) {
	t.Parallel()
	c := &call{body: append(httpio.GetBuffer(1<<10), "mine"...)}
	reader := c.reader()
	c.free() // the transport has not said that it is done
	for range 100 {
		other := httpio.GetBuffer(1 << 10)
		_ = append(other, "not mine"...)
		httpio.PutBuffer(other)
	}
	if got, err := io.ReadAll(reader); err != nil || string(got) != "mine" {
		t.Errorf("found %q, %v", got, err)
	}
}
