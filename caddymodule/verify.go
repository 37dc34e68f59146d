package caddymodule

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"

	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/store"
	"github.com/caddy-doku/caddy-doku/verifier"
)

func init() {
	caddy.RegisterModule(Verify{})
}

// Verify lets only DOKU's own calls through to the app: inquiries (service 24)
// and payment notifications (25, 56). It checks, in this order: the size, that
// the headers X-TIMESTAMP, X-SIGNATURE, X-PARTNER-ID, X-EXTERNAL-ID and
// Authorization are there once, that the time is within 10 minutes back and 2
// ahead, that the bearer token is one that `doku_token` gave to DOKU for this
// account, and the HMAC-SHA512 signature over method, path and query as DOKU
// called them, token, body and time.
//
// The app gets the body to the byte, without Authorization and X-SIGNATURE,
// and with these headers, which are removed first if somebody else has set them:
//
// | header | value |
// |---|---|
// | `X-Doku-Account` | the name of the account |
// | `X-Doku-Service` | the service code, such as `25` |
// | `Idempotency-Key` | the same text whenever the same call is handed over again |
//
// The app's answer is DOKU's answer. A repeat of a call that the app has
// answered with 2xx gets that answer again without the app being called; a
// repeat of one still in flight waits for its answer. If the app cannot be
// reached, takes too long or gives no answer at all, DOKU gets a 5xx and will
// try again.
//
// A refusal is answered with the SNAP code of the case, such as 4012500, and
// the header `X-Doku-Error`; the precise reason is logged, counted, and set as
// placeholder `{http.doku.reason}`.
type Verify struct {
	// The name of the account, which may be a placeholder. Default: the only
	// account, or the one whose partner id is in X-PARTNER-ID.
	Account string `json:"account,omitempty"`

	// The service code of the calls, two digits. Default: by the end of the
	// path, such as 24 for `/transfer-va/inquiry` and 25 for `/transfer-va/payment`.
	Service string `json:"service,omitempty"`

	// The largest body in bytes. Default: 1 MiB.
	MaxBody int64 `json:"max_body,omitempty"`

	// How long the app may take to answer. Default: `20s`.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	app     *App
	chooser *chooser
	log     *slog.Logger
	now     func() time.Time
}

const (
	defaultAppTimeout = 20 * time.Second
	bodyDeadline      = 10 * time.Second
	answerKept        = 256 << 10
)

// CaddyModule returns the Caddy module information.
func (Verify) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.doku_verify", New: func() caddy.Module { return new(Verify) }}
}

// Provision finds the account and sets the defaults.
func (v *Verify) Provision(ctx caddy.Context) error {
	var err error
	if v.app, err = findApp(ctx); err != nil {
		return err
	}
	if v.chooser, err = v.app.choose(v.Account, snap.HeaderPartnerID, func(a *Account) string { return a.partnerID }); err != nil {
		return err
	}
	if v.MaxBody == 0 {
		v.MaxBody = defaultMaxBody
	}
	if v.Timeout == 0 {
		v.Timeout = caddy.Duration(defaultAppTimeout)
	}
	v.log, v.now = ctx.Slogger(), time.Now
	return nil
}

// Validate checks the options.
func (v *Verify) Validate() error {
	if v.Service != "" && !snap.Service(v.Service).Valid() {
		return fmt.Errorf("service: expected two digits such as 25, found %q", v.Service)
	}
	if v.MaxBody < 0 || v.Timeout < 0 {
		return errors.New("max_body and timeout must be positive")
	}
	return nil
}

