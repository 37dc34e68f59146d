// Package doku is the Caddy app "doku": the accounts with their credentials, what
// outlives a reload (stores, tokens, clocks), and the checks of both. The handlers in
// the other packages find their account here.
package doku

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/credential"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/pool"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

func init() {
	caddy.RegisterModule(App{})
}

// App holds the DOKU accounts that the handlers `doku_sign`, `doku_token` and
// `doku_verify` and the transport `doku` work for. Nothing here uses the network
// when the configuration loads; everything that can be checked without it is.
//
// Every text accepts the placeholders `{env.NAME}` and `{file./path}`, resolved
// when the configuration loads. Use them for secrets: everybody who may read the
// configuration can read a secret that is written in it.
type App struct {
	// Which DOKU to talk to: `sandbox`, `production`, or a base URL such as
	// `https://api.doku.com`. A base URL must be https unless its host is a
	// loopback address. Required, here or in each account.
	Environment string `json:"environment,omitempty"`

	// The accounts. With a single one, nothing needs to name it.
	Accounts []*Account `json:"accounts,omitempty"`

	// Where tokens, the ids of calls, and answers are kept. Several sidecars for
	// the same account must share a store. Default: `memory`.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=doku.stores inline_key=store"`

	// What to do with a call that needs the store while the store is away.
	// `refuse` (the default) answers DOKU's calls with 500, so that DOKU tries
	// again, and the app's calls that have an idempotency key with 503. `continue`
	// carries them out, without protection against repeats.
	OnStoreError string `json:"on_store_error,omitempty"`

	// Whether X-TIMESTAMP is corrected by the difference between this machine's
	// clock and DOKU's, by 5 minutes at the most. It is right again two answers of
	// DOKU after either clock was set. The times in DOKU's calls are always compared
	// with this machine's clock. Default: false.
	ClockCorrection bool `json:"clock_correction,omitempty"`

	// How many calls whose signature is not checked yet may send their bodies at the same
	// time. Calls with a token of ours, and token requests that DOKU has signed, have as
	// much room again, which strangers cannot use up. Calls beyond get 503. Default: 1000.
	UnverifiedCalls int `json:"unverified_calls,omitempty"`

	// How many bytes those bodies may have in all. Default: 64 MiB.
	UnverifiedSize int64 `json:"unverified_size,omitempty"`

	// Whether the sidecar starts though another process listens on a port of its sites.
	// The system then gives each call to one of both: only for starts that overlap, with
	// a shared store. Default: false.
	SharePorts bool `json:"share_ports,omitempty"`

	store      store.Store
	storeID    string
	storeName  string // such as "redis"
	references pool.References
	log        *slog.Logger
	metrics    *prometheus.Registry

	parts      []Part
	stop       context.CancelFunc // ends the background work
	watched    chan struct{}      // closed when the watch over files has ended
	background *sync.WaitGroup    // of the parts
}

// Part is background work of a configuration, such as the inboxes. Start runs before
// the accounts start. Run begins once the configuration is the one in use, and ends
// with ctx. Close releases what the part shares with the next configuration; it is
// called in any case.
type Part interface {
	Start(metrics prometheus.Registerer) error
	Run(ctx context.Context)
	Close() error
}

// newParts are the functions that make the parts of a configuration.
var newParts []func(*App) Part

// RegisterPart adds a part to every configuration that is provisioned afterwards. Call
// it in an init function.
func RegisterPart(newPart func(*App) Part) { newParts = append(newParts, newPart) }

// RegisterFirstPart is like [RegisterPart], for a part that starts before those.
func RegisterFirstPart(newPart func(*App) Part) { newParts = slices.Insert(newParts, 0, newPart) }

// checks look at the sites of a configuration.
var checks []func(*App, *caddyhttp.App) error

// RegisterCheck adds a check of the sites that belong to a configuration. It is called when
// the configuration is provisioned, also by `caddy-doku validate`; some handlers of the
// sites may still be JSON then. An error refuses the configuration. Call it in an init
// function.
func RegisterCheck(check func(app *App, sites *caddyhttp.App) error) { checks = append(checks, check) }

// checkSites runs the checks. Caddy provisions the apps in any order: either the sites are
// provisioned now, or their first handler of ours has asked for this app.
func (a *App) checkSites(ctx caddy.Context) error {
	app, err := ctx.AppIfConfigured("http")
	if err != nil {
		return nil //nolint:nilerr // there are no sites, or Caddy reports their error itself
	}
	for _, check := range checks {
		if err := check(a, app.(*caddyhttp.App)); err != nil {
			return fmt.Errorf("doku: %w", err)
		}
	}
	return nil
}

