package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/moduletest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

func TestTheStateOfAnAccount(t *testing.T) {
	t.Parallel()
	h := moduletest.New(t, moduletest.Options{})
	account := h.App().(*doku.App).Accounts[0]
	before := stateOf(t.Context(), account, h.App().(*doku.App))
	if before.Token.Held || before.Token.AgeSeconds != nil || before.Token.LastFetch != nil || before.Clock.Known ||
		before.Clock.OffsetSeconds != nil {
		t.Errorf("before the first call: %+v", before)
	}
	if !before.Store.OK || before.Store.Type != "memory" || before.Store.Error != "" {
		t.Errorf("store: %+v", before.Store)
	}
	if _, err := account.Tokens().Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := stateOf(t.Context(), account, h.App().(*doku.App))
	if !after.Token.Held || *after.Token.AgeSeconds > 60 || *after.Token.ExpiresInSeconds < 800 ||
		*after.Token.RefreshInSeconds > *after.Token.ExpiresInSeconds {
		t.Errorf("token: %+v", after.Token)
	}
	if last := after.Token.LastFetch; last == nil || last.Reason != "forced" || last.Error != "" {
		t.Errorf("last fetch: %+v", last)
	}
	if !after.Clock.Known || after.Clock.Samples != 1 || after.Clock.Correcting {
		t.Errorf("clock: %+v", after.Clock)
	}
	if after.Name != "default" || after.ClientID != moduletest.ClientID || after.Keys.Secrets != 1 || len(after.Keys.DOKU) != 1 ||
		!strings.HasPrefix(after.Keys.Merchant, "SHA256:") {
		t.Errorf("found %+v", after)
	}

	h.DOKU.SetFault(
		moduletest.TokenPath,
		&simulator.Fault{Status: http.StatusUnauthorized, Body: `{"responseCode":"4017300","responseMessage":"Unauthorized"}`},
	)
	_, _ = account.Tokens().Refresh(t.Context())
	account.AddCheck(doku.CheckInbox, ready(func(context.Context) error { return errors.New("disk full") }))
	failed := stateOf(t.Context(), account, h.App().(*doku.App))
	if last := failed.Token.LastFetch; !failed.Token.Held || !strings.Contains(last.Error, "4017300") || last.Hint == "" ||
		last.Failures != 1 ||
		*last.NextAttemptSeconds > 30 {
		t.Errorf("last fetch: %+v", last)
	}
	if failed.Checks[doku.CheckInbox] != "disk full" {
		t.Errorf("checks: %v", failed.Checks)
	}
	text, err := json.Marshal(failed)
	if err != nil {
		t.Fatal(err)
	}
	token, _ := account.Tokens().Current(t.Context())
	for _, secret := range []string{moduletest.SecretKey, token.Value} {
		if bytes.Contains(text, []byte(secret)) {
			t.Errorf("a secret is in %s", text)
		}
	}
}

// ready is a function as [doku.Readiness].
type ready func(ctx context.Context) error

func (f ready) Ready(ctx context.Context) error { return f(ctx) }

// adminMux routes as Caddy's admin API does.
func adminMux() http.Handler {
	mux := http.NewServeMux()
	for _, route := range new(Admin).Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			err := route.Handler.ServeHTTP(w, r)
			if failed, ok := errors.AsType[caddy.APIError](err); ok {
				http.Error(w, failed.Err.Error(), failed.HTTPStatus)
				return
			}
			if err != nil {
				http.Error(w, "not an APIError: "+err.Error(), http.StatusInternalServerError)
				return
			}
		})
	}
	return mux
}

