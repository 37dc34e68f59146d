package caddymodule

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/contrib/propagators/autoprop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/internal/inbox"
	"github.com/caddy-doku/caddy-doku/internal/ledger"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

// box is an inbox of a configuration, with the way to the app.
type box struct {
	name     string
	place    string // that it is kept in; see [placeOf]
	settings []byte // of its handlers, to compare
	handler  *Inbox // the first with its name
	app      *App
	traces   propagation.TextMapPropagator // to the app
	held     shares
	kept     *keeping    // once it is open, as is calls
	calls    inbox.Store // where kept is, as this configuration sees it

	// open opens what the box is kept in, once. That is put off to the start of the
	// configuration, since to check one must neither lock nor make anything.
	open func() (*inbox.Inbox, error)
}

// enrol makes the box of a handler, or finds that of another one with its name.
func (a *App) enrol(i *Inbox, settings []byte) (*box, error) {
	for _, other := range a.boxes {
		switch {
		case other.name == i.Name && bytes.Equal(other.settings, settings):
			return other, nil
		case other.name == i.Name:
			return nil, fmt.Errorf("doku_inbox: two inboxes are called %q and have different settings; write `name <name>` in one of them", i.Name)
		case other.handler.Folder == i.Folder && other.handler.MaxSize != i.MaxSize:
			return nil, fmt.Errorf("doku_inbox: the inboxes %q and %q are in the same folder, but differ in max_size", other.name, i.Name)
		}
	}
	b := &box{name: i.Name, place: placeOf(i.Folder, a.storeID), settings: settings, handler: i, app: a, traces: autoprop.NewTextMapPropagator()}
	b.open = sync.OnceValues(b.begin)
	a.boxes = append(a.boxes, b)
	writable := newCheck(checkInbox, b)
	for _, account := range a.Accounts {
		account.checks = append(account.checks, writable)
	}
	return b, nil
}

// keeping is what boxes are kept in. It outlives reloads, and with it the leases,
// so that the old configuration and the new one do not hand over the same call.
type keeping struct {
	store inbox.Store // nil for Redis, which sees the accounts of a configuration
	lanes *inbox.Lanes
	log   *liveHandler
	close func() error
}

func (k *keeping) Destruct() error { return k.close() }

// begin opens the box.
func (b *box) begin() (*inbox.Inbox, error) {
	kept, err := hold(&b.held, b.place, b.keep)
	if err != nil {
		return nil, err
	}
	b.kept = kept
	if b.calls = kept.store; b.calls == nil {
		b.calls = inbox.NewRedis(b.app.store.(*store.Redis), b.app.scope)
	}
	giveUpAfter := time.Duration(b.handler.GiveUpAfter)
	return inbox.New(inbox.Config{
		Box: b.name, Store: b.calls, Lanes: kept.lanes, Deliver: b.deliver,
		Lenient:      b.app.OnStoreError == storeErrorContinue,
		AnswerWithin: time.Duration(b.handler.AnswerWithin), AttemptTimeout: time.Duration(b.handler.AttemptTimeout),
		GiveUpAfter: giveUpAfter, Remember: giveUpAfter + 48*time.Hour, // DOKU's last try is 18.5 h after its first
		Concurrency: b.handler.Concurrency, Now: time.Now,
		Logger: b.app.log.With("inbox", b.name), Observe: b.observe,
	}), nil
}

// Ready returns nil if the box can keep notifications.
func (b *box) Ready(ctx context.Context) error {
	opened, err := b.open()
	if err != nil {
		return err
	}
	return opened.Ready(ctx, b.app.Accounts[0].Name)
}

// placeOf returns a text that is the same for the same place and for no other.
func placeOf(folder, storeID string) string {
	if folder == "" {
		return "inbox/" + storeID
	}
	return "inbox/folder/" + folder
}

// keep opens what the box is kept in.
func (b *box) keep() (*keeping, error) {
	k := &keeping{log: new(liveHandler)}
	k.log.current.Store(b.app.log)
	if b.handler.Folder == "" {
		var held shares // the lanes may outlive the configuration that has opened the store
		if err := held.join(b.app.storeID); err != nil {
			return nil, err
		}
		k.lanes, k.close = inbox.NewLanes(b.app.store, ledger.DefaultLease), held.giveBack
		return k, nil
	}
	file, err := inbox.OpenBolt(inbox.BoltConfig{
		Folder: b.handler.Folder, MaxSize: int(b.handler.MaxSize), Now: time.Now, Logger: slog.New(k.log),
	})
	if err != nil {
		return nil, err
	}
	memory := store.NewMemory()
	k.store, k.lanes = file, inbox.NewLanes(memory, ledger.DefaultLease)
	k.close = func() error { return errors.Join(file.Close(), memory.Close()) }
	return k, nil
}

// scope returns an account's scope in the store, or nil if there is no such account.
func (a *App) scope(account string) *store.Scoped {
	if found := a.named(account); found != nil {
		return found.scope
	}
	return nil
}

// run delivers what the box keeps, until ctx ends.
func (b *box) run(ctx context.Context) {
	opened, err := b.open()
	if err != nil {
		return // the start of the configuration has told, and failed
	}
	b.kept.log.current.Store(b.app.log)
	b.warnOfOrphans(ctx)
	b.warnOfRedis(ctx)
	opened.Run(ctx)
}