// ServeHTTP verifies a call, hands it on unless it is a repeat, and answers it.
func (v *Verify) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	method, target := asCalled(r)
	service := snap.Service(v.Service)
	if service == "" {
		service, _ = snap.ServiceOf(method, target)
	}
	refuse := refuser{log: v.log, service: service}
	if method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return refuse.refuse(w, r, snap.MethodNotAllowed, "method", errors.New("expected POST, found "+method))
	}
	body, err := readInbound(w, r, v.MaxBody)
	if err != nil {
		return refuse.unread(w, r, err)
	}
	account, err := v.chooser.account(r)
	if err != nil {
		return refuse.stranger(w, r, snap.HeaderPartnerID, err)
	}
	refuse.account = account.Name
	verified, err := v.verify(r, account, verifier.Call{
		Method: method, Target: target, Header: r.Header, Body: body, Memory: memory(len(body)),
	}, service)
	if err != nil {
		return refuse.refusal(w, r, err)
	}
	id := verifier.Identity{
		Account:    account.Name,
		Service:    service,
		ExternalID: verified.ExternalID,
		Digest:     verified.Digest,
	}
	if service.Notification() {
		id.PaymentID = verifier.PaymentID(service, verified.Canonical)
	}
	recycle(verified.Canonical)
	ctx, cancel := context.WithTimeout(r.Context(), time.Duration(v.Timeout))
	defer cancel()
	earlier, delivery, err := account.ledger.Begin(ctx, id)
	switch {
	case errors.As(err, new(*verifier.Refusal)):
		return refuse.refusal(w, r, err)
	case err != nil && ctx.Err() != nil:
		return refuse.refuse(w, r, snap.Timeout, "in_flight", err)
	case err != nil && v.app.OnStoreError == storeErrorContinue:
		v.log.LogAttrs(ctx, slog.LevelWarn, "the store is away: a call is handed to the app without protection against repeats",
			slog.String("account", account.Name), slog.String("external_id", id.ExternalID), slog.String("error", err.Error()))
	case err != nil:
		return refuse.refuse(w, r, snap.GeneralError, "store", err)
	case earlier != nil:
		inboundCalls.WithLabelValues(string(service), "replayed").Inc()
		v.log.LogAttrs(ctx, slog.LevelInfo, "repeat answered from the ledger", slog.String("account", account.Name),
			slog.String("service", string(service)), slog.String("external_id", id.ExternalID))
		return replay(w, earlier)
	}
	return v.deliver(ctx, w, r, next, refuse, id, delivery, body)
}

// verify runs the checks inside a span.
func (v *Verify) verify(r *http.Request, account *Account, c verifier.Call, service snap.Service) (verifier.Verified, error) {
	_, span := startSpan(r.Context(), "doku.verify")
	defer span.End()
	verified, err := account.credentials().calls.Verify(c, v.now())
	if err == nil && verified.Valid != nil {
		err = &verifier.Refusal{Case: snap.BadRequest, Err: fmt.Errorf("%w: %w", verifier.ErrBodyFormat, verified.Valid)}
	}
	if span.IsRecording() {
		span.SetAttributes(attribute.String("doku.account", account.Name), attribute.String("doku.service_code", string(service)))
		if err != nil {
			span.SetStatus(codes.Error, verifier.Reason(err))
		} else {
			span.SetAttributes(attribute.String("doku.body_form", string(verified.BodyForm)), attribute.String("doku.external_id", verified.ExternalID))
		}
	}
	return verified, err
}

var answers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// deliver hands a verified call to the app, records its answer if it accepts,
// and only then answers DOKU. There is no delivery if the store is away.
func (v *Verify) deliver(ctx context.Context, w http.ResponseWriter, r *http.Request, next caddyhttp.Handler,
	refuse refuser, id verifier.Identity, delivery *verifier.Delivery, body []byte,
) error {
	open := delivery != nil
	defer func() {
		if open { // also when the proxy panics, as it does if the app's answer breaks off
			if err := delivery.Failed(ctx); err != nil {
				v.log.LogAttrs(ctx, slog.LevelWarn, "the ledger could not be told that the app has not accepted a call; its repeat waits for a while",
					slog.String("account", id.Account), slog.String("external_id", id.ExternalID), slog.String("error", err.Error()))
			}
		}
	}()
	buffer := answers.Get().(*bytes.Buffer)
	buffer.Reset()
	defer answers.Put(buffer)
	recorder := caddyhttp.NewResponseRecorder(w, buffer, func(int, http.Header) bool { return true })

	err := next.ServeHTTP(recorder, v.forApp(ctx, r, id, body))
	var failure *caddyhttp.HandlerError
	handled := errors.As(err, &failure)
	switch {
	case handled && failure.StatusCode == http.StatusGatewayTimeout || err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return refuse.refuse(w, r, snap.Timeout, "app_timeout", err)
	case err != nil:
		return refuse.refuse(w, r, snap.ExternalError, "app_unreachable", err)
	case recorder.Status() == 0:
		return refuse.refuse(w, r, snap.GeneralError, "app_missing", errors.New("no handler answered: expected a reverse_proxy to the app after doku_verify, for the same path"))
	}
	status := recorder.Status()
	if status < 200 || status >= 300 {
		inboundCalls.WithLabelValues(string(id.Service), "app_refused").Inc()
		return recorder.WriteResponse()
	}
	if open {
		given := store.Answer{Status: status, Header: kept(recorder.Header()), Body: buffer.Bytes()}
		if len(given.Body) > answerKept {
			given.Body = snap.Successful.Answer(id.Service)
		}
		open = false
		err := delivery.Accepted(ctx, given, v.now())
		if err != nil && v.app.OnStoreError != storeErrorContinue {
			return refuse.refuse(w, r, snap.GeneralError, "store", err)
		} else if err != nil {
			v.log.LogAttrs(ctx, slog.LevelWarn, "an accepted call could not be recorded; its repeat will be handed to the app again",
				slog.String("account", id.Account), slog.String("external_id", id.ExternalID), slog.String("error", err.Error()))
		}
	}
	inboundCalls.WithLabelValues(string(id.Service), "accepted").Inc()
	return recorder.WriteResponse()
}