// PartOf returns the configuration's part of type P, which is registered.
func PartOf[P Part](a *App) P {
	for _, part := range a.parts {
		if found, ok := part.(P); ok {
			return found
		}
	}
	var none P
	return none
}

// How calls go on without the store.
const (
	storeErrorRefuse   = "refuse"
	storeErrorContinue = "continue"
)

const (
	watchInterval = 2 * time.Second // between two looks at the files of keys and secrets
	watchTimeout  = 2 * time.Second // Stop waits no longer for a look under way
)

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "doku", New: func() caddy.Module { return new(App) }}
}

// Provision reads keys and secrets and prepares the accounts.
func (a *App) Provision(ctx caddy.Context) error {
	a.log = slog.New(telemetry.TracedHandler{Handler: telemetry.Log(ctx.Slogger()).Handler()})
	if a.UnverifiedCalls < 0 || a.UnverifiedSize < 0 {
		return errors.New("doku: unverified_calls and unverified_size must be positive")
	}
	if len(a.Accounts) == 0 {
		return errors.New("doku: no account; write `account { client_id …; secret_key …; private_key … }` in the global option `doku`")
	}
	switch a.OnStoreError {
	case "":
		a.OnStoreError = storeErrorRefuse
	case storeErrorRefuse, storeErrorContinue:
	default:
		return fmt.Errorf("doku: on_store_error: expected refuse or continue, found %q", a.OnStoreError)
	}
	if err := a.resolve(ctx); err != nil {
		return fmt.Errorf("doku: %w", err)
	}
	for _, newPart := range newParts {
		a.parts = append(a.parts, newPart(a))
	}
	for _, account := range a.Accounts {
		if err := account.provision(a); err != nil {
			return fmt.Errorf("doku: account %q: %w", account.Name, err)
		}
	}
	a.metrics = ctx.GetMetricsRegistry()
	if err := telemetry.Register(a.metrics, gauges{a}); err != nil {
		return err
	}
	return a.checkSites(ctx)
}

// UnverifiedLimits returns how many bodies of calls that are not verified may be under way,
// and their bytes in all.
func (a *App) UnverifiedLimits() (calls, size int64) {
	return int64(cmp.Or(a.UnverifiedCalls, 1000)), cmp.Or(a.UnverifiedSize, 64<<20)
}

// resolve opens the store and resolves all accounts. Its error has all that is wrong.
func (a *App) resolve(ctx caddy.Context) error {
	var wrong credential.Faults
	if err := a.openStore(ctx); err != nil {
		wrong.Add(fmt.Errorf("store: %w", err))
	}
	names := make(map[string]bool, len(a.Accounts))
	for _, account := range a.Accounts {
		account.setName()
		if names[account.Name] {
			wrong.Add(fmt.Errorf("two accounts are called %q; give each its own name", account.Name))
		}
		names[account.Name] = true
		if err := account.resolve(a); err != nil {
			wrong.Add(fmt.Errorf("account %q: %w", account.Name, err))
		}
	}
	if len(wrong) > 0 {
		return wrong
	}
	return nil
}

func (a *App) openStore(ctx caddy.Context) error {
	if a.StoreRaw == nil {
		a.StoreRaw = json.RawMessage(`{"store":"memory"}`)
	}
	module, err := ctx.LoadModule(a, "StoreRaw")
	if err != nil {
		return err
	}
	opener, ok := module.(Store)
	if !ok {
		return fmt.Errorf("expected a module that opens a store, found %T", module)
	}
	a.storeName = module.(caddy.Module).CaddyModule().ID.Name()
	a.store, a.storeID, err = opener.Open()
	return err
}

