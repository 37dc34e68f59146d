// Package inboxes has the handler doku_inbox, and what belongs to it: delivering from
// the inbox, its part of the admin API, and the command `doku inbox`.
package inboxes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/inbound"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/credential"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/upstream"
	"github.com/caddy-doku/caddy-doku/internal/inbox"
	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
)

func init() {
	caddy.RegisterModule(Inbox{})
}

// Inbox passes calls that `doku_verify` has verified to the app, as `reverse_proxy`
// would. It keeps payment notifications (services 25 and 56) that the app does not
// take, and delivers them again until it does. DOKU itself tries again only after 30
// minutes, 6 hours and 12 hours, and then never. Inquiries (service 24) pass and are
// never kept, because they need the app's answer.
//
// With the policy `after_app`, the app's answer is DOKU's, if it is a yes or a no; see
// `doku_verify`. While the app is down, or answers 5xx, 408, 425 or 429, the sidecar tries
// again within `answer_within`. Then, and after any other answer that decides nothing, DOKU
// gets a 5xx, and the inbox keeps the notification and delivers it without waiting for
// DOKU. If the app has taken it before DOKU's own retry comes, DOKU gets the app's answer,
// and the app is not called.
//
// With the policy `durable`, the inbox keeps a notification first. DOKU gets its 2xx at
// once, and the app gets the notification from the sidecar. Use it if the app may take
// longer than DOKU waits. The app's answer does not reach DOKU: after anything but a yes,
// the inbox tries again.
//
// The inbox tries a kept notification again after 1 s, 2 s, 5 s, 10 s, 30 s, 1 min, 2
// min, and then every 5 min, and at once when the app has taken another one. The app
// gets the notifications of one virtual account in the order in which they came to this
// sidecar. After `give_up_after`, a notification becomes a dead letter: it stays, and
// only `caddy-doku doku inbox retry` delivers it. A log line, the event
// `doku_call_dead` and the metric `caddy_doku_inbox_calls` report it.
//
// After HTTP 2xx that is no yes, such as an empty answer, a page, or one that breaks off, the
// app may have booked the payment. Then the inbox tries again only after 2 s, 1 min, 30 min,
// 6 h and 12 h, whatever `give_up_after` says, and others of the same virtual account do not
// wait for it.
//
// While the app asks for a pause with `Retry-After`, no attempt is made, for 5 min at most.
//
// The app gets the same body and headers each time, and `Doku-Delivery-Attempt`: 1 plus the
// attempts on record. An attempt during which the sidecar dies or stops is not on record,
// nor are those at a notification that does not wait in the inbox when DOKU repeats it. So
// a number, also 1, can come twice; only the `Idempotency-Key` tells a repeat. After its
// yes, the app gets a call again only if the sidecar dies between the answer and the record
// of it, with the same `Idempotency-Key`.
type Inbox struct {
	// `after_app` (the default) or `durable`.
	Policy string `json:"policy,omitempty"`

	// Which answers of the app count as a yes to a notification. `strict` (the default):
	// HTTP 2xx with a 2xx responseCode in a JSON object. `loose`: also HTTP 2xx without a
	// body, or with up to 512 bytes of plain words as text/plain, such as `OK`, for an app
	// that cannot be changed. It is no yes if it speaks of a failure, names a responseCode or
	// the number of an error, or leads to another page.
	AppAnswers string `json:"app_answers,omitempty"`

	// The inbox's name in commands, metrics and store. Default: `default`. Handlers with
	// the same name must have the same settings.
	Name string `json:"name,omitempty"`

	// The folder that keeps the notifications; nothing else may be in it. Default:
	// `doku/inbox` in Caddy's data directory. If the store of the app `doku` is `redis`,
	// the default is Redis, so that several sidecars share the work.
	Folder string `json:"folder,omitempty"`

	// The largest size of the file `inbox.db`, in bytes. A full file is like a full disk.
	// The last eighth of it, or room for three of the largest notification, is for
	// deliveries, which free space. A change applies after a restart. A file that is
	// larger already stays so. Files that were put aside do not count. Default: unlimited.
	MaxSize int64 `json:"max_size,omitempty"`

	// How long all attempts may take while DOKU waits. The timeout of `doku_verify`
	// applies too. Default: `20s`.
	AnswerWithin caddy.Duration `json:"answer_within,omitempty"`

	// How long the app may take to answer one attempt. Default: `30s`.
	AttemptTimeout caddy.Duration `json:"attempt_timeout,omitempty"`

	// How long the inbox tries a notification, 30 days at most. Default: `72h`.
	GiveUpAfter caddy.Duration `json:"give_up_after,omitempty"`

	// How many notifications, of different virtual accounts, the app gets at the same
	// time. Default: 16.
	Concurrency int `json:"concurrency,omitempty"`

	// The handlers that pass a call to the app, such as a `reverse_proxy`.
	Deliver *caddyhttp.Subroute `json:"deliver,omitempty"`

	app      *doku.App
	base     inbound.Base
	server   *caddyhttp.Server
	instance *instance
}

