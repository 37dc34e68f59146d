package caddymodule

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/contrib/propagators/autoprop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/internal/ledger"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/verifier"
)

func init() {
	caddy.RegisterModule(Verify{})
}

// Verify lets only DOKU's own calls through to the app: inquiries (service 24)
// and payment notifications (25, 56). It checks, in this order: the size, if it is
// declared, that the headers X-TIMESTAMP, X-SIGNATURE, X-PARTNER-ID, X-EXTERNAL-ID
// and Authorization are there once, that the time is within 10 minutes back and 2
// ahead, that the bearer token is one that `doku_token` gave to DOKU for this
// account, and, only now reading the body, the signature over method, path and
// query as DOKU called them, token, body and time. The signature may be over the
// body as it arrived, without its white space, or in canonical form.
//
// The app gets the body to the byte, without Authorization, X-SIGNATURE,
// Accept-Encoding, trailers and the headers of a connection, and with these headers, which are removed first if somebody else has set them:
//
// | header | value |
// |---|---|
// | `X-Doku-Account` | the name of the account |
// | `X-Doku-Service` | the service code, such as `25` |
// | `X-Doku-Verified` | `true`; `false` only with `enforce report` |
// | `Idempotency-Key` | the same text whenever the same call is handed over again |
//
// The app's answer is DOKU's answer. DOKU looks at its HTTP status only, so if that
// says yes (2xx) while the responseCode in the body says no, such as 4042512, DOKU
// gets the status of the code, or 500. A repeat of a call that the app has
// answered with 2xx gets that answer again without the app being called; a
// repeat of one still in flight waits for its answer. If the app cannot be
// reached, takes too long or gives no answer at all, DOKU gets a 5xx and will
// try again.
//
// A refusal is answered with the SNAP code of the case, such as 4012500, and
// the header `X-Doku-Error`; the precise reason is logged, counted, set as
// placeholder `{http.doku.reason}`, and sent as event `doku_call_refused`.
type Verify struct {
	// The name of the account, which may be a placeholder. Default: the only
	// account, or the one whose partner id is in X-PARTNER-ID.
	Account string `json:"account,omitempty"`

	// The service code of the calls, two digits. Default: by the end of the
	// path, such as 24 for `/transfer-va/inquiry` and 25 for `/transfer-va/payment`.
	// A call to a path that tells nothing is refused: it could be a notification
	// whose repeats would not be known.
	Service string `json:"service,omitempty"`

	// What the bearer token must be: `issued` (the default), one that `doku_token`
	// gave to DOKU; `any`, whatever DOKU sends, which then only is part of the
	// string to sign; `none`, for which the string to sign has an empty place.
	Token string `json:"token,omitempty"`

	// Which signatures are accepted: `symmetric` (the default), HMAC-SHA512;
	// `asymmetric`, by which DOKU signed for some merchants in the past, with its
	// RSA key and without a token. Nothing in such a signature says for whom it is:
	// the partnerServiceId in the body must be one of the account's, which have to
	// be set. So notifications without one (service 56) are not taken that way.
	// Which one matched is logged and counted.
	Signatures []string `json:"signatures,omitempty"`

	// `on` (the default), or `report`: everything is verified, logged and counted,
	// but every call is passed on as it came, with X-Doku-Verified, Authorization
	// and X-SIGNATURE, and without the ledger. It is for moving over from checks
	// of the app's own, which must stay in place meanwhile.
	Enforce string `json:"enforce,omitempty"`

	// What something in front of the sidecar strips from the path that DOKU
	// calls, such as `/doku`.
	PublicPrefix string `json:"public_prefix,omitempty"`

	// The path that DOKU calls, if what is in front of the sidecar rewrites it in
	// another way. A query stays as it arrives, unless this has one.
	PublicTarget string `json:"public_target,omitempty"`

	// The largest body in bytes. Default: 1 MiB.
	MaxBody int64 `json:"max_body,omitempty"`

	// How long the body may take to arrive. Default: `10s`.
	BodyTimeout caddy.Duration `json:"body_timeout,omitempty"`

	// How long the app may take to answer. Default: `20s`.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	guard   guard
	app     *App
	chooser *chooser
	forms   []verifier.SignatureForm
	traces  propagation.TextMapPropagator // to the app
	now     func() time.Time
}

// The ways to enforce.
const (
	enforceOn     = "on"
	enforceReport = "report"
)

