package caddymodule

import (
	"bufio"
	"context"
	"errors"
	"io"
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
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/caddy-doku/caddy-doku/internal/idempotency"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/internal/tokens"
	"github.com/caddy-doku/caddy-doku/simulator"
	"github.com/caddy-doku/caddy-doku/snap"
)

func TestWhatTheAppIsToldOfACallThatFailed(t *testing.T) {
	t.Parallel()
	broken := errors.New("connection reset")
	token := &localError{snap.Unavailable, "token", errors.New("no token")}
	for _, test := range []struct {
		name      string
		written   bool
		uncertain bool
		err       error
		reason    string
	}{
		{"no connection", false, false, broken, "unreachable"},
		{"no token", false, false, token, "token"},
		{"broken after it was sent", true, false, broken, "outcome_unknown"},
		{"no connection for a repeat whose first attempt was sent", false, true, broken, "outcome_unknown"},
		{"no token for such a repeat", false, true, token, "outcome_unknown"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := &call{uncertain: test.uncertain}
			c.written.Store(test.written)
			local, ok := errors.AsType[*localError](c.failure(test.err))
			if !ok || local.reason != test.reason || !errors.Is(local, test.err) && !errors.Is(local, token.err) {
				t.Errorf("found %+v, expected reason %s", local, test.reason)
			}
		})
	}
}

// failing is a store of which some operations fail, when it is told so.
type failing struct {
	store.Store
	claim, set atomic.Bool
	setting    func() // called first
}

func (f *failing) Claim(ctx context.Context, owner string, lease time.Duration, keys ...string) (store.Claim, error) {
	if f.claim.Load() {
		return store.Claim{}, store.ErrStore
	}
	return f.Store.Claim(ctx, owner, lease, keys...)
}

func (f *failing) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if f.set.Load() {
		return store.ErrStore
	}
	if f.setting != nil {
		f.setting()
	}
	return f.Store.Set(ctx, key, value, ttl)
}

// keepIn has the account keep what it knows of idempotency keys in a store that
// can be told to fail.
func (h *house) keepIn(t *testing.T) *failing {
	t.Helper()
	memory := store.NewMemory()
	t.Cleanup(func() { _ = memory.Close() })
	f := &failing{Store: memory}
	h.app.Accounts[0].repeats = idempotency.NewRepeats(f, time.Minute)
	return f
}

// keyed is the app's request for a VA, with an idempotency key.
func keyed(t *testing.T) *http.Request {
	t.Helper()
	r := create(t.Context(), "INV-1")
	r.Header.Set("Idempotency-Key", "INV-1")
	return r
}

// expect checks the status of an answer, and why it was made here, if it was.
func expect(t *testing.T, w *httptest.ResponseRecorder, status int, reason string) {
	t.Helper()
	if got := w.Header().Get("X-Doku-Error"); w.Code != status || got != reason {
		t.Errorf("found HTTP %d %q %s, expected HTTP %d %q", w.Code, got, w.Body, status, reason)
	}
}

var noTokenForYou = simulator.Fault{Status: http.StatusUnauthorized, Body: `{"responseCode":"4017300"}`}