// Start makes this configuration the one that the accounts' shared state works for,
// watches the files, and starts the background work. Tokens are fetched when first
// needed.
func (a *App) Start() error {
	storeLog.Use(a.log)
	a.warnOfVariables()
	if err := a.checkAccess(); err != nil {
		return fmt.Errorf("doku: %w", err)
	}
	for _, part := range a.parts {
		if err := part.Start(a.metrics); err != nil {
			return fmt.Errorf("doku: %w", err)
		}
	}
	for _, account := range a.Accounts {
		if err := account.start(a); err != nil {
			return fmt.Errorf("doku: account %q: %w", account.Name, err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	a.stop, a.watched, a.background = stop, make(chan struct{}), new(sync.WaitGroup)
	go a.watch(ctx)
	a.background.Go(func() {
		if !a.awaitUse(ctx) {
			return
		}
		for _, part := range a.parts {
			a.background.Go(func() { part.Run(ctx) })
		}
	})
	return nil
}

// useInterval is the time between two looks whether a started configuration is in use.
const useInterval = 20 * time.Millisecond

// awaitUse waits until this configuration is the one in use. Caddy may refuse it even
// after this app has started; until then it must deliver nothing.
func (a *App) awaitUse(ctx context.Context) bool {
	tick := time.NewTicker(useInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
			if used, err := Find(caddy.ActiveContext()); err == nil && used == a {
				return true
			}
		}
	}
}

// watch loads changed files of keys and secrets. It polls, which works on every file
// system and with symbolic links that are replaced.
func (a *App) watch(ctx context.Context) {
	defer close(a.watched)
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			for _, account := range a.Accounts {
				account.reload(ctx, a.log)
			}
		}
	}
}

// Stop ends the background work and this configuration's use of the accounts' shared
// state. If a file system does not answer, the watch over files ends when it does, and
// loads nothing any more.
func (a *App) Stop() error {
	if a.stop != nil {
		a.stop()
		a.background.Wait()
		select {
		case <-a.watched:
		case <-time.After(watchTimeout):
			a.log.Warn("a file of keys or secrets cannot be read to its end; is its file system there?")
		}
	}
	var errs []error
	for _, account := range a.Accounts {
		errs = append(errs, account.stop())
	}
	return errors.Join(errs...)
}

// Cleanup releases what this configuration shares with the next one. Caddy cleans up a
// configuration that could not start as a whole without stopping it.
func (a *App) Cleanup() error {
	errs := []error{a.Stop()}
	for _, account := range a.Accounts {
		if account.links != nil { // otherwise it could not be provisioned
			account.links.Close()
		}
	}
	errs = append(errs, a.references.Release())
	for _, part := range a.parts {
		errs = append(errs, part.Close())
	}
	return errors.Join(errs...)
}

// Lenient reports whether calls go on without the store while it is away.
func (a *App) Lenient() bool { return a.OnStoreError == storeErrorContinue }

// Store returns the store of the configuration.
func (a *App) Store() store.Store { return a.store }

// StoreID returns a text that is the same for the same store and for no other.
func (a *App) StoreID() string { return a.storeID }

// StoreName returns the name of the store's module, such as "redis".
func (a *App) StoreName() string { return a.storeName }

// Log returns the log of the configuration.
func (a *App) Log() *slog.Logger { return a.log }

// Scope returns an account's scope in the store, or nil if there is no such account.
func (a *App) Scope(account string) *store.Scoped {
	if found := a.named(account); found != nil {
		return found.scope
	}
	return nil
}

// TracerProvider returns the provider for an account's spans that no request begins.
func (a *App) TracerProvider(account string) trace.TracerProvider {
	if found := a.named(account); found != nil {
		return found.Provider().Get()
	}
	return noop.NewTracerProvider()
}

// Account returns the account called name, or the only one if name is empty.
func (a *App) Account(name string) (*Account, error) {
	if name == "" {
		if len(a.Accounts) == 1 {
			return a.Accounts[0], nil
		}
		return nil, fmt.Errorf("there are %d accounts; write `account <name>` to say which one", len(a.Accounts))
	}
	if account := a.named(name); account != nil {
		return account, nil
	}
	names := make([]string, len(a.Accounts))
	for i, account := range a.Accounts {
		names[i] = account.Name
	}
	return nil, fmt.Errorf("no account is called %.60q; the accounts are: %s", name, strings.Join(names, ", "))
}

// named returns the account called name, or nil.
func (a *App) named(name string) *Account {
	for _, account := range a.Accounts {
		if account.Name == name {
			return account
		}
	}
	return nil
}

// Find returns the app of the configuration that ctx belongs to.
func Find(ctx caddy.Context) (*App, error) {
	app, err := ctx.AppIfConfigured("doku")
	switch {
	case errors.Is(err, caddy.ErrNotConfigured):
		return nil, errors.New("the global option `doku { … }` with an account is needed")
	case err != nil:
		return nil, err
	}
	return app.(*App), nil
}

var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