const (
	defaultAppTimeout  = 20 * time.Second
	defaultBodyTimeout = 10 * time.Second
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
	if v.guard, err = newGuard(ctx); err != nil {
		return err
	}
	if v.Token == "" {
		v.Token = string(verifier.TokenIssued)
	}
	if len(v.Signatures) == 0 {
		v.Signatures = []string{string(verifier.Symmetric)}
	}
	for _, form := range v.Signatures {
		v.forms = append(v.forms, verifier.SignatureForm(form))
	}
	if v.Enforce == "" {
		v.Enforce = enforceOn
	}
	if v.MaxBody == 0 {
		v.MaxBody = defaultMaxBody
	}
	if v.BodyTimeout == 0 {
		v.BodyTimeout = caddy.Duration(defaultBodyTimeout)
	}
	if v.Timeout == 0 {
		v.Timeout = caddy.Duration(defaultAppTimeout)
	}
	v.now, v.traces = time.Now, autoprop.NewTextMapPropagator()
	return nil
}

// Validate checks the options.
func (v *Verify) Validate() error {
	if v.Service != "" && !snap.Service(v.Service).Valid() {
		return fmt.Errorf("service: expected two digits such as 25, found %q", v.Service)
	}
	switch verifier.TokenMode(v.Token) {
	case verifier.TokenIssued, verifier.TokenAny, verifier.TokenNone:
	default:
		return fmt.Errorf("token: expected issued, any or none, found %q", v.Token)
	}
	for _, form := range v.forms {
		switch form {
		case verifier.Symmetric:
		case verifier.Asymmetric:
			if err := errors.Join(v.chooser.needDOKUKeys("signature asymmetric"), v.chooser.needServices()); err != nil {
				return err
			}
			if snap.Service(v.Service) == snap.ServiceDebitNotify {
				return errors.New("signature asymmetric: notifications of service 56 have no partnerServiceId, so nothing would tell whether they are this merchant's; use signature symmetric")
			}
		default:
			return fmt.Errorf("signature: expected symmetric or asymmetric, found %q", form)
		}
	}
	if v.Enforce != enforceOn && v.Enforce != enforceReport {
		return fmt.Errorf("enforce: expected on or report, found %q", v.Enforce)
	}
	for name, path := range map[string]string{"public_prefix": v.PublicPrefix, "public_target": v.PublicTarget} {
		if path != "" && !strings.HasPrefix(path, "/") {
			return fmt.Errorf("%s: expected a path that begins with /, found %q", name, path)
		}
	}
	if v.PublicPrefix != "" && v.PublicTarget != "" {
		return errors.New("public_prefix and public_target: expected one of them, found both")
	}
	if strings.Contains(v.PublicPrefix, "?") || strings.HasSuffix(v.PublicPrefix, "/") {
		return fmt.Errorf("public_prefix: expected a path without query and without / at its end, found %q", v.PublicPrefix)
	}
	if v.MaxBody < 0 || v.Timeout < 0 || v.BodyTimeout < 0 {
		return errors.New("max_body, timeout and body_timeout must be positive")
	}
	return nil
}

// inbound is a call of DOKU's, or of somebody who says so.
type inbound struct {
	account  *Account // nil until it is known
	service  snap.Service
	method   string
	target   string // path and query as DOKU called them
	body     []byte
	read     bool // whether body is all that came
	verified verifier.Verified
	id       ledger.Identity // once it is verified
	trusted  bool            // whether it is verified, and enforced
	age      time.Duration   // of its X-TIMESTAMP, by then
	aged     bool            // whether that is known
	billed   *bill           // once it was asked for

	span      trace.Span // of the request
	began     time.Time
	elsewhere time.Duration // that the app, and the caller's sending, have taken
	boxed     string        // the policy of the inbox that has the call, if one has
}

// ServeHTTP verifies a call, hands it on unless it is a repeat, and answers it.
func (v *Verify) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	in := &inbound{began: v.now(), span: trace.SpanFromContext(r.Context())}
	in.method, in.target = v.asCalled(r)
	if in.service = snap.Service(v.Service); in.service == "" {
		in.service, _ = snap.ServiceOf(in.method, in.target)
	}
	why, ok := v.verify(in, w, r)
	refuse := refuser{guard: v.guard, service: in.service}
	if in.account != nil {
		refuse.account = in.account.Name
	}
	switch {
	case v.Enforce == enforceReport:
		return v.report(in, why, ok, refuse, w, r, next)
	case !ok:
		if why.reason == "method" {
			w.Header().Set("Allow", http.MethodPost)
		}
		if !in.read {
			abandon(w, r)
		}
		return refuse.refuse(w, r, why)
	}
	return v.deliver(in, refuse, w, r, next)
}