// defaultFolder returns where an inbox is that no folder is given for.
func defaultFolder() string { return filepath.Join(caddy.AppDataDir(), "doku", "inbox") }

// warnOfUnused warns of an inbox that was used by default, and is not any more.
func (a *App) warnOfUnused() {
	folder := defaultFolder()
	if slices.ContainsFunc(a.boxes, func(b *box) bool { return b.handler.Folder == folder }) {
		return
	}
	if _, err := os.Stat(filepath.Join(folder, inbox.BoltFile)); err == nil {
		a.log.Warn("there is an inbox that this configuration does not use: what it keeps is not delivered; use it with `folder`, or remove it if it is empty", "folder", folder)
	}
}

// hold keeps the place of the box open until the function that it returns is
// called: requests may outlive their configuration.
func (b *box) hold() func() {
	var held shares
	if err := held.join(b.place); err != nil {
		return func() {}
	}
	return func() {
		if err := held.giveBack(); err != nil {
			b.app.log.Error("closing an inbox has failed", "inbox", b.name, "error", err)
		}
	}
}

// orphans returns the names of boxes in the same place that keep calls and that
// nobody delivers, such as one whose handler was renamed.
func (b *box) orphans(ctx context.Context) []string {
	if _, err := b.open(); err != nil {
		return nil
	}
	names, err := b.calls.Boxes(ctx)
	if err != nil && ctx.Err() == nil {
		b.app.log.Warn("whether other inboxes keep notifications cannot be told", "inbox", b.name, "error", err)
	}
	return slices.DeleteFunc(names, func(name string) bool {
		return slices.ContainsFunc(b.app.boxes, func(other *box) bool { return other.name == name && other.place == b.place })
	})
}

// warnOfOrphans warns of them.
func (b *box) warnOfOrphans(ctx context.Context) {
	for _, name := range b.orphans(ctx) {
		b.app.log.Warn("an inbox keeps notifications that no doku_inbox of this configuration delivers", "name", name, "beside", b.name)
	}
}

// warnOfRedis warns of a Redis that could lose what DOKU takes for delivered.
func (b *box) warnOfRedis(ctx context.Context) {
	redis, remote := b.calls.(*inbox.Redis)
	if !remote || b.handler.Policy != policyDurable {
		return
	}
	doubts, err := redis.Doubts(ctx)
	if err != nil && ctx.Err() == nil {
		b.app.log.Warn("whether Redis keeps what it has acknowledged cannot be told", "inbox", b.name, "error", err)
	}
	for _, doubt := range doubts {
		b.app.log.Warn("this Redis may lose notifications that DOKU takes for delivered", "inbox", b.name, "because", doubt)
	}
}

// The events of notifications that are kept, or given up.
const (
	eventKept = "doku_call_kept"
	eventDead = "doku_call_dead"
)

// observe counts what happens to kept calls, and tells others of it.
func (b *box) observe(event inbox.Event, c inbox.Call) {
	inboxEvents.WithLabelValues(b.name, string(event)).Inc()
	name := map[inbox.Event]string{inbox.EventKept: eventKept, inbox.EventDead: eventDead}[event]
	if guard := b.handler.guard; name != "" && guard.events.ShouldEmit(name) {
		guard.events.Emit(guard.ctx, name, map[string]any{
			"inbox": b.name, "key": c.Key, "account": c.Account, "service": string(c.Service),
			"external_id": c.ExternalID, "attempts": c.Attempts, "error": c.Error,
		})
	}
}

// deliver hands a call to the app, as if it had just come in.
func (b *box) deliver(ctx context.Context, c inbox.Call) (answer store.Answer, err error) {
	target, err := url.ParseRequestURI(c.Target)
	if err != nil {
		return answer, err
	}
	header := c.Header.Clone()
	header.Set(headerAttempt, strconv.Itoa(c.Attempts))
	r := (&http.Request{
		Method: http.MethodPost, URL: target, RequestURI: c.Target, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Host: c.Host, RemoteAddr: c.Remote, Header: header,
		Body: io.NopCloser(bytes.NewReader(c.Body)), ContentLength: int64(len(c.Body)),
	}).WithContext(ctx)
	if c.TLS {
		r.TLS = &tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13}
	}
	w := &captured{header: make(http.Header), body: new(bytes.Buffer)}
	r, ended := b.startAttempt(r, c)
	defer func() { ended(r, w.status, err) }() // r is by then the one that was served
	defer func() {                             // nobody else is there to keep a worker's panic from ending the process
		if found := recover(); found != nil {
			b.app.log.Error("handing a notification over has panicked", "inbox", b.name, "key", c.Key, "panic", found, "stack", string(debug.Stack()))
			err = errors.New("handing it over has panicked")
		}
	}()
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, b.handler.server)
	nothing := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	began := time.Now()
	err = w.whole(func() error { return b.handler.Deliver.ServeHTTP(w, r, nothing) })
	if err == nil || ctx.Err() != nil {
		observe(trace.SpanFromContext(ctx), appDuration.WithLabelValues(c.Account, string(c.Service)), time.Since(began))
	}
	switch {
	case err != nil:
		return answer, plain(err)
	case w.status == 0:
		return answer, errors.New("no handler answered: expected a reverse_proxy to the app in doku_inbox")
	}
	answer = w.answer()
	maps.DeleteFunc(answer.Header, func(name string, _ []string) bool { return store.Momentary(name) })
	return answer, nil
}
