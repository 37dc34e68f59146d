package doku

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/pool"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/internal/tokens"
	"github.com/caddy-doku/caddy-doku/signer"
)

// runtime is the part of an account that outlives a reload.
type runtime struct {
	tokens *tokens.Source
	clock  *tokens.Clock
	shared *store.Scoped // where sidecars share the token, or nil
	log    *telemetry.CurrentLog
	name   atomic.Pointer[string] // of the account that uses it

	references pool.References
	provider   telemetry.LastProvider
	fetch      atomic.Pointer[fetchTrace] // the last one

	mu    sync.Mutex
	users []user // that have started and not stopped, in this order
}

// user is an account of a started configuration.
type user struct {
	account *Account
	app     *App
}

// enter adds an account that starts.
func (rt *runtime) enter(a *Account, app *App) error {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.users = append(rt.users, user{a, app})
	return rt.follow()
}

// leave removes an account that stops, if it has started.
func (rt *runtime) leave(a *Account) error {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.users = slices.DeleteFunc(rt.users, func(u user) bool { return u.account == a })
	return rt.follow()
}

// renew applies changed credentials.
func (rt *runtime) renew() error {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	return rt.follow()
}

// follow applies the settings of the latest user. When a configuration fails to start
// as a whole, that is the one before it again. rt.mu is held.
func (rt *runtime) follow() error {
	if len(rt.users) == 0 {
		return nil
	}
	latest := rt.users[len(rt.users)-1]
	rt.log.Use(latest.app.log)
	rt.name.Store(&latest.account.Name)
	rt.clock.SetCorrect(latest.app.ClockCorrection)
	c := latest.account.Credentials()
	rt.tokens.SetKey(c.privateKey)
	if rt.shared == nil {
		return nil
	}
	return rt.shared.SetSecrets(c.secretBytes()...)
}

// Destruct implements [caddy.Destructor].
func (rt *runtime) Destruct() error {
	rt.tokens.Close()
	return rt.references.Release()
}

// acquireRuntime takes a reference to the runtime of this client id, key and store, or
// creates it.
func (a *Account) acquireRuntime(app *App, c *Credentials) error {
	key := sha256.Sum256(
		fmt.Appendf(nil, "%q %q %q %q", app.storeID, a.base.String(), a.clientID, signer.Fingerprint(&c.privateKey.PublicKey)),
	)
	var err error
	a.runtime, err = pool.Acquire(&app.references, "session/"+hex.EncodeToString(key[:]),
		func() (*runtime, error) { return a.newRuntime(app, c) })
	return err
}

func (a *Account) newRuntime(app *App, c *Credentials) (_ *runtime, err error) {
	rt := &runtime{log: new(telemetry.CurrentLog)}
	rt.name.Store(&a.Name)
	defer func() {
		if err != nil {
			_ = rt.references.Release() // the error at hand says more
		}
	}()
	// The runtime may outlive the configuration that has opened the store.
	if err = rt.references.Retain(app.storeID); err != nil {
		return nil, err
	}
	log := slog.New(rt.log)
	started := time.Now()
	rt.clock = &tokens.Clock{Now: time.Now, Elapsed: func() time.Duration { return time.Since(started) }, Logger: log}
	var sharedWith store.Store
	if a.sealed {
		rt.shared = store.Scope(app.store, a.clientID+"@"+a.base.Host)
		if err = rt.shared.SetSecrets(c.secretBytes()...); err != nil {
			return nil, err
		}
		sharedWith = countingStore{rt.shared}
	}
	rt.tokens, err = tokens.New(tokens.Config{
		BaseURL:   a.base.String(),
		ClientID:  a.clientID,
		Key:       c.privateKey,
		Store:     sharedWith,
		Transport: tracedTransport{http.DefaultTransport.(*http.Transport)},
		Clock:     rt.clock,
		Logger:    log,
		Around:    rt.aroundFetch,
	})
	if err != nil {
		return nil, err
	}
	return rt, nil
}
