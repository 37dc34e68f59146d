// Package caddymodule makes the signer and the verifier usable from Caddy: the
// app "doku" holds the accounts, doku_sign and the transport "doku" sign calls to
// DOKU, doku_token and doku_verify guard the merchant's app against calls that
// are not DOKU's. It is the only package of this module that knows Caddy.
package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

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
// when the configuration loads. Use them for secrets: what is written out stands
// in the configuration for everybody who may read it.
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

	// What becomes of a call that needs the store while the store is away:
	// `refuse` (the default) answers DOKU's calls with 500, so that DOKU tries
	// again, and the app's calls that have an idempotency key with 503; `continue`
	// carries them out, without protection against repeats.
	OnStoreError string `json:"on_store_error,omitempty"`

	// Whether X-TIMESTAMP is corrected by the difference between this machine's
	// clock and DOKU's, by 5 minutes at the most. DOKU's calls are judged by this
	// machine's clock in any case. Default: false.
	ClockCorrection bool `json:"clock_correction,omitempty"`

	store     store.Store
	storeID   string
	storeName string // such as "redis"
	held      shares
	log       *slog.Logger

	boxes   []*box // enrolled by the handlers doku_inbox
	metrics *prometheus.Registry

	stop       context.CancelFunc // of what goes on in the background
	watched    chan struct{}      // closed when the watch over files has ended
	delivering *sync.WaitGroup    // the inboxes
}

// The ways to go on without the store.
const (
	storeErrorRefuse   = "refuse"
	storeErrorContinue = "continue"
)

const (
	watchEvery = 2 * time.Second // how often files of keys and secrets are looked at
	watchEnds  = 2 * time.Second // for how long Stop waits for a look that is under way
)

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "doku", New: func() caddy.Module { return new(App) }}
}

// Provision reads keys and secrets and prepares the accounts.
func (a *App) Provision(ctx caddy.Context) error {
	a.log = slog.New(tracedHandler{ctx.Slogger().Handler()})
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
	if err := a.openStore(ctx); err != nil {
		return fmt.Errorf("doku: store: %w", err)
	}
	names := make(map[string]bool, len(a.Accounts))
	for _, account := range a.Accounts {
		if account.Name == "" {
			account.Name = "default"
		}
		if names[account.Name] {
			return fmt.Errorf("doku: two accounts are called %q; give each its own name", account.Name)
		}
		names[account.Name] = true
		if err := account.provision(a); err != nil {
			return fmt.Errorf("doku: account %q: %w", account.Name, err)
		}
	}
	a.metrics = ctx.GetMetricsRegistry()
	return registerMetrics(a.metrics, a)
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

// Start has the accounts work for this configuration, watches their files, and
// delivers what the inboxes keep. Tokens are fetched when first needed.
func (a *App) Start() error {
	for _, b := range a.boxes {
		if _, err := b.open(); err != nil {
			return fmt.Errorf("doku: inbox %q: %w", b.name, err)
		}
		b.countFromZero()
	}
	if err := a.metrics.Register(boxFigures{a}); err != nil { // not before all boxes are there
		return fmt.Errorf("doku: registering metrics: %w", err)
	}
	for _, account := range a.Accounts {
		if err := account.start(a); err != nil {
			return fmt.Errorf("doku: account %q: %w", account.Name, err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	a.stop, a.watched, a.delivering = stop, make(chan struct{}), new(sync.WaitGroup)
	go a.watch(ctx)
	a.delivering.Go(func() {
		if a.awaitUse(ctx) {
			a.warnOfUnused()
			for _, b := range a.boxes {
				a.delivering.Go(func() { b.run(ctx) })
			}
		}
	})
	return nil
}

// useEvery is how often a configuration that has started looks whether it is used.
const useEvery = 20 * time.Millisecond

// awaitUse waits until this configuration is the one in use. Caddy may refuse it even
// after this app has started; until then it must hand nothing over.
func (a *App) awaitUse(ctx context.Context) bool {
	tick := time.NewTicker(useEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
			if used, err := findApp(caddy.ActiveContext()); err == nil && used == a {
				return true
			}
		}
	}
}

// watch takes up changed files of keys and secrets. It looks at them rather than
// being told, which works on every file system and with links that are replaced.
func (a *App) watch(ctx context.Context) {
	defer close(a.watched)
	tick := time.NewTicker(watchEvery)
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

// Stop ends what goes on in the background, and has the accounts no longer work for
// this configuration. If a file system does not answer, the watch over files ends
// when it does, and takes up nothing any more.
func (a *App) Stop() error {
	if a.stop != nil {
		a.stop()
		a.delivering.Wait()
		select {
		case <-a.watched:
		case <-time.After(watchEnds):
			a.log.Warn("a file of keys or secrets cannot be read to its end; is its file system there?")
		}
	}
	var errs []error
	for _, account := range a.Accounts {
		errs = append(errs, account.stop())
	}
	return errors.Join(errs...)
}

// Cleanup gives back what this configuration shares with the next one. Caddy cleans
// up without having stopped what it could not start as a whole.
func (a *App) Cleanup() error {
	errs := []error{a.Stop()}
	for _, account := range a.Accounts {
		if account.stories != nil { // otherwise it could not be provisioned
			account.stories.close()
		}
	}
	errs = append(errs, a.held.giveBack())
	for _, b := range a.boxes {
		errs = append(errs, b.held.giveBack())
	}
	return errors.Join(errs...)
}

// account returns the account called name, or the only one if name is empty.
func (a *App) account(name string) (*Account, error) {
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

// findApp returns the app.
func findApp(ctx caddy.Context) (*App, error) {
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
