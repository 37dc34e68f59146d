// Package health has the handler doku_health, for the probes of Kubernetes and load
// balancers.
package health

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

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
)

func init() {
	caddy.RegisterModule(new(Health))
}

// Health answers two paths for Kubernetes and load balancers, by GET or HEAD, and
// passes every other path on:
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
// An answer comes within a second, and may be a second old: each check runs once a
// second at most. If there is no token, a probe starts a fetch, within the limits of all
// fetches: a probed sidecar has its token before its first call. The answer has the
// accounts' names and a single word for each fault; still, use a port that strangers do
// not reach.
type Health struct {
	// Whether a missing token makes /readyz fail (`required`), or is only reported
	// (`reported`). Default: `reported`. Without a token the sidecar still takes DOKU's
	// notifications, and an app in the same pod would go out of service with it,
	// everywhere at once, whenever DOKU is down. Use `required` for a sidecar that only
	// makes outbound calls, and for a deployment that must stop at a wrong key.
	Token string `json:"token,omitempty"`

	// The same for a store that is away. Default: `required`, or `reported` if the
	// app's `on_store_error` is `continue`.
	Store string `json:"store,omitempty"`

	// The same for an inbox that can keep nothing. Default: `required`, because the
	// sidecar would lose a notification that the app does not take.
	Inbox string `json:"inbox,omitempty"`

	app *doku.App
	log *slog.Logger

	mu     sync.Mutex
	logged string // the failures in the last log line
}

// The effect of a failed check on readiness.
const (
	effectRequired = "required"
	effectReported = "reported"
)

// The paths, as Kubernetes names its own.
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
	if h.app, err = doku.Find(ctx); err != nil {
		return err
	}
	if h.Token == "" {
		h.Token = effectReported
	}
	if h.Store == "" {
		h.Store = effectRequired
		if h.app.Lenient() {
			h.Store = effectReported
		}
	}
	if h.Inbox == "" {
		h.Inbox = effectRequired
	}
	h.log = ctx.Slogger()
	return nil
}

// Validate checks the options.
func (h *Health) Validate() error {
	for name, value := range map[string]string{doku.CheckToken: h.Token, doku.CheckStore: h.Store, doku.CheckInbox: h.Inbox} {
		if value != effectRequired && value != effectReported {
			return fmt.Errorf("%s: expected required or reported, found %q", name, value)
		}
	}
	return nil
}

// required reports whether the sidecar is not ready if a check fails.
func (h *Health) required(check string) bool {
	switch check {
	case doku.CheckToken:
		return h.Token == effectRequired
	case doku.CheckStore:
		return h.Store == effectRequired
	case doku.CheckInbox:
		return h.Inbox == effectRequired
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

// ready runs all checks of all accounts at the same time.
func (h *Health) ready(ctx context.Context) healthAnswer {
	found := make([]map[string]doku.Result, len(h.app.Accounts))
	var wg sync.WaitGroup
	for i, account := range h.app.Accounts {
		wg.Go(func() { found[i] = account.Check(ctx, func(string) bool { return true }) })
	}
	wg.Wait()
	body := healthAnswer{Status: "ready", Accounts: make(map[string]map[string]string, len(found))}
	for i, account := range h.app.Accounts {
		words := make(map[string]string, len(found[i]))
		for name, result := range found[i] {
			words[name] = doku.CheckWord(name, result.Err)
			if result.Err != nil && h.required(name) {
				body.Status = "not_ready"
			}
		}
		body.Accounts[account.Name] = words
	}
	h.logChange(ctx, found)
	return body
}

// logChange logs why the sidecar is not ready, when that changes.
func (h *Health) logChange(ctx context.Context, found []map[string]doku.Result) {
	type failure struct {
		account, check string
		err            error
	}
	var failures []failure
	var text strings.Builder
	for i, account := range h.app.Accounts {
		for _, name := range slices.Sorted(maps.Keys(found[i])) {
			if err := found[i][name].Err; err != nil && h.required(name) {
				failures = append(failures, failure{account.Name, name, err})
				fmt.Fprintf(&text, "%q %s %s\n", account.Name, name, doku.CheckWord(name, err))
			}
		}
	}
	h.mu.Lock()
	changed := h.logged != text.String()
	h.logged = text.String()
	h.mu.Unlock()
	if !changed {
		return
	}
	if len(failures) == 0 {
		h.log.LogAttrs(ctx, slog.LevelInfo, "ready again")
	}
	for _, f := range failures {
		h.log.LogAttrs(ctx, slog.LevelWarn, "not ready",
			slog.String("account", f.account), slog.String("check", f.check), slog.String("reason", doku.CheckWord(f.check, f.err)),
			slog.String("error", f.err.Error()), slog.String("hint", doku.CheckHint(f.check, f.err)))
	}
}

var (
	_ caddy.Provisioner           = (*Health)(nil)
	_ caddy.Validator             = (*Health)(nil)
	_ caddyhttp.MiddlewareHandler = (*Health)(nil)
)
