package inboxes

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/inbound"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/pool"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/inbox"
	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/internal/ledger"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

// instance is an inbox of a configuration, with the way to the app.
type instance struct {
	name      string
	place     string // where it is kept; see [placeOf]
	settings  []byte // of its handlers, to compare
	handler   *Inbox // the first with its name
	instances *instances
	app       *doku.App
	traces    propagation.TextMapPropagator // to the app
	kept      func() inbound.Kept

	references pool.References
	backend    *backend        // once it is open, as is calls
	calls      callstore.Store // of the backend, as this configuration sees it

	// open opens the inbox, once, when the configuration starts. It does not open
	// earlier: checking a configuration must neither lock nor create anything.
	open func() (*inbox.Inbox, error)
}

// backend is the place that keeps the notifications of one or more inboxes. It outlives
// reloads, and so do the leases: the old configuration and the new one do not deliver
// the same call.
type backend struct {
	store   callstore.Store // nil for Redis, which sees the accounts of a configuration
	slots   *inbox.Slots
	recents recents
	log     *telemetry.CurrentLog
	close   func() error
}

// Destruct implements [caddy.Destructor].
func (b *backend) Destruct() error { return b.close() }

// openOnce opens the inbox.
func (b *instance) openOnce() (*inbox.Inbox, error) {
	opened, err := pool.Acquire(&b.references, b.place, b.openBackend)
	if err != nil {
		return nil, err
	}
	b.backend = opened
	if b.calls = opened.store; b.calls == nil {
		names := make([]string, len(b.app.Accounts))
		for i, account := range b.app.Accounts {
			names[i] = account.Name
		}
		b.calls = callstore.NewRedis(b.app.Store().(*store.Redis), b.app.Scope, names...)
	}
	maxAge := time.Duration(b.handler.GiveUpAfter)
	return inbox.New(inbox.Config{
		Name: b.name, Store: b.calls, Slots: opened.slots, Deliver: b.deliver,
		Lenient: b.app.Lenient(), LooseAnswers: b.handler.AppAnswers == inbound.AnswersLoose,
		AnswerWithin: time.Duration(b.handler.AnswerWithin), AttemptTimeout: time.Duration(b.handler.AttemptTimeout),
		MaxAge: maxAge, RetainAcked: maxAge + 48*time.Hour, // DOKU's last try is 18.5 h after its first
		Concurrency: b.handler.Concurrency, Now: time.Now,
		Logger: b.app.Log().With("inbox", b.name), Observe: b.observe,
	}), nil
}

// Ready returns nil if the inbox can keep notifications.
func (b *instance) Ready(ctx context.Context) error {
	opened, err := b.open()
	if err != nil {
		return err
	}
	return opened.Ready(ctx, b.app.Accounts[0].Name)
}

// recent returns the figures of the last hour. The inbox must be open.
func (b *instance) recent() *recent { return b.backend.recents.of(b.name) }

// placeOf returns a text that is the same for the same place and for no other.
func placeOf(folder, storeID string) string {
	if folder == "" {
		return "inbox/" + storeID
	}
	return "inbox/folder/" + folder
}

// openBackend opens the folder, or Redis.
func (b *instance) openBackend() (*backend, error) {
	opened := &backend{log: new(telemetry.CurrentLog)}
	opened.log.Use(b.app.Log())
	if b.handler.Folder == "" {
		var references pool.References // the leases may outlive the configuration that has opened the store
		if err := references.Retain(b.app.StoreID()); err != nil {
			return nil, err
		}
		opened.slots, opened.close = inbox.NewSlots(b.app.Store(), ledger.DefaultLease), references.Release
		return opened, nil
	}
	file, err := callstore.OpenBolt(callstore.BoltConfig{
		Folder: b.handler.Folder, MaxSize: int(b.handler.MaxSize), Now: time.Now, Logger: slog.New(opened.log),
	})
	if err != nil {
		return nil, folderError(b.handler.Folder, err)
	}
	memory := store.NewMemory()
	opened.store, opened.slots = file, inbox.NewSlots(memory, ledger.DefaultLease)
	opened.close = func() error { return errors.Join(file.Close(), memory.Close()) }
	return opened, nil
}