// forApp returns the request as the app sees it.
func (v *Verify) forApp(ctx context.Context, r *http.Request, id verifier.Identity, body []byte) *http.Request {
	out := r.WithContext(ctx)
	out.Header = r.Header.Clone()
	out.Header.Del(snap.HeaderAuthorization)
	out.Header.Del(snap.HeaderSignature)
	out.Header.Del(headerError)
	out.Header.Del(headerExternalID)
	out.Header.Set(headerAccount, id.Account)
	out.Header.Set(headerService, string(id.Service))
	out.Header.Set(headerIdempotent, id.Key())
	out.Header.Set("Content-Length", strconv.Itoa(len(body)))
	out.Body = io.NopCloser(bytes.NewReader(body))
	out.ContentLength = int64(len(body))
	out.TransferEncoding = nil
	return out
}

// asCalled returns method and target as they arrived, before any rewrite.
func asCalled(r *http.Request) (method, target string) {
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		return original.Method, snap.RequestTarget(original.RequestURI)
	}
	return r.Method, snap.RequestTarget(r.RequestURI)
}

// readInbound reads a body from the net: at most limit bytes, within bodyDeadline.
func readInbound(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	control := http.NewResponseController(w)
	// Not every writer has deadlines; then the server's own idle timeout holds.
	limited := control.SetReadDeadline(time.Now().Add(bodyDeadline)) == nil
	body, err := readBody(w, r, limit)
	if limited && err == nil {
		err = control.SetReadDeadline(time.Time{})
	}
	return body, err // not to be recycled: a proxy may read it after it has answered
}

// refuser answers the calls that must not reach the app: a log line with the
// reason, a count, a placeholder, and to DOKU the case only.
type refuser struct {
	log     *slog.Logger
	account string
	service snap.Service
}

func (f refuser) refusal(w http.ResponseWriter, r *http.Request, err error) error {
	var refusal *verifier.Refusal
	if !errors.As(err, &refusal) {
		return f.refuse(w, r, snap.GeneralError, "other", err)
	}
	return f.refuse(w, r, refusal.Case, verifier.Reason(err), err)
}

// stranger answers a call for which there is no account: as an account does that
// does not know its caller.
func (f refuser) stranger(w http.ResponseWriter, r *http.Request, header string, err error) error {
	if len(r.Header.Values(header)) == 0 {
		return f.refuse(w, r, snap.InvalidMandatory.With(header), "header_missing", err)
	}
	return f.refuse(w, r, snap.UnknownClient, "client_unknown", err)
}

// unread answers a call whose body could not be read.
func (f refuser) unread(w http.ResponseWriter, r *http.Request, err error) error {
	w.Header().Set("Connection", "close") // what is left of the body is of no use
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return f.refuse(w, r, snap.BodyTooLarge, "body_too_large", err)
	}
	return f.refuse(w, r, snap.BadRequest, "body_unreadable", err)
}

func (f refuser) refuse(w http.ResponseWriter, r *http.Request, c snap.Case, reason string, err error) error {
	inboundCalls.WithLabelValues(string(f.service), reason).Inc()
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.doku.reason", reason)
	}
	f.log.LogAttrs(r.Context(), slog.LevelWarn, "call from DOKU not accepted",
		slog.String("account", f.account),
		slog.String("service", string(f.service)),
		slog.String("response_code", c.Code(f.service)),
		slog.String("reason", reason),
		slog.String("error", err.Error()),
		slog.String("external_id", fmt.Sprintf("%.128s", r.Header.Get(snap.HeaderExternalID))),
		slog.String("remote", r.RemoteAddr))
	return answer(w, f.service, c, outside(reason))
}

// outside returns what a stranger may know of a reason: not which of the
// checks of a signature failed.
func outside(reason string) string {
	if reason == "signature_format" {
		return "signature"
	}
	return reason
}

var (
	_ caddy.Provisioner           = (*Verify)(nil)
	_ caddy.Validator             = (*Verify)(nil)
	_ caddyhttp.MiddlewareHandler = (*Verify)(nil)
)
