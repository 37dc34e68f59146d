package outbound

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

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/moduletest"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/pool"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/idempotency"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/simulator"
	"github.com/caddy-doku/caddy-doku/snap"
)

func TestWhatTheAppIsToldOfACallThatFailed(t *testing.T) {
	t.Parallel()
	broken := errors.New("connection reset")
	token := &reasons.Rejection{Case: snap.Unavailable, Reason: reasons.Token, Err: errors.New("no token")}
	for _, test := range []struct {
		name      string
		written   bool
		maybeSent bool
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
			c := &call{maybeSent: test.maybeSent}
			c.written.Store(test.written)
			local := c.failure(test.err)
			if local.Reason != test.reason || !errors.Is(local, test.err) && !errors.Is(local, token.Err) {
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

// stores are the failing stores of tests, by name.
var stores sync.Map

// storeModule opens a store of the map stores.
type storeModule struct {
	Name string `json:"name"`
}

func init() { caddy.RegisterModule(storeModule{}) }

// CaddyModule returns the Caddy module information.
func (storeModule) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "doku.stores.failing", New: func() caddy.Module { return new(storeModule) }}
}

// Open implements [doku.Store].
func (m *storeModule) Open() (store.Store, string, error) {
	f, _ := stores.Load(m.Name)
	id := "store/failing/" + m.Name
	_, err := pool.Acquire(new(pool.References), id, func() (nobody, error) { return nobody{}, nil })
	return f.(*failing), id, err
}

type nobody struct{}

func (nobody) Destruct() error { return nil }

// withFailingStore returns a configuration whose store can be told to fail.
func withFailingStore(t *testing.T) (*moduletest.Env, *failing) {
	t.Helper()
	memory := store.NewMemory()
	t.Cleanup(func() { _ = memory.Close() })
	f := &failing{Store: memory}
	stores.Store(t.Name(), f)
	return moduletest.New(t, moduletest.Options{App: moduletest.Object{"store": moduletest.Object{"store": "failing", "name": t.Name()}}}), f
}

// keyed is the app's request for a VA, with an idempotency key.
func keyed(t *testing.T) *http.Request {
	t.Helper()
	r := moduletest.CreateRequest(t.Context(), "INV-1")
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
		h, kept := withFailingStore(t)
		kept.claim.Store(true)
		w := moduletest.Serve(t, signHandler(t, h, new(Sign)), keyed(t))
		expect(t, w, http.StatusServiceUnavailable, "store")
		for _, part := range []string{"outcome: unknown", "earlier attempt", "ask for its status, or repeat with the same Idempotency-Key"} {
			if !strings.Contains(w.Body.String(), part) {
				t.Errorf("the app is told %s, expected %q", w.Body, part)
			}
		}
		if n := len(h.DOKU.Exchanges()); n != 0 {
			t.Errorf("DOKU received %d calls", n)
		}
	})
	t.Run("it is made, and if it fails, nobody knows", func(t *testing.T) {
		t.Parallel()
		h, kept := withFailingStore(t)
		app(t, h).OnStoreError = "continue"
		kept.claim.Store(true)
		handler := signHandler(t, h, new(Sign))
		h.DOKU.SetFault(moduletest.TokenPath, &noTokenForYou)
		expect(t, moduletest.Serve(t, handler, keyed(t)), http.StatusGatewayTimeout, "outcome_unknown")
	})
	t.Run("it is made with the external id of the attempt before, if that is known", func(t *testing.T) {
		t.Parallel()
		h, kept := withFailingStore(t)
		app(t, h).OnStoreError = "continue"
		handler := signHandler(t, h, new(Sign))
		r := moduletest.CreateRequest(t.Context(), "INV-1")
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		unsent, err := account(t, h).Idempotency().Begin(t.Context(), idempotency.Request{
			Key: "INV-1", Digest: idempotency.CallDigest(r.Method, moduletest.CreatePath, snap.Digest(body)), ExternalID: "77",
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := unsent.Abort(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		kept.set.Store(true)
		w := moduletest.Serve(t, handler, keyed(t))
		expect(t, w, http.StatusOK, "")
		if id := w.Header().Get("X-Doku-External-Id"); id != "77" {
			t.Errorf("external id %s", id)
		}
	})
}

func TestACallForAnotherPartnerIsRefusedAndToldBoth(t *testing.T) {
	t.Parallel()
	h := moduletest.New(t, moduletest.Options{})
	r := moduletest.CreateRequest(t.Context(), "INV-1")
	r.Header.Set("X-PARTNER-ID", "BRN-9")
	w := moduletest.Serve(t, signHandler(t, h, new(Sign)), r)
	expect(t, w, http.StatusBadRequest, "account")
	if told := w.Body.String(); !strings.Contains(told, moduletest.ClientID) || !strings.Contains(told, "BRN-9") {
		t.Errorf("the app is told %s", told)
	}
	if n := len(h.DOKU.Exchanges()); n != 0 {
		t.Errorf("DOKU received %d calls", n)
	}
}

func TestTheAppIsToldOfAFailureBeforeItIsNoted(t *testing.T) {
	t.Parallel()
	h, kept := withFailingStore(t)
	handler := signHandler(t, h, new(Sign))
	h.DOKU.SetFault(moduletest.TokenPath, &noTokenForYou)
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
	for _, outcome := range reasons.Outbound.Names() {
		counted := testutil.ToFloat64(telemetry.Calls.WithLabelValues(telemetry.Outbound, "default", string(service), outcome))
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
	h := moduletest.New(t, moduletest.Options{})
	handler := signHandler(t, h, new(Sign))
	want := outcomes(service)
	moduletest.Serve(t, handler, ask(t.Context())) // a token is there
	want[reasons.Declined]++
	check := func(after string) {
		t.Helper()
		if found := outcomes(service); !maps.Equal(found, want) {
			t.Errorf("after %s: counted %v, expected %v", after, found, want)
		}
	}
	check("an answer")

	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	moduletest.Serve(t, handler, ask(gone))
	want[reasons.Cancelled]++
	check("one whose app had hung up before it was sent")

	h.DOKU.SetFault(path, &simulator.Fault{Delay: time.Minute})
	going, hangUp := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for h.DOKU.Pending(path) == 0 && t.Context().Err() == nil {
			time.Sleep(time.Millisecond)
		}
		hangUp()
	})
	moduletest.Serve(t, handler, ask(going))
	wg.Wait()
	want["outcome_unknown"]++
	check("one whose app hung up before DOKU answered")
}

func TestARefusalSaysThatAnEarlierAttemptMayHaveBeenCarriedOut(t *testing.T) {
	t.Parallel()
	refusal := &simulator.Fault{
		Status: http.StatusBadRequest,
		Body:   `{"responseCode":"4002700"}`,
		Header: http.Header{"X-Doku-Earlier-Attempt": {"none"}},
	}
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
			h := moduletest.New(t, moduletest.Options{})
			handler := signHandler(t, h, new(Sign))
			if test.before != nil {
				h.DOKU.SetFault(moduletest.CreatePath, test.before)
				expect(t, moduletest.Serve(t, handler, keyed(t)), http.StatusGatewayTimeout, "outcome_unknown")
			}
			h.DOKU.SetFault(moduletest.CreatePath, test.then)
			for range 2 { // the second is a repeat, or one more attempt after a failure
				w := moduletest.Serve(t, handler, keyed(t))
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
	h := moduletest.New(t, moduletest.Options{})
	handler := signHandler(t, h, &Sign{Timeout: caddy.Duration(100 * time.Millisecond)})
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
	if _, err := io.WriteString(conn, "POST "+moduletest.CreatePath+
		" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{"); err != nil {
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
