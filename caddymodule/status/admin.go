// Package status shows the accounts of a running sidecar, in the admin API and by the
// commands `doku status` and `doku token`.
package status

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/adminapi"
	"github.com/caddy-doku/caddy-doku/internal/tokens"
)

func init() {
	caddy.RegisterModule(Admin{})
	adminapi.Register(accountHandlers)
}

// Admin shows the accounts in Caddy's admin API, and renews their tokens. It needs no
// configuration. The admin API listens on `localhost:2019` unless the global option
// `admin` says otherwise. Anybody who reaches it controls the sidecar, so keep it to
// the machine.
//
// | request | answer |
// |---|---|
// | `GET /doku/accounts` | the state of all accounts |
// | `GET /doku/accounts/<name>` | the state of one |
// | `POST /doku/accounts/<name>/token` | fetches a new B2B token, and returns the state afterwards; takes 30 s at most |
//
// Answers are JSON. An answer other than 200 has an `error` that says what to do. No
// answer contains a token, secret or key: keys are shown by their fingerprint.
type Admin struct{}

// CaddyModule returns the Caddy module information.
func (Admin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.doku", New: func() caddy.Module { return new(Admin) }}
}

var accountHandlers = adminapi.Handlers{
	"GET /doku/accounts":               withApp(listAccounts),
	"GET /doku/accounts/{name}":        withApp(showAccount),
	"POST /doku/accounts/{name}/token": withApp(refreshToken),
}

// Routes returns the routes, with a 404 for every other path below /doku/.
func (*Admin) Routes() []caddy.AdminRoute {
	return append(accountHandlers.Routes(), adminapi.NotFound("/doku/"))
}

// withApp finds the app of the configuration in use. Caddy makes this module before
// any app, and keeps it when the configuration changes.
func withApp(handle func(app *doku.App, w http.ResponseWriter, r *http.Request) error) caddy.AdminHandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		app, err := doku.Find(caddy.ActiveContext())
		if err != nil {
			return adminapi.Error(http.StatusNotFound, fmt.Errorf("this configuration has no DOKU accounts: %w", err))
		}
		return handle(app, w, r)
	}
}

// accountsStatus is the answer to `GET /doku/accounts`.
type accountsStatus struct {
	Accounts []accountStatus `json:"accounts"`
}

// accountStatus is the state of an account. Spans of time are in
// seconds. What does not apply is left out.
type accountStatus struct {
	Name     string      `json:"name"`
	ClientID string      `json:"client_id"`
	BaseURL  string      `json:"base_url"`
	Token    tokenStatus `json:"token"`
	Clock    clockStatus `json:"clock"`
	Keys     keysStatus  `json:"keys"`
	Store    storeStatus `json:"store"`

	// What else the account needs for its work, such as its inbox, by name: `ok`,
	// or what is wrong.
	Checks map[string]string `json:"checks,omitempty"`
}

type tokenStatus struct {
	Held             bool     `json:"held"`                         // whether there is one that may be used
	AgeSeconds       *float64 `json:"age_seconds,omitempty"`        // since it was asked for
	RefreshInSeconds *float64 `json:"refresh_in_seconds,omitempty"` // from then on the next call renews it; negative: it is due
	ExpiresInSeconds *float64 `json:"expires_in_seconds,omitempty"`
	Fetching         bool     `json:"fetching"` // whether one is being fetched

	LastFetch *fetchStatus `json:"last_fetch,omitempty"` // by this sidecar
}

type fetchStatus struct {
	Reason     string    `json:"reason"` // first, ahead, expired, rejected or forced
	Ended      time.Time `json:"ended"`
	AgoSeconds float64   `json:"ago_seconds"`

	Error              string   `json:"error,omitempty"`
	Hint               string   `json:"hint,omitempty"`
	Failures           uint     `json:"failures,omitempty"`             // in a row
	NextAttemptSeconds *float64 `json:"next_attempt_seconds,omitempty"` // after a failure, the sidecar does not ask DOKU before
}

type clockStatus struct {
	Known         bool     `json:"known"`                    // whether DOKU has answered yet
	OffsetSeconds *float64 `json:"offset_seconds,omitempty"` // by how much DOKU's clock is ahead
	Samples       int      `json:"samples"`                  // answers that it is the median of
	Correcting    bool     `json:"correcting"`
}

type keysStatus struct {
	Merchant string   `json:"merchant"` // fingerprint of the public half
	DOKU     []string `json:"doku"`     // fingerprints
	Secrets  int      `json:"secrets"`  // how many there are
	Error    string   `json:"error,omitempty"`
}

