package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(new(Health))
}

// Health answers two questions, for Kubernetes and load balancers, by GET or HEAD,
// and hands every other path on:
//
// | path | question | answer |
// |---|---|---|
// | `/livez` | is the process alive? | 200, as long as it can answer at all |
// | `/readyz` | can it do its work? | 200 or 503, with a reason for each account |
//
//	{"status":"not_ready","accounts":{"default":{"keys":"ok","store":"away","token":"ok"}}}
//
// | check | `ok` means | otherwise |
// |---|---|---|
// | `keys` | the account's keys and secrets are loaded | `earlier`: a changed file is of no use, so the ones before are in use; always still ready |
// | `token` | a B2B token is at hand, or could be fetched | `pending`, `refused`, `unreachable`, `unusable`: see `caddy-doku doku status` for more |
// | `store` | it has kept a value | `away` |
// | `inbox` | it can keep a notification (only if there is one) | `not_ready` |
//
// While Caddy waits out its `shutdown_delay`, the status is `shutting_down`, with 503.
//
// An answer comes within a second, and may be a second old: however often it is
// asked for, each check is made once a second. If there is no token, being asked
// has one fetched, within the bounds in which DOKU is ever asked: a sidecar that is
// probed has its token before its first call. Accounts are told by name and what is
// the matter by a single word, but a port that strangers do not reach is still the
// better place.
type Health struct {
	// Whether having no token makes the sidecar not ready (`required`), or is only
	// told (`reported`). Default: `reported`, for without DOKU's tokens the sidecar
	// still takes DOKU's notifications, and an app that shares a pod with it would
	// be taken out of service together with it, everywhere at once, whenever DOKU
	// is down. `required` is for a sidecar that does nothing but outbound calls, and
	// for a deployment that must stop at a wrong key.
	Token string `json:"token,omitempty"`

	// The same for a store that is away. Default: `required`, or `reported` if the
	// app's `on_store_error` is `continue`.
	Store string `json:"store,omitempty"`

	// The same for an inbox that can keep nothing. Default: `required`, for a
	// notification that the app does not take would be lost to this sidecar.
	Inbox string `json:"inbox,omitempty"`

	app *App
	log *slog.Logger

	mu   sync.Mutex
	said string // what the log was last told to be the matter
}

// What a check that fails does to readiness.
const (
	checkRequired = "required"
	checkReported = "reported"
)

// The paths of the questions, as Kubernetes itself has them.
const (
	livePath  = "/livez"
	readyPath = "/readyz"
)

// CaddyModule returns the Caddy module information.
func (*Health) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.doku_health", New: func() caddy.Module { return new(Health) }}
}

// Provision finds the app and sets the defaults.
func (h *Health) Provision(ctx caddy.Context) error {
	var err error
	if h.app, err = findApp(ctx); err != nil {
		return err
	}
	if h.Token == "" {
		h.Token = checkReported
	}
	if h.Store == "" {
		h.Store = checkRequired
		if h.app.OnStoreError == storeErrorContinue {
			h.Store = checkReported
		}
	}
	if h.Inbox == "" {
		h.Inbox = checkRequired
	}
	h.log = ctx.Slogger()
	return nil
}

// Validate checks the options.
func (h *Health) Validate() error {
	for name, value := range map[string]string{checkToken: h.Token, checkStore: h.Store, checkInbox: h.Inbox} {
		if value != checkRequired && value != checkReported {
			return fmt.Errorf("%s: expected required or reported, found %q", name, value)
		}
	}
	return nil
}

// required reports whether the sidecar is not ready if a check fails.
func (h *Health) required(check string) bool {
	switch check {
	case checkToken:
		return h.Token == checkRequired
	case checkStore:
		return h.Store == checkRequired
	case checkInbox:
		return h.Inbox == checkRequired
	}
	return false
}

// healthAnswer is the body of an answer.
type healthAnswer struct {
	Status   string                       `json:"status"`             // alive, ready, not_ready or shutting_down
	Accounts map[string]map[string]string `json:"accounts,omitempty"` // a word for each check of each account
}

// ServeHTTP answers, or calls next if the path is not one of its own.
func (h *Health) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.URL.Path != livePath && r.URL.Path != readyPath {
		return next.ServeHTTP(w, r)
	}
	status, body := http.StatusOK, healthAnswer{Status: "alive"}
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		status, body.Status = http.StatusMethodNotAllowed, "method_not_allowed"
	case r.URL.Path == livePath:
	case shuttingDown(r):
		status, body.Status = http.StatusServiceUnavailable, "shutting_down"
	default:
		if body = h.ready(r.Context()); body.Status != "ready" {
			status = http.StatusServiceUnavailable
		}
	}
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, err = w.Write(text) // net/http leaves it out of the answer to a HEAD
	return err
}

// shuttingDown reports whether Caddy waits out its shutdown_delay.
func shuttingDown(r *http.Request) bool {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return false
	}
	value, _ := repl.Get("http.shutting_down")
	down, _ := value.(bool)
	return down
}

// ready makes all checks of all accounts, at once.
func (h *Health) ready(ctx context.Context) healthAnswer {
	found := make([]map[string]checked, len(h.app.Accounts))
	var wg sync.WaitGroup
	for i, account := range h.app.Accounts {
		wg.Go(func() { found[i] = account.look(ctx, func(string) bool { return true }) })
	}
	wg.Wait()
	body := healthAnswer{Status: "ready", Accounts: make(map[string]map[string]string, len(found))}
	for i, account := range h.app.Accounts {
		words := make(map[string]string, len(found[i]))
		for name, result := range found[i] {
			words[name] = word(name, result.err)
			if result.err != nil && h.required(name) {
				body.Status = "not_ready"
			}
		}
		body.Accounts[account.Name] = words
	}
	h.tell(ctx, found)
	return body
}

// tell logs what keeps the sidecar from being ready, when that changes.
func (h *Health) tell(ctx context.Context, found []map[string]checked) {
	type failure struct {
		account, check string
		err            error
	}
	var failures []failure
	var said strings.Builder
	for i, account := range h.app.Accounts {
		for _, name := range slices.Sorted(maps.Keys(found[i])) {
			if err := found[i][name].err; err != nil && h.required(name) {
				failures = append(failures, failure{account.Name, name, err})
				fmt.Fprintf(&said, "%q %s %s\n", account.Name, name, word(name, err))
			}
		}
	}
	h.mu.Lock()
	changed := h.said != said.String()
	h.said = said.String()
	h.mu.Unlock()
	if !changed {
		return
	}
	if len(failures) == 0 {
		h.log.LogAttrs(ctx, slog.LevelInfo, "ready again")
	}
	for _, f := range failures {
		h.log.LogAttrs(ctx, slog.LevelWarn, "not ready", slog.String("account", f.account), slog.String("check", f.check),
			slog.String("reason", word(f.check, f.err)), slog.String("error", f.err.Error()), slog.String("hint", checkHint(f.check, f.err)))
	}
}

var (
	_ caddy.Provisioner           = (*Health)(nil)
	_ caddy.Validator             = (*Health)(nil)
	_ caddyhttp.MiddlewareHandler = (*Health)(nil)
)