func TestTheAdminAPIWithoutAccountsSaysSo(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, method, path string
		status             int
		says, allow        string
	}{
		{"no app", http.MethodGet, "/doku/accounts", http.StatusNotFound, "the global option `doku", ""},
		{"another method", http.MethodDelete, "/doku/accounts", http.StatusMethodNotAllowed, "expected GET, found DELETE", "GET"},
		{
			"a GET would do something",
			http.MethodGet,
			"/doku/accounts/default/token",
			http.StatusMethodNotAllowed,
			"expected POST, found GET",
			"POST",
		},
		{"another path", http.MethodGet, "/doku/account", http.StatusNotFound, "GET /doku/accounts", ""},
		{"no name", http.MethodGet, "/doku/accounts/", http.StatusNotFound, "GET /doku/accounts", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := httptest.NewRecorder()
			adminMux().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), test.method, test.path, nil))
			if w.Code != test.status || !strings.Contains(w.Body.String(), test.says) || w.Header().Get("Allow") != test.allow {
				t.Errorf("HTTP %d, Allow %q, %s", w.Code, w.Header().Get("Allow"), w.Body)
			}
		})
	}
}

func TestTheTableOfAccounts(t *testing.T) {
	t.Parallel()
	accounts := []accountStatus{
		{
			Name: "default", ClientID: "BRN-1", BaseURL: "https://api.doku.com",
			Token: tokenStatus{
				Held: true, AgeSeconds: seconds(72 * time.Second), RefreshInSeconds: seconds(528 * time.Second),
				ExpiresInSeconds: seconds(828 * time.Second),
				LastFetch:        &fetchStatus{Reason: "ahead", AgoSeconds: 72},
			},
			Clock: clockStatus{Known: true, OffsetSeconds: seconds(400 * time.Millisecond), Samples: 9},
			Keys:  keysStatus{Merchant: "SHA256:a", DOKU: []string{"SHA256:b"}, Secrets: 1},
			Store: storeStatus{Type: "redis", OK: true, LatencyMillis: 0.42},
		},
		{
			Name: "kopi", ClientID: "BRN-2", BaseURL: "https://api.doku.com",
			Token: tokenStatus{
				LastFetch: &fetchStatus{
					Reason:     "first",
					AgoSeconds: 3,
					Error:      "DOKU refused the token request",
					Hint:       "check private_key",
					Failures:   2,
				},
			},
			Clock:  clockStatus{Correcting: true},
			Keys:   keysStatus{Merchant: "SHA256:c", Secrets: 2},
			Store:  storeStatus{Type: "redis", Error: "connection refused"},
			Checks: map[string]string{"inbox": "disk full", "other": "ok"},
		},
	}
	const want = `ACCOUNT  CLIENT ID  TOKEN      RENEWED   EXPIRES    DOKU'S CLOCK          STORE
default  BRN-1      1m12s old  in 8m48s  in 13m48s  +0.4s                 redis, 0.42 ms
kopi     BRN-2      none       -         -          not known, corrected  redis, AWAY

default
  environment     https://api.doku.com
  merchant's key  SHA256:a
  DOKU's key      SHA256:b
  secrets         1
  last fetch      1m12s ago (ahead)

kopi
  environment     https://api.doku.com
  merchant's key  SHA256:c
  secrets         2
  TOKEN           DOKU refused the token request (2 in a row, the last 3s ago; check private_key)
  STORE           connection refused
  INBOX           disk full
`
	var got strings.Builder
	if err := writeAccounts(&got, accounts); err != nil {
		t.Fatal(err)
	}
	if got.String() != want {
		t.Errorf("found\n%s\nexpected\n%s", got.String(), want)
	}
}

func TestTheAnswerOfTheAdminAPIIsReadAsItIsWritten(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"all": `{"accounts":[{"name":"a"}]}`,
		"one": `{"name":"a"}`,
	} {
		if accounts, err := readAccounts([]byte(body)); err != nil || len(accounts) != 1 || accounts[0].Name != "a" {
			t.Errorf("%s: %v, %v", name, accounts, err)
		}
	}
	for _, body := range []string{"", "<html>", "{}", "[]"} {
		if accounts, err := readAccounts([]byte(body)); err == nil {
			t.Errorf("%q is read as %v", body, accounts)
		}
	}
}