// verify verifies a call inside a span, and completes in.
func (v *Verify) verify(in *inbound, w http.ResponseWriter, r *http.Request) (why refusal, ok bool) {
	cleanse(in.span)
	_, span := startSpan(r.Context(), "doku.verify")
	defer span.End()
	if why, ok = v.check(in, w, r); span.IsRecording() {
		in.trace(span, why, ok)
	}
	return why, ok
}

// check makes the checks, in their order.
func (v *Verify) check(in *inbound, w http.ResponseWriter, r *http.Request) (why refusal, ok bool) {
	if in.method != http.MethodPost {
		return refusal{snap.MethodNotAllowed, "method", notPOST(in.method)}, false
	}
	if r.ContentLength > v.MaxBody {
		return unread(tooLarge(v.MaxBody)), false
	}
	account, err := v.chooser.account(r)
	if err != nil {
		return stranger(r.Header, snap.HeaderPartnerID, err), false
	}
	in.account = account
	checker := account.credentials().verifier(verifier.TokenMode(v.Token), v.forms)
	head, err := checker.Head(in.method, in.target, r.Header, v.now())
	in.age, in.aged = head.Age, !head.Timestamp.IsZero()
	if err != nil {
		return refusalOf(err), false
	}
	began := v.now()
	in.body, err = readInbound(w, r, v.MaxBody, time.Duration(v.BodyTimeout))
	in.elsewhere += v.now().Sub(began)
	if err != nil {
		return unread(err), false
	}
	in.read = true
	if in.verified, err = head.Verify(in.body, memory(len(in.body))); err != nil {
		return refusalOf(err), false
	}
	if invalid := in.verified.Valid; invalid != nil {
		return refusal{snap.BadRequest, verifier.Reason(verifier.ErrBodyFormat), fmt.Errorf("%w: %w", verifier.ErrBodyFormat, invalid)}, false
	}
	if in.service == snap.ServiceUnknown {
		return refusal{snap.NotFound, "service_unknown", fmt.Errorf("the path %.200q does not tell which service a genuine call is of; write it in doku_verify, such as `service %s` for payment notifications",
			in.target, snap.ServiceVAPayment)}, false
	}
	in.id = ledger.Identity{
		Account: account.Name, Service: in.service, ExternalID: head.ExternalID, Day: snap.Day(head.Timestamp), Digest: in.verified.Digest,
	}
	if in.service.Notification() {
		in.id.PaymentID = ledger.PaymentID(in.service, in.verified.Canonical)
	}
	recycle(in.verified.Canonical)
	in.verified.Canonical = nil
	verifiedCalls.WithLabelValues(account.Name, string(in.verified.Signature), string(in.verified.BodyForm)).Inc()
	return refusal{}, true
}