func TestWithoutItsStoreACallMayHaveBeenMadeBefore(t *testing.T) {
	t.Parallel()
	t.Run("it is refused, and the app is told", func(t *testing.T) {
		t.Parallel()
		h := newHouse(t)
		h.keepIn(t).claim.Store(true)
		w := serve(t, h.sign(t, new(Sign)), keyed(t))
		expect(t, w, http.StatusServiceUnavailable, "store")
		for _, part := range []string{"outcome: unknown", "earlier attempt", "ask for its status, or repeat with the same Idempotency-Key"} {
			if !strings.Contains(w.Body.String(), part) {
				t.Errorf("the app is told %s, expected %q", w.Body, part)
			}
		}
		if n := len(h.doku.Exchanges()); n != 0 {
			t.Errorf("DOKU received %d calls", n)
		}
	})
	t.Run("it is made, and if it fails, nobody knows", func(t *testing.T) {
		t.Parallel()
		h := newHouse(t)
		h.app.OnStoreError = storeErrorContinue
		h.keepIn(t).claim.Store(true)
		handler := h.sign(t, new(Sign))
		h.doku.SetFault(tokens.TokenPath, &noTokenForYou)
		expect(t, serve(t, handler, keyed(t)), http.StatusGatewayTimeout, "outcome_unknown")
	})
	t.Run("it is made with the external id of the attempt before, if that is known", func(t *testing.T) {
		t.Parallel()
		h := newHouse(t)
		h.app.OnStoreError = storeErrorContinue
		kept := h.keepIn(t)
		handler := h.sign(t, new(Sign))
		r := create(t.Context(), "INV-1")
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		unsent, err := h.app.Accounts[0].repeats.Begin(t.Context(), idempotency.Keyed{
			Key: "INV-1", Digest: idempotency.CallDigest(r.Method, createPath, snap.Digest(body)), ExternalID: "77",
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := unsent.Failed(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		kept.set.Store(true)
		w := serve(t, handler, keyed(t))
		expect(t, w, http.StatusOK, "")
		if id := w.Header().Get("X-Doku-External-Id"); id != "77" {
			t.Errorf("external id %s", id)
		}
	})
}

func TestACallForAnotherPartnerIsRefusedAndToldBoth(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	r := create(t.Context(), "INV-1")
	r.Header.Set("X-PARTNER-ID", "BRN-9")
	w := serve(t, h.sign(t, new(Sign)), r)
	expect(t, w, http.StatusBadRequest, "account")
	if told := w.Body.String(); !strings.Contains(told, clientID) || !strings.Contains(told, "BRN-9") {
		t.Errorf("the app is told %s", told)
	}
	if n := len(h.doku.Exchanges()); n != 0 {
		t.Errorf("DOKU received %d calls", n)
	}
}

func TestTheAppIsToldOfAFailureBeforeItIsNoted(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	kept := h.keepIn(t)
	handler := h.sign(t, new(Sign))
	h.doku.SetFault(tokens.TokenPath, &noTokenForYou)
	r := keyed(t)
	w := httptest.NewRecorder()
	told := false
	kept.setting = func() { told = w.Flushed && w.Body.Len() > 0 }
	if err := handler.ServeHTTP(w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, &caddyhttp.Server{})); err != nil {
		t.Fatal(err)
	}
	expect(t, w, http.StatusServiceUnavailable, "token")
	if !told {
		t.Error("the app had to wait until the failure was noted")
	}
}

// outcomes returns how many calls of a service to DOKU have ended how.
func outcomes(service snap.Service) map[string]float64 {
	found := make(map[string]float64)
	for _, outcome := range outboundOutcomes {
		counted := testutil.ToFloat64(calls.WithLabelValues(directionOut, "default", string(service), outcome))
		if counted > 0 {
			found[outcome] = counted
		}
	}
	return found
}

func TestACallWhoseAppHasHungUpCountsAsWhatItIs(t *testing.T) {
	t.Parallel()
	const path, service = "/orders/v1.0/transfer-va/status", snap.ServiceVAStatus // in no other test of this package
	ask := func(ctx context.Context) *http.Request {
		return httptest.NewRequestWithContext(ctx, http.MethodPost, path, strings.NewReader("{}"))
	}
	h := newHouse(t)
	handler := h.sign(t, new(Sign))
	want := outcomes(service)
	serve(t, handler, ask(t.Context())) // a token is there
	want[outcomeDeclined]++
	check := func(after string) {
		t.Helper()
		if found := outcomes(service); !maps.Equal(found, want) {
			t.Errorf("after %s: counted %v, expected %v", after, found, want)
		}
	}
	check("an answer")

	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	serve(t, handler, ask(gone))
	want[outcomeCancelled]++
	check("one whose app had hung up before it was sent")

	h.doku.SetFault(path, &simulator.Fault{Delay: time.Minute})
	going, hangUp := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for h.doku.Pending(path) == 0 && t.Context().Err() == nil {
			time.Sleep(time.Millisecond)
		}
		hangUp()
	})
	serve(t, handler, ask(going))
	wg.Wait()
	want["outcome_unknown"]++
	check("one whose app hung up before DOKU answered")
}

func TestARefusalSaysThatAnEarlierAttemptMayHaveBeenCarriedOut(t *testing.T) {
	t.Parallel()
	refusal := &simulator.Fault{Status: http.StatusBadRequest, Body: `{"responseCode":"4002700"}`, Header: http.Header{"X-Doku-Earlier-Attempt": {"none"}}}
	for _, test := range []struct {
		name   string
		before *simulator.Fault // what befalls the attempt before, if there is one
		then   *simulator.Fault
		status int
		told   string
	}{
		{"a refusal of the first attempt", nil, refusal, 400, ""},
		{"a refusal after an attempt without an answer", &simulator.Fault{Times: 1}, refusal, 400, "unknown"},
		{"a failure after one", &simulator.Fault{Times: 1}, &simulator.Fault{Status: 500, Body: "{}"}, 500, "unknown"},
		{"a success after one", &simulator.Fault{Times: 1}, nil, 200, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			handler := h.sign(t, new(Sign))
			if test.before != nil {
				h.doku.SetFault(createPath, test.before)
				expect(t, serve(t, handler, keyed(t)), http.StatusGatewayTimeout, "outcome_unknown")
			}
			h.doku.SetFault(createPath, test.then)
			for range 2 { // the second is a repeat, or one more attempt after a failure
				w := serve(t, handler, keyed(t))
				expect(t, w, test.status, "")
				if told := w.Header().Get("X-Doku-Earlier-Attempt"); told != test.told || len(w.Header().Values("X-Doku-External-Id")) != 1 {
					t.Errorf("X-Doku-Earlier-Attempt is %q, expected %q, in %v", told, test.told, w.Header())
				}
			}
		})
	}
}

func TestABodyHasToArriveInTime(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	handler := h.sign(t, &Sign{Timeout: caddy.Duration(100 * time.Millisecond)})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := handler.ServeHTTP(w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, &caddyhttp.Server{})); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "POST "+createPath+" HTTP/1.1\r\nHost: sidecar\r\nContent-Length: 10\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if reason := resp.Header.Get("X-Doku-Error"); resp.StatusCode != http.StatusBadRequest || reason != "body_unreadable" {
		t.Errorf("HTTP %d %q", resp.StatusCode, reason)
	}
}
