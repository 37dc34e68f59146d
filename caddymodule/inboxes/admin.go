package inboxes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/adminapi"
	"github.com/caddy-doku/caddy-doku/internal/inbox"
	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
)

func init() {
	caddy.RegisterModule(InboxAdmin{})
	adminapi.Register(inboxHandlers)
}

// InboxAdmin shows the inboxes in Caddy's admin API, and works on them:
//
// | request | |
// |---|---|
// | `GET /doku/inbox` | the inboxes, and how much each keeps |
// | `GET /doku/inbox/<name>` | its notifications, 1000 at once, or `?limit=<n>`; the header `Link` has the URL of the next ones. With `?bodies=true` it includes the bodies |
// | `GET /doku/inbox/<name>/<key>` | one of them with its body |
// | `POST /doku/inbox/<name>/<key>/retry` | delivers it to the app now, even if it is dead |
// | `DELETE /doku/inbox/<name>/<key>` | removes it: the app will not get it |
//
// Anybody who reaches the admin API can read what customers have paid.
type InboxAdmin struct{}

// CaddyModule returns the Caddy module information.
func (InboxAdmin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.doku_inbox", New: func() caddy.Module { return new(InboxAdmin) }}
}

var inboxHandlers = adminapi.Handlers{
	"GET /doku/inbox":                    listInboxes,
	"GET /doku/inbox/{box}":              listCalls,
	"GET /doku/inbox/{box}/{key}":        showCall,
	"POST /doku/inbox/{box}/{key}/retry": retryCall,
	"DELETE /doku/inbox/{box}/{key}":     dropCall,
}

// Routes returns the routes.
func (InboxAdmin) Routes() []caddy.AdminRoute { return inboxHandlers.Routes() }

// callState is a notification in the admin API.
type callState struct {
	callstore.Call
	Body string `json:"body"`
}

const (
	defaultLimit = 1000
	maxLimit     = 10_000
)

func listInboxes(w http.ResponseWriter, r *http.Request) error {
	all, err := runningInboxes()
	if err != nil {
		return err
	}
	states := make([]adminapi.InboxState, 0, len(all))
	for _, b := range all {
		states = append(states, b.state(r.Context(), b.name))
	}
	for _, b := range all {
		for _, name := range b.orphans(r.Context()) {
			if !slices.ContainsFunc(states, func(s adminapi.InboxState) bool { return s.Name == name && s.Orphan }) {
				state := b.state(r.Context(), name)
				state.Policy, state.Orphan = "", true
				states = append(states, state)
			}
		}
	}
	return adminapi.Write(w, states)
}

// state returns the state of the inbox, or of another one called name in the same place.
func (b *instance) state(ctx context.Context, name string) adminapi.InboxState {
	s := adminapi.InboxState{Name: name, Policy: b.handler.Policy, KeptIn: b.handler.Folder}
	if s.KeptIn == "" {
		s.KeptIn = "redis"
	}
	if _, err := b.open(); err != nil {
		s.Error = err.Error()
		return s
	}
	figures, err := b.calls.Stats(ctx, name)
	if err != nil {
		s.Error = err.Error()
		return s
	}
	s.Waiting, s.Dead = figures.Waiting, figures.Dead
	if name == b.name {
		refused, notKept, since := b.recent().lastHour()
		s.Recent = &adminapi.InboxRecent{Since: since, Refused: refused, NotKept: notKept}
	}
	if !figures.Oldest.IsZero() {
		s.Oldest = &figures.Oldest
	}
	return s
}

func listCalls(w http.ResponseWriter, r *http.Request) error {
	opened, err := runningInbox(r)
	if err != nil {
		return err
	}
	limit, query := defaultLimit, r.URL.Query()
	if text := query.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > maxLimit {
			return adminapi.Error(http.StatusBadRequest, fmt.Errorf("limit: expected a number from 1 to %d, found %q", maxLimit, text))
		}
	}
	calls, next, err := opened.List(r.Context(), query.Get("after"), limit)
	switch {
	case errors.Is(err, callstore.ErrPosition):
		return adminapi.Error(http.StatusBadRequest, fmt.Errorf("after: %w", err))
	case err != nil:
		return adminapi.Error(http.StatusServiceUnavailable, err)
	}
	if next != "" {
		query.Set("after", next)
		w.Header().Set("Link", "<"+r.URL.Path+"?"+query.Encode()+`>; rel="next"`)
	}
	if query.Get("bodies") == "true" {
		whole := make([]callState, 0, len(calls))
		for _, c := range calls {
			switch found, err := opened.Get(r.Context(), c.Key); {
			case errors.Is(err, callstore.ErrUnreadable): // it must not hide the others
				c.Error = cmp.Or(c.Error, err.Error())
				whole = append(whole, callState{Call: c})
			case err != nil:
				return adminapi.Error(http.StatusServiceUnavailable, err)
			case found != nil: // it has not been taken meanwhile
				whole = append(whole, callState{*found, string(found.Body)})
			}
		}
		return adminapi.Write(w, whole)
	}
	if calls == nil {
		calls = []callstore.Call{} // an empty list in JSON, too
	}
	return adminapi.Write(w, calls)
}

func showCall(w http.ResponseWriter, r *http.Request) error {
	opened, err := runningInbox(r)
	if err != nil {
		return err
	}
	c, err := opened.Get(r.Context(), r.PathValue("key"))
	if err != nil {
		return adminapi.Error(http.StatusServiceUnavailable, err)
	}
	if c == nil {
		return notKept(r)
	}
	return adminapi.Write(w, callState{*c, string(c.Body)})
}

func retryCall(w http.ResponseWriter, r *http.Request) error {
	opened, err := runningInbox(r)
	if err != nil {
		return err
	}
	return done(w, r)(opened.Retry(r.Context(), r.PathValue("key")))
}

func dropCall(w http.ResponseWriter, r *http.Request) error {
	opened, err := runningInbox(r)
	if err != nil {
		return err
	}
	return done(w, r)(opened.Drop(r.Context(), r.PathValue("key")))
}

// done answers a request that changes a kept notification.
func done(w http.ResponseWriter, r *http.Request) func(found bool, err error) error {
	return func(found bool, err error) error {
		switch {
		case err != nil:
			return adminapi.Error(http.StatusServiceUnavailable, err)
		case !found:
			return notKept(r)
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
}

// runningInboxes returns the inboxes of the configuration in use.
func runningInboxes() ([]*instance, error) {
	app, err := doku.Find(caddy.ActiveContext())
	if err != nil {
		return nil, adminapi.Error(http.StatusNotFound, err)
	}
	return doku.PartOf[*instances](app).all, nil
}

// runningInbox returns the inbox that a request names.
func runningInbox(r *http.Request) (*inbox.Inbox, error) {
	all, err := runningInboxes()
	if err != nil {
		return nil, err
	}
	names := make([]string, len(all))
	for n, b := range all {
		if names[n] = b.name; b.name == r.PathValue("box") {
			opened, err := b.open()
			if err != nil {
				return nil, adminapi.Error(http.StatusServiceUnavailable, err)
			}
			return opened, nil
		}
	}
	return nil, adminapi.Error(http.StatusNotFound, fmt.Errorf("no inbox is called %q; the inboxes are: %q", r.PathValue("box"), names))
}

func notKept(r *http.Request) error {
	return adminapi.Error(
		http.StatusNotFound,
		fmt.Errorf("the inbox %q keeps no notification with the key %q; the app may have taken it", r.PathValue("box"), r.PathValue("key")),
	)
}

var _ caddy.AdminRouter = InboxAdmin{}