// run delivers the kept notifications until ctx ends.
func (b *instance) run(ctx context.Context) {
	opened, err := b.open()
	if err != nil {
		return // the start of the configuration has failed with it
	}
	b.backend.log.Use(b.app.Log())
	b.findProvider(ctx)
	var warning sync.WaitGroup
	warning.Go(func() { // deliveries do not wait for a Redis that loads its data
		b.warnOfOrphans(ctx)
		b.warnOfRedis(ctx)
	})
	opened.Run(ctx)
	warning.Wait()
}

// findProvider makes the provider of the site's spans known to the accounts. The deliveries
// begin with the start, and no request may have come yet that leads to it.
func (b *instance) findProvider(ctx context.Context) {
	provider := b.kept().TracerProvider(ctx, b.handler.server)
	if provider == nil {
		return
	}
	for _, account := range b.app.Accounts {
		account.Provider().Use(provider)
	}
}

// retain keeps the inbox open until the function that it returns is called: requests
// may outlive their configuration.
func (b *instance) retain() func() {
	var references pool.References
	if err := references.Retain(b.place); err != nil {
		return func() {}
	}
	return func() {
		if err := references.Release(); err != nil {
			b.app.Log().Error("closing an inbox has failed", "inbox", b.name, "error", err)
		}
	}
}

// orphans returns the names of inboxes in the same place that keep notifications but
// have no handler, such as one that was renamed.
func (b *instance) orphans(ctx context.Context) []string {
	if _, err := b.open(); err != nil {
		return nil
	}
	names, err := b.calls.Inboxes(ctx)
	if err != nil && ctx.Err() == nil {
		b.app.Log().Warn("the sidecar cannot tell whether other inboxes keep notifications", "inbox", b.name, "error", err)
	}
	return slices.DeleteFunc(names, func(name string) bool {
		return slices.ContainsFunc(b.instances.all, func(other *instance) bool { return other.name == name && other.place == b.place })
	})
}

// warnOfOrphans warns of them.
func (b *instance) warnOfOrphans(ctx context.Context) {
	for _, name := range b.orphans(ctx) {
		b.app.Log().Warn("an inbox keeps notifications that no doku_inbox of this configuration delivers", "name", name, "beside", b.name)
	}
}

// warnOfRedis warns of a Redis that could lose notifications that DOKU counts as
// delivered.
func (b *instance) warnOfRedis(ctx context.Context) {
	redis, remote := b.calls.(*callstore.Redis)
	if !remote || b.handler.Policy != policyDurable {
		return
	}
	warnings, err := redis.DurabilityWarnings(ctx)
	if err != nil && ctx.Err() == nil {
		b.app.Log().Warn("the sidecar cannot tell whether Redis keeps acknowledged writes", "inbox", b.name, "error", err)
	}
	for _, warning := range warnings {
		b.app.Log().Warn("this Redis may lose notifications that DOKU counts as delivered", "inbox", b.name, "because", warning)
	}
}

// The events of notifications that are kept, or given up.
const (
	eventKept = "doku_call_kept"
	eventDead = "doku_call_dead"
)

// observe counts the events of kept notifications, and emits them.
func (b *instance) observe(event inbox.Event, c callstore.Call) {
	telemetry.InboxEvents.WithLabelValues(b.name, string(event)).Inc()
	name := map[inbox.Event]string{inbox.EventKept: eventKept, inbox.EventDead: eventDead}[event]
	if name == "" {
		return
	}
	b.handler.base.Emit(name, func() map[string]any {
		return map[string]any{
			"inbox": b.name, "key": c.Key, "account": c.Account, "service": string(c.Service),
			"external_id": c.ExternalID, "attempts": c.Attempts, "error": c.Error,
		}
	})
}
