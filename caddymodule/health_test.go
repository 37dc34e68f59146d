package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-doku/caddy-doku/simulator"
)

// health returns a handler that says 418 to what doku_health hands on.
func (h *house) health(t testing.TB, health *Health) caddyhttp.Handler {
	t.Helper()
	h.provision(t, health)
	return caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		return health.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusTeapot)
			return nil
		}))
	})
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
	h := newHouse(t)
	handler := h.health(t, new(Health))
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
		{"another path, with a body", http.MethodPost, createPath, http.StatusTeapot},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := serve(t, handler, httptest.NewRequestWithContext(t.Context(), test.method, test.path, nil))
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
	failing := readyFunc(func(context.Context) error { return errors.New("disk full, SK-secret") })
	fine := readyFunc(func(context.Context) error { return nil })
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
		prepare func(t *testing.T, h *house)
		status  int
		words   map[string]string
	}{
		{"all is well", new(Health), func(*testing.T, *house) {}, http.StatusOK, all("ok", "ok", "")},
		{"with an inbox", new(Health), func(_ *testing.T, h *house) { h.addInbox(fine) }, http.StatusOK, all("ok", "ok", "ok")},
		{"two inboxes, one of which fails", new(Health), func(_ *testing.T, h *house) {
			h.addInbox(failing)
			h.addInbox(fine)
		}, http.StatusServiceUnavailable, all("ok", "ok", "not_ready")},
		{"an inbox that fails, only told", &Health{Inbox: checkReported}, func(_ *testing.T, h *house) {
			h.addInbox(failing)
		}, http.StatusOK, all("ok", "ok", "not_ready")},
		{"DOKU refuses a token, which is only told", new(Health), func(_ *testing.T, h *house) { h.doku.SetFault(tokenPathForTest, refuses) }, http.StatusOK, all("refused", "ok", "")},
		{"DOKU refuses a token that is required", &Health{Token: checkRequired}, func(_ *testing.T, h *house) { h.doku.SetFault(tokenPathForTest, refuses) }, http.StatusServiceUnavailable, all("refused", "ok", "")},
		{"a token takes long", &Health{Token: checkRequired}, func(_ *testing.T, h *house) {
			h.doku.SetFault(tokenPathForTest, &simulator.Fault{Delay: time.Minute})
		}, http.StatusServiceUnavailable, all("pending", "ok", "")},
		{"the store is away", new(Health), func(_ *testing.T, h *house) { replaceStore(h, failing) }, http.StatusServiceUnavailable, all("ok", "away", "")},
		{"the store is away, only told", &Health{Store: checkReported}, func(_ *testing.T, h *house) { replaceStore(h, failing) }, http.StatusOK, all("ok", "away", "")},
		{"the store is away, and calls go on", new(Health), func(_ *testing.T, h *house) {
			h.app.OnStoreError = storeErrorContinue
			replaceStore(h, failing)
		}, http.StatusOK, all("ok", "away", "")},
		{"a changed key was of no use", new(Health), func(_ *testing.T, h *house) {
			err := errors.New("nonsense")
			h.app.Accounts[0].unloaded.Store(&err)
		}, http.StatusOK, map[string]string{"keys": "earlier", "token": "ok", "store": "ok"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			test.prepare(t, h)
			handler := h.health(t, test.health)
			start := time.Now()
			w := serve(t, handler, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil))
			if w.Code != test.status || !reflect.DeepEqual(words(t, w), test.words) {
				t.Errorf("HTTP %d %s, expected %d %v", w.Code, w.Body, test.status, test.words)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

const tokenPathForTest = "/authorization/v1/access-token/b2b"

// addInbox has the account's readiness depend on an inbox, too.
func (h *house) addInbox(of readiness) {
	account := h.app.Accounts[0]
	account.checks = append(account.checks, newCheck(checkInbox, of))
}

func replaceStore(h *house, by readiness) {
	for _, c := range h.app.Accounts[0].checks {
		if c.name == checkStore {
			c.of = by
		}
	}
}

func TestHealthRefusesUnknownWords(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, health := range []*Health{{Token: "yes"}, {Store: "off"}, {Inbox: "REQUIRED"}} {
		if err := health.Provision(h.ctx); err != nil {
			t.Fatal(err)
		}
		if err := health.Validate(); err == nil {
			t.Errorf("%+v is accepted", health)
		}
	}
}

func TestACheckThatHangsKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int32
		hang := make(chan struct{})
		c := newCheck(checkInbox, readyFunc(func(context.Context) error {
			looks.Add(1)
			<-hang // a disk that does not answer heeds no context
			return nil
		}))
		for range 3 {
			if found := c.look(t.Context()); !errors.Is(found.err, context.DeadlineExceeded) || found.took != checkWithin {
				t.Errorf("found %v", found)
			}
			time.Sleep(checkAgain)
		}
		if looks.Load() != 1 {
			t.Errorf("%d looks under way", looks.Load())
		}
		close(hang)
		synctest.Wait()
		if found := c.look(t.Context()); found.err != nil || looks.Load() != 2 {
			t.Errorf("afterwards: %v after %d looks", found, looks.Load())
		}
	})
}

func TestHoweverOftenItIsAskedForACheckIsMadeOnceASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var looks, at atomic.Int32
		c := newCheck(checkStore, readyFunc(func(ctx context.Context) error {
			looks.Add(1)
			if at.Add(1) > 1 {
				t.Error("two looks at once")
			}
			defer at.Add(-1)
			<-ctx.Done() // the store hangs
			return ctx.Err()
		}))
		start := time.Now()
		var wg sync.WaitGroup
		gone, leave := context.WithCancel(t.Context())
		leave() // whoever asks may hang up: the others get the result all the same
		for i := range 10000 {
			wg.Go(func() {
				ctx := t.Context()
				if i%2 == 0 {
					ctx = gone
				}
				if found := c.look(ctx); !errors.Is(found.err, context.DeadlineExceeded) || found.took != checkTimeout {
					t.Errorf("found %v", found)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took != checkTimeout || looks.Load() != 1 {
			t.Errorf("%d looks within %s", looks.Load(), took)
		}
		time.Sleep(checkAgain - time.Nanosecond)
		c.look(t.Context())
		if looks.Load() != 1 {
			t.Error("looked again too early")
		}
		time.Sleep(time.Nanosecond)
		c.look(t.Context())
		if looks.Load() != 2 {
			t.Error("did not look again")
		}
	})
}
