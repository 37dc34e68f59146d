package inboxes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/contrib/propagators/autoprop"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/inbound"
	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
)

func init() {
	doku.RegisterPart(func(app *doku.App) doku.Part { return &instances{app: app} })
}

// instances are the inboxes of a configuration. The handlers enrol them.
type instances struct {
	app *doku.App
	all []*instance
}

// enrol makes the inbox of a handler, or returns that of another one with its name.
func (is *instances) enrol(i *Inbox, settings []byte) (*instance, error) {
	for _, other := range is.all {
		switch {
		case other.name == i.Name && bytes.Equal(other.settings, settings):
			return other, nil
		case other.name == i.Name:
			return nil, fmt.Errorf("doku_inbox: two inboxes are called %q and have different settings; write `name <name>` in one of them", i.Name)
		case other.handler.Folder == i.Folder && other.handler.MaxSize != i.MaxSize:
			return nil, fmt.Errorf("doku_inbox: the inboxes %q and %q are in the same folder, but differ in max_size", other.name, i.Name)
		}
	}
	b := &instance{
		name: i.Name, place: placeOf(i.Folder, is.app.StoreID()), settings: settings, handler: i, instances: is, app: is.app,
		traces: autoprop.NewTextMapPropagator(),
	}
	b.open = sync.OnceValues(b.openOnce)
	b.kept = sync.OnceValue(func() inbound.Kept { return inbound.KeptAt(i.server, i) })
	is.all = append(is.all, b)
	for _, account := range is.app.Accounts {
		account.AddCheck(doku.CheckInbox, b)
	}
	return b, nil
}

// Start opens the inboxes. It implements [doku.Part].
func (is *instances) Start(metrics prometheus.Registerer) error {
	for _, b := range is.all {
		if _, err := b.open(); err != nil {
			return fmt.Errorf("inbox %q: %w", b.name, err)
		}
		b.countFromZero()
	}
	if err := metrics.Register(gauges{is}); err != nil { // now that all inboxes are there
		return fmt.Errorf("registering metrics: %w", err)
	}
	return nil
}

// Run delivers from all inboxes. It implements [doku.Part].
func (is *instances) Run(ctx context.Context) {
	is.warnOfUnused()
	var wg sync.WaitGroup
	for _, b := range is.all {
		wg.Go(func() { b.run(ctx) })
	}
	wg.Wait()
}

// Close releases the inboxes. It implements [doku.Part].
func (is *instances) Close() error {
	var errs []error
	for _, b := range is.all {
		errs = append(errs, b.references.Release())
	}
	return errors.Join(errs...)
}

// defaultFolder returns where an inbox is if no folder is given.
func defaultFolder() string { return filepath.Join(caddy.AppDataDir(), "doku", "inbox") }

// warnOfUnused warns of the default inbox if an earlier configuration used it and this
// one does not.
func (is *instances) warnOfUnused() {
	folder := defaultFolder()
	if slices.ContainsFunc(is.all, func(b *instance) bool { return b.handler.Folder == folder }) {
		return
	}
	if _, err := os.Stat(filepath.Join(folder, callstore.BoltFile)); err == nil {
		is.app.Log().Warn(
			"there is an inbox that this configuration does not use, and its notifications are not delivered; use it with `folder`, or remove it if it is empty",
			"folder", folder)
	}
}