var answers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// deliver hands a verified call to the app, unless it is a repeat, and answers DOKU.
func (v *Verify) deliver(in *inbound, refuse refuser, w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	// The app is let finish, and its answer recorded, even if DOKU hangs up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), time.Duration(v.Timeout))
	defer cancel()
	buffer := answers.Get().(*bytes.Buffer)
	buffer.Reset()
	defer func() {
		if buffer.Cap() <= recycledMost {
			answers.Put(buffer)
		}
	}()
	in.join(ctx)
	ctx, span := startSpan(ctx, "doku.ledger")
	defer span.End()
	app := capture(w, buffer)
	var failed refusal // the app's failure, if it has failed
	out, err := in.account.ledger.Deliver(ctx, in.id, func() (store.Answer, error) {
		asked := v.now()
		failed = v.ask(ctx, app, next, v.forApp(ctx, r, in))
		in.tookApp(v.now().Sub(asked), failed)
		if failed.err != nil {
			return store.Answer{}, failed.err
		}
		return app.answer(), nil
	})
	if err != nil {
		app.undo()
	}
	v.note(ctx, in, out)
	if span.IsRecording() {
		span.SetAttributes(keyLedger.String(ledgerResult(out, err)))
	}
	outcome := outcomeAccepted
	switch {
	case failed.err != nil:
		return refuse.refuse(w, r, failed)
	case errors.Is(err, ledger.ErrConflict):
		return refuse.refuse(w, r, refusal{snap.Conflict, "conflict", err})
	case errors.Is(err, ledger.ErrInFlight):
		return refuse.refuse(w, r, refusal{snap.Timeout, "in_flight", err})
	case errors.Is(err, ledger.ErrLedger), errors.Is(err, ledger.ErrNotRecorded):
		return refuse.refuse(w, r, refusal{snap.GeneralError, "store", err})
	case err != nil:
		return refuse.refuse(w, r, refusalOf(err))
	case out.Replayed:
		refuse.count(outcomeReplayed)
		v.tell(ctx, in, outcomeReplayed, out.Answer.Status)
		in.traceEnd(r.Context(), outcomeReplayed, out.Answer.Body)
		return replay(w, &out.Answer)
	case out.Answer.Status < 200 || out.Answer.Status > 299:
		outcome = outcomeAppRefused
		message, hint := "the app has not taken a call of DOKU's", "the app's own log says why; if it was not asked, something in front of it answers, such as a `respond` without a matcher"
		if out.Answer.Status != app.status {
			message, hint = "the app has answered with an HTTP status that says yes and a responseCode that says no: DOKU is told no", "the app must answer 2xx only with a responseCode of 2xx"
		}
		v.guard.log.LogAttrs(ctx, slog.LevelWarn, message, //nolint:sloglint // one of two
			slog.String("account", in.account.Name), slog.String("service", string(in.service)), slog.String("external_id", in.id.ExternalID),
			slog.Int("app_status", app.status), slog.Int("status", out.Answer.Status), slog.String("reason", outcomeAppRefused), slog.String("hint", hint))
	}
	refuse.count(outcome)
	v.tell(ctx, in, outcome, out.Answer.Status)
	in.traceEnd(r.Context(), outcome, out.Answer.Body)
	observe(in.span, addedIn, v.now().Sub(in.began)-in.elsewhere)
	return app.give(w, out.Answer.Status)
}

// tookApp takes note of the time for which the app had the call. An inbox takes
// note of its tries by itself, and to keep a call is the sidecar's own work.
func (in *inbound) tookApp(took time.Duration, failed refusal) {
	if in.boxed == policyDurable {
		return
	}
	in.elsewhere += took
	if in.boxed == "" && (failed.err == nil || failed.reason == "app_timeout") {
		observe(in.span, appDuration.WithLabelValues(in.account.Name, string(in.service)), took)
	}
}

// tell logs a verified call and what has become of it. status is the app's answer, or
// 0 if it is not known.
func (v *Verify) tell(ctx context.Context, in *inbound, outcome string, status int) {
	if !v.guard.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	v.guard.log.LogAttrs(ctx, slog.LevelDebug, "call from DOKU verified", slog.String("account", in.account.Name),
		slog.String("service", string(in.service)), slog.String("external_id", in.id.ExternalID), slog.Duration("age", in.age),
		slog.String("signature_form", string(in.verified.Signature)), slog.String("body_form", string(in.verified.BodyForm)),
		slog.String("outcome", outcome), slog.Int("status", status))
}

// note logs what is odd about a delivery.
func (v *Verify) note(ctx context.Context, in *inbound, out ledger.Outcome) {
	if !out.Changed && out.Unkept == nil {
		return
	}
	attrs := []slog.Attr{slog.String("account", in.account.Name), slog.String("service", string(in.service)), slog.String("external_id", in.id.ExternalID)}
	if out.Changed {
		changedPayments.WithLabelValues(in.account.Name).Inc()
		v.guard.log.LogAttrs(ctx, slog.LevelWarn, "a notification tells of a payment that the app has accepted with another body before; it was handed to the app, which has to tell them apart",
			append(attrs, slog.String("payment_id", in.id.PaymentID))...)
	}
	if out.Unkept != nil {
		v.guard.log.LogAttrs(ctx, slog.LevelWarn, "the ledger does not know the outcome of a call: a repeat may wait for a while, or reach the app again",
			append(attrs, slog.String("error", out.Unkept.Error()))...)
	}
}

// ask calls the app, and returns why it gave no answer, if it did not.
func (v *Verify) ask(ctx context.Context, app *captured, next caddyhttp.Handler, r *http.Request) refusal {
	r, delivered := startDelivery(r, true, v.traces)
	err := app.whole(func() error { return next.ServeHTTP(app, r) })
	delivered(app.status, err)
	failure, handled := errors.AsType[caddyhttp.HandlerError](err)
	if why, ok := inboxRefusal(err); ok {
		return why
	}
	switch {
	case handled && failure.StatusCode == http.StatusGatewayTimeout || err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return refusal{snap.Timeout, "app_timeout", plain(err)}
	case err != nil:
		return refusal{snap.ExternalError, "app_unreachable", plain(err)}
	case app.status == 0:
		return refusal{snap.GeneralError, "app_missing", errors.New("no handler answered: expected a reverse_proxy to the app after doku_verify, for the same path")}
	}
	return refusal{}
}