// The values of the option policy.
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
	if i.app, err = doku.Find(ctx); err != nil {
		return err
	}
	if i.base, err = inbound.NewBase(ctx); err != nil {
		return err
	}
	var served bool
	if i.server, served = ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); !served {
		return errors.New("doku_inbox: expected to be a handler of an HTTP server")
	}
	if i.Policy == "" {
		i.Policy = policyAfterApp
	}
	if i.AppAnswers == inbound.AnswersLoose {
		i.base.WarnOfLooseAnswers("doku_inbox")
	}
	if i.Name == "" {
		i.Name = "default"
	}
	if i.AnswerWithin == 0 {
		i.AnswerWithin = caddy.Duration(inbound.DefaultAppTimeout)
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
	if _, remote := i.app.Store().(*store.Redis); i.Folder == "" && !remote {
		i.Folder = defaultFolder()
	}
	if i.Folder != "" {
		if i.Folder, err = credential.Resolve(caddy.NewReplacer(), "folder", i.Folder); err != nil {
			return err
		}
		if i.Folder, err = filepath.Abs(i.Folder); err != nil {
			return fmt.Errorf("folder: %w", err)
		}
		if err := callstore.CheckFolder(i.Folder); err != nil {
			return folderError(i.Folder, err)
		}
	}
	settings, err := json.Marshal(i) // before the handlers in it change
	if err != nil {
		return err
	}
	if i.Deliver == nil {
		return errors.New("doku_inbox: expected the app's address, such as 127.0.0.1:3000, or a block `deliver` with a reverse_proxy")
	}
	if err := upstream.CheckRoutes(i.Deliver.Routes, true); err != nil {
		return fmt.Errorf("doku_inbox: deliver: %w", err)
	}
	if err := i.Deliver.Provision(ctx); err != nil {
		return fmt.Errorf("deliver: %w", err)
	}
	i.instance, err = doku.PartOf[*instances](i.app).enrol(i, settings)
	return err
}

