package caddymodule

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-doku/caddy-doku/internal/inbox"
	"github.com/caddy-doku/caddy-doku/internal/ledger"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
)

func init() {
	caddy.RegisterModule(Inbox{})
}

// Inbox hands what `doku_verify` has verified to the app, as `reverse_proxy` would,
// and keeps payment notifications (services 25 and 56) that the app does not take,
// to hand them over again until it does. DOKU itself tries again only after 30
// minutes, 6 hours and 12 hours, and then never. Inquiries (service 24) are passed
// on and never kept: they need the app's answer.
//
// With the policy `after_app`, the app's answer is DOKU's. While the app is down,
// or answers 5xx, 408, 425 or 429, the sidecar tries again within `answer_within`;
// then DOKU gets a 5xx, and the notification is kept and handed over without
// waiting for DOKU. When DOKU's own retry comes and the app has taken the
// notification meanwhile, DOKU gets the app's answer, and the app is not called.
//
// With the policy `durable`, a notification is kept first; DOKU gets its 2xx at
// once, and the app gets the notification from the sidecar. Use it if the app may
// take longer than DOKU waits. The app's answer no longer reaches DOKU: whatever is
// not 2xx is tried again.
//
// A kept notification is tried again after 1 s, 2 s, 5 s, 10 s, 30 s, 1 min, 2 min,
// and then every 5 min; at once when the app has taken another one. Those of one
// virtual account are handed over in the order in which they came to this sidecar.
// After
// `give_up_after` a notification is dead: it stays, and is delivered only by
// `caddy-doku doku inbox retry`; a log line, the event `doku_call_dead` and the
// metric `caddy_doku_inbox_calls` tell of it.
//
// The app gets the same body and headers each time, and `Doku-Delivery-Attempt`,
// which counts from 1. It is called again after its 2xx only if the sidecar dies
// between the answer and the record of it, with the same `Idempotency-Key`.
type Inbox struct {
	// `after_app` (the default) or `durable`.
	Policy string `json:"policy,omitempty"`

	// What the inbox is called in the commands and metrics, and in its store.
	// Default: `default`. Handlers with the same name must have the same settings.
	Name string `json:"name,omitempty"`

	// The folder of its own in which notifications are kept. Default: `doku/inbox`
	// in Caddy's data directory, or, if the store of the app `doku` is `redis`, no
	// folder but Redis, so that several sidecars share the work.
	Folder string `json:"folder,omitempty"`

	// The largest size of the file in the folder, in bytes; when it is full, it is as
	// if the disk was, but what makes room in it may go beyond. A change counts after
	// a restart. Default: unlimited.
	MaxSize int64 `json:"max_size,omitempty"`

	// How long the app and the tries at it may take while DOKU waits. The timeout of
	// `doku_verify` holds, too. Default: `20s`.
	AnswerWithin caddy.Duration `json:"answer_within,omitempty"`

	// How long the app may take to answer a try. Default: `30s`.
	AttemptTimeout caddy.Duration `json:"attempt_timeout,omitempty"`

	// For how long a notification is tried, 30 days at most. Default: `72h`.
	GiveUpAfter caddy.Duration `json:"give_up_after,omitempty"`

	// How many notifications are handed over at once, of different virtual
	// accounts. Default: 16.
	Concurrency int `json:"concurrency,omitempty"`

	// The handlers that bring a call to the app, such as a `reverse_proxy`.
	Deliver *caddyhttp.Subroute `json:"deliver,omitempty"`

	app    *App
	guard  guard
	server *caddyhttp.Server
	box    *box
}

// The policies.
const (
	policyAfterApp = "after_app"
	policyDurable  = "durable"
)

const (
	defaultAttemptTimeout = 30 * time.Second
	defaultGiveUpAfter    = 72 * time.Hour
	longestGiveUpAfter    = 30 * 24 * time.Hour
	defaultConcurrency    = 16
	largestConcurrency    = 1000
)

var inboxName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// CaddyModule returns the Caddy module information.
func (Inbox) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.doku_inbox", New: func() caddy.Module { return new(Inbox) }}
}

// Provision sets the defaults and enrols the inbox with the app.
func (i *Inbox) Provision(ctx caddy.Context) error {
	var err error
	if i.app, err = findApp(ctx); err != nil {
		return err
	}
	if i.guard, err = newGuard(ctx); err != nil {
		return err
	}
	var served bool
	if i.server, served = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); !served {
		return errors.New("doku_inbox: expected to be a handler of an HTTP server")
	}
	if i.Policy == "" {
		i.Policy = policyAfterApp
	}
	if i.Name == "" {
		i.Name = "default"
	}
	if i.AnswerWithin == 0 {
		i.AnswerWithin = caddy.Duration(defaultAppTimeout)
	}
	if i.AttemptTimeout == 0 {
		i.AttemptTimeout = caddy.Duration(defaultAttemptTimeout)
	}
	if i.GiveUpAfter == 0 {
		i.GiveUpAfter = caddy.Duration(defaultGiveUpAfter)
	}
	if i.Concurrency == 0 {
		i.Concurrency = defaultConcurrency
	}
	if _, remote := i.app.store.(*store.Redis); i.Folder == "" && !remote {
		i.Folder = defaultFolder()
	}
	if i.Folder != "" {
		if i.Folder, err = resolve(caddy.NewReplacer(), "folder", i.Folder); err != nil {
			return err
		}
		if i.Folder, err = filepath.Abs(i.Folder); err != nil {
			return fmt.Errorf("folder: %w", err)
		}
	}
	settings, err := json.Marshal(i) // before the handlers in it change
	if err != nil {
		return err
	}
	if i.Deliver == nil {
		return errors.New("doku_inbox: expected the app's address, such as 127.0.0.1:3000, or a block `deliver` with a reverse_proxy")
	}
	if err := i.Deliver.Provision(ctx); err != nil {
		return fmt.Errorf("deliver: %w", err)
	}
	i.box, err = i.app.enrol(i, settings)
	return err
}