// report passes a call on, whatever was found, and tells.
func (v *Verify) report(in *inbound, why refusal, ok bool, refuse refuser, w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) (err error) {
	out := r.Clone(context.WithValue(r.Context(), inboundKey{}, in))
	in.mark(out.Header, ours, ok)
	out.Trailer = nil // see forApp
	switch {
	case in.read:
		out.Body = io.NopCloser(bytes.NewReader(in.body))
	case len(in.body) > 0: // what was read of it before it was given up
		out.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(in.body), r.Body), r.Body}
	}
	if ok {
		refuse.count(outcomeReported + outcomeVerified)
		v.tell(r.Context(), in, outcomeReported+outcomeVerified, 0)
		in.join(r.Context())
		in.traceEnd(r.Context(), outcomeReported+outcomeVerified, nil)
	} else {
		refuse.tell(r, "call from DOKU passed on unverified, since enforce is report", outcomeReported+why.reason, why)
	}
	out, delivered := startDelivery(out, ok, v.traces)
	defer func() { delivered(0, err) }()
	return next.ServeHTTP(w, out)
}

// ours are the headers that nobody else may set for the app. Those of a connection
// are among them: in Connection somebody could name others for a proxy to remove.
var ours = names(
	headerError, headerExternalID, headerReplayed, headerAccount, headerService, headerVerified, headerIdempotent, headerAttempt,
	"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
)

// settled are those that the app has no use for any more once a call is verified.
// What it says must be readable, so it is not asked to compress it.
var settled = names(append(slices.Collect(maps.Keys(ours)), snap.HeaderAuthorization, snap.HeaderSignature, "Accept-Encoding")...)

func names(all ...string) map[string]bool {
	set := make(map[string]bool, len(all))
	for _, name := range all {
		set[http.CanonicalHeaderKey(name)] = true
	}
	return set
}

// mark removes the headers named by without from h, and sets ours, by which the app
// knows a call.
func (in *inbound) mark(h http.Header, without map[string]bool, ok bool) {
	for name := range h {
		if without[name] {
			delete(h, name)
		}
	}
	values := make([]string, 0, 4) // on the heap as one
	set := func(name, value string) {
		values = append(values, value)
		h[name] = values[len(values)-1 : len(values) : len(values)]
	}
	set(headerService, string(in.service))
	set(headerVerified, strconv.FormatBool(ok))
	if in.account != nil {
		set(headerAccount, in.account.Name)
	}
	if ok {
		set(headerIdempotent, in.id.Key())
	}
}

// forApp returns the request as the app sees it, whose headers are those of r,
// changed. What came behind the body is not signed, and some servers take it for
// headers.
func (v *Verify) forApp(ctx context.Context, r *http.Request, in *inbound) *http.Request {
	in.trusted = true
	out := r.WithContext(context.WithValue(ctx, inboundKey{}, in))
	in.mark(out.Header, settled, true)
	out.Body = io.NopCloser(bytes.NewReader(in.body))
	if out.ContentLength != int64(len(in.body)) { // it came without a length
		out.ContentLength = int64(len(in.body))
		out.Header.Set("Content-Length", strconv.Itoa(len(in.body)))
	}
	out.TransferEncoding, out.Trailer = nil, nil
	return out
}

// asCalled returns method and target as DOKU called them: as they arrived, before
// any rewrite here, and before what something in front has done to them.
func (v *Verify) asCalled(r *http.Request) (method, target string) {
	method, target = r.Method, r.RequestURI
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		method, target = original.Method, original.RequestURI
	}
	target = v.PublicPrefix + snap.RequestTarget(target)
	if v.PublicTarget == "" {
		return method, target
	}
	if _, query, found := strings.Cut(target, "?"); found && !strings.Contains(v.PublicTarget, "?") {
		return method, v.PublicTarget + "?" + query
	}
	return method, v.PublicTarget
}

var (
	_ caddy.Provisioner           = (*Verify)(nil)
	_ caddy.Validator             = (*Verify)(nil)
	_ caddyhttp.MiddlewareHandler = (*Verify)(nil)
)