// Validate checks the options.
func (i *Inbox) Validate() error {
	if i.Policy != policyAfterApp && i.Policy != policyDurable {
		return fmt.Errorf("policy: expected after_app or durable, found %q", i.Policy)
	}
	if err := inbound.ValidateAnswers(i.AppAnswers); err != nil {
		return err
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

// errUnverified is the error of a call that doku_verify has not seen.
var errUnverified = errors.New(
	"doku_inbox: a call arrived that doku_verify has not seen: expected doku_verify before doku_inbox, for the same path",
)

// ServeHTTP passes a call to the app, or keeps it.
func (i *Inbox) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	verified, found := inbound.FromContext(r.Context())
	switch {
	case !found:
		i.base.Log.ErrorContext(r.Context(), "a call is refused", "error", errUnverified, "path", r.URL.Path)
		return caddyhttp.Error(http.StatusInternalServerError, errUnverified)
	case !verified.Verified || !verified.Service.Notification():
		return i.Deliver.ServeHTTP(w, r, next)
	}
	opened, err := i.instance.open()
	if err != nil {
		return err
	}
	defer i.instance.retain()()
	c := i.call(verified, r)
	if i.Policy == policyDurable {
		ctx, span := telemetry.StartSpan(trace.ContextWithSpan(r.Context(), verified.Parent), "doku.inbox")
		defer span.End()
		if err := opened.Enqueue(ctx, c); err != nil {
			i.instance.recent().addNotKept()
			return i.rejection(err)
		}
		return httpio.ReplayFrom(w, inbound.SourceDurable, acknowledgement(c))
	}
	answer, err := i.forward(r, opened, c, verified.Parent)
	switch {
	case errors.Is(err, inbox.ErrLost):
		i.instance.recent().addNotKept()
		return i.rejection(err)
	case err != nil:
		return i.rejection(err)
	case answer.Status >= http.StatusMultipleChoices:
		i.instance.recent().addRefused()
	}
	return httpio.ReplayFrom(w, inbound.SourceInbox, &answer)
}

// forward passes a call to the app while DOKU waits. If the app is not called, a span
// says that the inbox has the call.
func (i *Inbox) forward(r *http.Request, opened *inbox.Inbox, c callstore.Call, parent trace.Span) (store.Answer, error) {
	fg := &foreground{key: c.Key, parent: parent}
	began := time.Now()
	ctx := trace.ContextWithSpan(r.Context(), parent)
	answer, err := opened.Forward(context.WithValue(ctx, foregroundKey{}, fg), c)
	if fg.attempts.Load() == 0 && parent.IsRecording() {
		_, span := telemetry.Tracer(parent.TracerProvider()).Start(ctx, "doku.inbox", trace.WithTimestamp(began))
		if err != nil {
			span.SetAttributes(semconv.ErrorTypeKey.String(telemetry.ErrorType(err)))
			span.SetStatus(codes.Error, "")
		}
		span.End()
	}
	return answer, err
}

// call returns the notification to keep.
func (i *Inbox) call(verified *inbound.Call, r *http.Request) callstore.Call {
	h := r.Header.Clone()
	for _, name := range append(i.instance.traces.Fields(), httpio.HeaderAttempt) {
		h.Del(name)
	}
	inbound.Unkept(h)
	return callstore.Call{
		Key: verified.ID.Key(), Inbox: i.Name, Account: verified.Account.Name, OrderingKey: verified.OrderingKey(),
		Service: verified.Service, ExternalID: verified.ID.ExternalID, PaymentID: verified.ID.PaymentID,
		Host: r.Host, Target: r.URL.RequestURI(), Header: h, Remote: r.RemoteAddr, TLS: r.TLS != nil, Body: verified.Body,
		Received: time.Now(), Trace: telemetry.TraceOf(trace.ContextWithSpan(r.Context(), verified.Parent)),
	}
}

// Proxies returns the handlers that pass a call to the app.
func (i *Inbox) Proxies() caddyhttp.RouteList {
	if i.Deliver == nil {
		return nil
	}
	return i.Deliver.Routes
}

// acknowledgement returns the answer that accepts a notification.
func acknowledgement(c callstore.Call) *store.Answer {
	return &store.Answer{
		Status: http.StatusOK,
		Header: http.Header{"Content-Type": {"application/json"}},
		Body:   snap.Acknowledge(c.Service, c.Body),
	}
}

// folderError says which folder cannot be used, and what to do.
func folderError(folder string, err error) error {
	return fmt.Errorf("doku_inbox: the folder %s cannot be used: %w; let the user that runs the sidecar write there, or write "+
		"`folder <path>` in doku_inbox or doku_app", folder, err)
}

// inboxError is an error of the inbox that knows its rejection; see [reasons.Rejecter].
type inboxError struct {
	error
	reason string
	folder string // "" for Redis
}

// Rejection implements [reasons.Rejecter].
func (e inboxError) Rejection() *reasons.Rejection {
	rejection := reasons.Inbound.Reject(e.reason, "", e.error)
	switch {
	case e.reason == reasons.Kept:
		rejection.Hint = inbox.Hint(e.error)
	case e.folder != "":
		rejection.Hint = "see that the user that runs the sidecar may write to the folder " + e.folder +
			" (`folder` of doku_inbox or doku_app), that its disk has room, and that the file is smaller than max_size"
	}
	if e.reason == reasons.Kept && errors.Is(e.error, inbox.ErrMaybeTaken) {
		rejection.Message = "a notification is kept: it is genuine, and the app may have booked it without saying so"
	}
	return rejection
}

func (e inboxError) Unwrap() error { return e.error }

// rejection returns an error of the inbox as one that knows its rejection.
func (i *Inbox) rejection(err error) error {
	switch {
	case errors.Is(err, inbox.ErrKept):
		return inboxError{err, reasons.Kept, i.Folder}
	case errors.Is(err, inbox.ErrLost):
		return inboxError{err, reasons.NotKept, i.Folder}
	case errors.Is(err, callstore.ErrStore):
		return inboxError{err, reasons.Inbox, i.Folder}
	}
	return err
}

var (
	_ caddy.Provisioner           = (*Inbox)(nil)
	_ caddy.Validator             = (*Inbox)(nil)
	_ caddyhttp.MiddlewareHandler = (*Inbox)(nil)
)
