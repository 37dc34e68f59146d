package health

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/moduletest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// health returns a handler that says 418 to what doku_health hands on.
func handle(t testing.TB, h *moduletest.Env, health *Health) caddyhttp.Handler {
	t.Helper()
	h.Provision(t, health)
	return caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		return health.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusTeapot)
			return nil
		}))
	})
}

// ready is a function as [doku.Readiness].
type ready func(ctx context.Context) error

func (f ready) Ready(ctx context.Context) error { return f(ctx) }

// add makes the account's readiness depend on one more check.
func add(h *moduletest.Env, name string, of doku.Readiness) {
	h.App().(*doku.App).Accounts[0].AddCheck(name, of)
}

func words(t *testing.T, w *httptest.ResponseRecorder) map[string]string {
	t.Helper()
	var body healthAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	return body.Accounts["default"]
}

func TestHealthAnswersItsTwoPathsOnly(t *testing.T) {
	t.Parallel()
	h := moduletest.New(t, moduletest.Options{})
	handler := handle(t, h, new(Health))
	tests := []struct {
		name, method, path string
		status             int
	}{
		{"alive", http.MethodGet, "/livez", http.StatusOK},
		{"alive, without a body", http.MethodHead, "/livez", http.StatusOK},
		{"ready", http.MethodGet, "/readyz", http.StatusOK},
		{"ready, without a body", http.MethodHead, "/readyz", http.StatusOK},
		{"ready, with a query", http.MethodGet, "/readyz?verbose", http.StatusOK},
		{"nothing is done by asking", http.MethodPost, "/readyz", http.StatusMethodNotAllowed},
		{"another path", http.MethodGet, "/", http.StatusTeapot},
		{"a path below", http.MethodGet, "/readyz/default", http.StatusTeapot},
		{"another path, with a body", http.MethodPost, moduletest.CreatePath, http.StatusTeapot},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := moduletest.Serve(t, handler, httptest.NewRequestWithContext(t.Context(), test.method, test.path, nil))
			if w.Code != test.status {
				t.Errorf("HTTP %d %s, expected %d", w.Code, w.Body, test.status)
			}
			if w.Code != http.StatusTeapot && w.Header().Get("Cache-Control") != "no-store" {
				t.Error("it may be cached")
			}
			if allow := w.Header().Get("Allow"); (allow == "GET, HEAD") != (w.Code == http.StatusMethodNotAllowed) {
				t.Errorf("Allow %q", allow)
			}
		})
	}
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	failing := ready(func(context.Context) error { return errors.New("disk full, SK-secret") })
	fine := ready(func(context.Context) error { return nil })
	refuses := &simulator.Fault{Status: http.StatusUnauthorized, Body: `{"responseCode":"4017300","responseMessage":"Unauthorized"}`}
	all := func(token, store, inbox string) map[string]string {
		words := map[string]string{"keys": "ok", "token": token, "store": store}
		if inbox != "" {
			words["inbox"] = inbox
		}
		return words
	}
	tests := []struct {
		name    string
		health  *Health
		prepare func(t *testing.T, h *moduletest.Env)
		status  int
		words   map[string]string
	}{
		{"all is well", new(Health), func(*testing.T, *moduletest.Env) {}, http.StatusOK, all("ok", "ok", "")},
		{
			"with an inbox",
			new(Health),
			func(_ *testing.T, h *moduletest.Env) { add(h, doku.CheckInbox, fine) },
			http.StatusOK,
			all("ok", "ok", "ok"),
		},
		{"two inboxes, one of which fails", new(Health), func(_ *testing.T, h *moduletest.Env) {
			add(h, doku.CheckInbox, failing)
			add(h, doku.CheckInbox, fine)
		}, http.StatusServiceUnavailable, all("ok", "ok", "not_ready")},
		{"an inbox that fails, only told", &Health{Inbox: effectReported}, func(_ *testing.T, h *moduletest.Env) {
			add(h, doku.CheckInbox, failing)
		}, http.StatusOK, all("ok", "ok", "not_ready")},
		{
			"DOKU refuses a token, which is only told",
			new(Health),
			func(_ *testing.T, h *moduletest.Env) { h.DOKU.SetFault(moduletest.TokenPath, refuses) },
			http.StatusOK,
			all("refused", "ok", ""),
		},
		{
			"DOKU refuses a token that is required",
			&Health{Token: effectRequired},
			func(_ *testing.T, h *moduletest.Env) { h.DOKU.SetFault(moduletest.TokenPath, refuses) },
			http.StatusServiceUnavailable,
			all("refused", "ok", ""),
		},
		{"a token takes long", &Health{Token: effectRequired}, func(_ *testing.T, h *moduletest.Env) {
			h.DOKU.SetFault(moduletest.TokenPath, &simulator.Fault{Delay: time.Minute})
		}, http.StatusServiceUnavailable, all("pending", "ok", "")},
		{
			"the store is away",
			new(Health),
			func(_ *testing.T, h *moduletest.Env) { add(h, doku.CheckStore, failing) },
			http.StatusServiceUnavailable,
			all("ok", "away", ""),
		},
		{
			"the store is away, only told",
			&Health{Store: effectReported},
			func(_ *testing.T, h *moduletest.Env) { add(h, doku.CheckStore, failing) },
			http.StatusOK,
			all("ok", "away", ""),
		},
		{"the store is away, and calls go on", new(Health), func(_ *testing.T, h *moduletest.Env) {
			h.App().(*doku.App).OnStoreError = "continue"
			add(h, doku.CheckStore, failing)
		}, http.StatusOK, all("ok", "away", "")},
		{"a changed key was of no use", new(Health), func(_ *testing.T, h *moduletest.Env) {
			add(h, doku.CheckKeys, failing)
		}, http.StatusOK, map[string]string{"keys": "earlier", "token": "ok", "store": "ok"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := moduletest.New(t, moduletest.Options{})
			test.prepare(t, h)
			handler := handle(t, h, test.health)
			start := time.Now()
			w := moduletest.Serve(t, handler, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil))
			if w.Code != test.status || !reflect.DeepEqual(words(t, w), test.words) {
				t.Errorf("HTTP %d %s, expected %d %v", w.Code, w.Body, test.status, test.words)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestHealthRefusesUnknownWords(t *testing.T) {
	t.Parallel()
	h := moduletest.New(t, moduletest.Options{})
	for _, health := range []*Health{{Token: "yes"}, {Store: "off"}, {Inbox: "REQUIRED"}} {
		if err := health.Provision(h.Ctx); err != nil {
			t.Fatal(err)
		}
		if err := health.Validate(); err == nil {
			t.Errorf("%+v is accepted", health)
		}
	}
}