type storeStatus struct {
	Type          string  `json:"type"`
	OK            bool    `json:"ok"`         // whether it keeps what it is given
	LatencyMillis float64 `json:"latency_ms"` // of a write, at most a second ago
	Error         string  `json:"error,omitempty"`
}

// stateOf returns the state of an account. It asks the store, but not DOKU.
func stateOf(ctx context.Context, a *doku.Account, app *doku.App) accountStatus {
	keys := a.Credentials().Summary()
	clock := a.Clock().Status()
	s := accountStatus{
		Name:     a.Name,
		ClientID: a.ID(),
		BaseURL:  a.BaseURL().String(),
		Token:    statusOf(a.Tokens().Status(), a.Clock().Now()),
		Clock:    clockStatus{Known: clock.Samples > 0, Samples: clock.Samples, Correcting: clock.Correct},
		Keys:     keysStatus{Merchant: keys.Merchant, DOKU: keys.DOKU, Secrets: keys.Secrets},
		Store:    storeStatus{Type: app.StoreName()},
	}
	if clock.Samples > 0 {
		s.Clock.OffsetSeconds = seconds(clock.Offset)
	}
	for name, found := range a.Check(ctx, func(name string) bool { return name != doku.CheckToken }) {
		text := doku.CheckOK
		if found.Err != nil {
			text = found.Err.Error()
		}
		switch {
		case name == doku.CheckKeys && found.Err != nil:
			s.Keys.Error = text
		case name == doku.CheckKeys:
		case name == doku.CheckStore:
			s.Store.OK, s.Store.LatencyMillis = found.Err == nil, math.Round(found.Took.Seconds()*1e5)/100
			if found.Err != nil {
				s.Store.Error = text
			}
		default:
			if s.Checks == nil {
				s.Checks = make(map[string]string)
			}
			s.Checks[name] = text
		}
	}
	return s
}

func statusOf(t tokens.Status, now time.Time) tokenStatus {
	s := tokenStatus{Fetching: t.Fetching, Held: now.Before(t.Expires)}
	if s.Held {
		s.AgeSeconds, s.RefreshInSeconds, s.ExpiresInSeconds = seconds(
			now.Sub(t.Issued),
		), seconds(
			t.Refresh.Sub(now),
		), seconds(
			t.Expires.Sub(now),
		)
	}
	if t.Fetched.IsZero() {
		return s
	}
	s.LastFetch = &fetchStatus{Reason: string(t.Reason), Ended: t.Fetched, AgoSeconds: *seconds(now.Sub(t.Fetched)), Failures: t.Failures}
	if t.Error != nil {
		s.LastFetch.Error, s.LastFetch.Hint = t.Error.Error(), tokens.Hint(t.Error)
		s.LastFetch.NextAttemptSeconds = seconds(max(0, t.NextFetch.Sub(now)))
	}
	return s
}

// seconds returns d in seconds, to the tenth.
func seconds(d time.Duration) *float64 {
	rounded := math.Round(d.Seconds()*10) / 10
	return &rounded
}

func listAccounts(app *doku.App, w http.ResponseWriter, r *http.Request) error {
	all := accountsStatus{Accounts: make([]accountStatus, len(app.Accounts))}
	var wg sync.WaitGroup
	for i, account := range app.Accounts {
		wg.Go(func() { all.Accounts[i] = stateOf(r.Context(), account, app) })
	}
	wg.Wait()
	return adminapi.Write(w, all)
}

// named returns the account that a request's path names.
func named(app *doku.App, r *http.Request) (*doku.Account, error) {
	account, err := app.Account(r.PathValue("name"))
	if err != nil {
		return nil, adminapi.Error(http.StatusNotFound, err)
	}
	return account, nil
}

func showAccount(app *doku.App, w http.ResponseWriter, r *http.Request) error {
	account, err := named(app, r)
	if err != nil {
		return err
	}
	return adminapi.Write(w, stateOf(r.Context(), account, app))
}

// refreshWithin is how long somebody who wants a new token may wait for it.
const refreshWithin = 30 * time.Second

func refreshToken(app *doku.App, w http.ResponseWriter, r *http.Request) error {
	account, err := named(app, r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), refreshWithin)
	defer cancel()
	switch _, err := account.Tokens().Refresh(ctx); {
	case errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, tokens.ErrUnreachable):
		return adminapi.Error(http.StatusGatewayTimeout, fmt.Errorf("no new token within %s; it is still being fetched: %w", refreshWithin, err))
	case err != nil:
		return adminapi.Error(http.StatusBadGateway, fmt.Errorf("no new token: %w; %s", err, tokens.Hint(err)))
	}
	return adminapi.Write(w, stateOf(r.Context(), account, app))
}

var _ caddy.AdminRouter = (*Admin)(nil)