// Validate checks the options.
func (i *Inbox) Validate() error {
	if i.Policy != policyAfterApp && i.Policy != policyDurable {
		return fmt.Errorf("policy: expected after_app or durable, found %q", i.Policy)
	}
	if !inboxName.MatchString(i.Name) {
		return fmt.Errorf("name: expected at most 64 letters, digits, - and _, found %q", i.Name)
	}
	if i.MaxSize < 0 || i.AnswerWithin < 0 || i.AttemptTimeout < 0 || i.GiveUpAfter < 0 {
		return errors.New("max_size, answer_within, attempt_timeout and give_up_after must be positive")
	}
	if i.Concurrency < 0 || i.Concurrency > largestConcurrency {
		return fmt.Errorf("concurrency: expected a number from 1 to %d, found %d", largestConcurrency, i.Concurrency)
	}
	if time.Duration(i.GiveUpAfter) > longestGiveUpAfter {
		return fmt.Errorf("give_up_after: expected %d days at most, found %s", longestGiveUpAfter/(24*time.Hour), time.Duration(i.GiveUpAfter))
	}
	return nil
}

// inboundKey is where a request has the [inbound] that it is.
type inboundKey struct{}

// errUnverified is the error of a call that doku_verify has not seen.
var errUnverified = errors.New("doku_inbox: a call arrived that doku_verify has not seen: expected doku_verify before doku_inbox, for the same path")

// ServeHTTP hands a call to the app, or keeps it.
func (i *Inbox) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	in, found := r.Context().Value(inboundKey{}).(*inbound)
	switch {
	case !found:
		i.guard.log.ErrorContext(r.Context(), "a call is refused", "error", errUnverified, "path", r.URL.Path)
		return caddyhttp.Error(http.StatusInternalServerError, errUnverified)
	case !in.trusted || !in.service.Notification():
		return i.Deliver.ServeHTTP(w, r, next)
	}
	in.boxed = i.Policy
	opened, err := i.box.open()
	if err != nil {
		return err
	}
	defer i.box.hold()()
	inboxed(r.Context())
	c := i.call(in, r)
	if i.Policy == policyDurable {
		if err := opened.Accept(r.Context(), c); err != nil {
			return err
		}
		return replay(w, acknowledgement(c))
	}
	answer, err := opened.Pass(r.Context(), c)
	if err != nil {
		return err
	}
	return replay(w, &answer)
}

// call returns what is kept of a request.
func (i *Inbox) call(in *inbound, r *http.Request) inbox.Call {
	h := r.Header.Clone()
	for _, name := range append(i.box.traces.Fields(), headerAttempt) {
		h.Del(name)
	}
	return inbox.Call{
		Key: in.id.Key(), Box: i.Name, Account: in.account.Name, Lane: laneOf(in.id, in.body),
		Service: in.service, ExternalID: in.id.ExternalID, PaymentID: in.id.PaymentID,
		Host: r.Host, Target: r.URL.RequestURI(), Header: h, Remote: r.RemoteAddr, TLS: r.TLS != nil, Body: in.body,
		Received: time.Now(), Trace: traceOf(r.Context()),
	}
}

// acknowledgement returns the answer that accepts a call.
func acknowledgement(c inbox.Call) *store.Answer {
	return &store.Answer{
		Status: http.StatusOK,
		Header: http.Header{"Content-Type": {"application/json"}},
		Body:   snap.Acknowledge(c.Service, c.Body),
	}
}

// laneOf returns what the order of a notification is kept within: its virtual
// account, or the transaction that it tells of.
func laneOf(id ledger.Identity, body []byte) string {
	canonical, _, err := snap.AppendCanonical(memory(len(body)), body)
	defer recycle(canonical)
	subject := ""
	switch {
	case err != nil: // not of what was verified
	case id.Service == snap.ServiceVAPayment:
		subject = snap.StringField(canonical, "virtualAccountNo")
	case id.Service == snap.ServiceDebitNotify:
		subject = snap.StringField(canonical, "originalExternalId")
	}
	if subject == "" {
		return id.Account + "/" + id.Key()
	}
	sum := sha256.Sum256([]byte(string(id.Service) + "\x00" + subject))
	return id.Account + "/" + hex.EncodeToString(sum[:16])
}

// inboxRefusal returns the refusal that an error of an inbox is, if it is one.
func inboxRefusal(err error) (why refusal, ok bool) {
	switch {
	case errors.Is(err, inbox.ErrKept):
		return refusal{snap.ExternalError, "kept", err}, true
	case errors.Is(err, inbox.ErrLost):
		return refusal{snap.ExternalError, "not_kept", err}, true
	case errors.Is(err, inbox.ErrStore):
		return refusal{snap.GeneralError, "inbox", err}, true
	}
	return refusal{}, false
}

var (
	_ caddy.Provisioner           = (*Inbox)(nil)
	_ caddy.Validator             = (*Inbox)(nil)
	_ caddyhttp.MiddlewareHandler = (*Inbox)(nil)
)
