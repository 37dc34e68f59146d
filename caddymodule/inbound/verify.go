// Package inbound has the handlers for calls from DOKU: doku_token and doku_verify.
package inbound

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/contrib/propagators/autoprop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/ledger"
	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/verifier"
)

func init() {
	caddy.RegisterModule(Verify{})
}

// Verify lets only DOKU's own calls through to the app: inquiries (service 24) and
// payment notifications (25, 56). It checks, in this order:
//
//  1. the declared size;
//  2. that X-TIMESTAMP, X-SIGNATURE, X-PARTNER-ID, X-EXTERNAL-ID and Authorization are there once;
//  3. that the time is at most 10 minutes back and 2 minutes ahead;
//  4. that `doku_token` issued the bearer token to DOKU for this account;
//  5. the signature over method, path and query as DOKU called them, token, body and
//     time. Only now it reads the body. The signature may be over the body as it arrived,
//     without its white space, or in canonical form.
//
// The app gets exactly the bytes of the body. DOKU's signature does not cover headers,
// so the app gets these only, the same on the first delivery and from the inbox:
// Content-Type, Content-Length, X-TIMESTAMP, X-PARTNER-ID, X-EXTERNAL-ID, CHANNEL-ID,
// those of `pass_headers`, `Accept: application/json`, `User-Agent: caddy-doku`, the
// trace, and X-Forwarded-For, -Proto and -Host and Via by Caddy. A call with other
// headers is taken without them. A Content-Type other than JSON becomes
// `application/json`. The sidecar adds:
//
// | header | value |
// |---|---|
// | `X-Doku-Account` | the name of the account |
// | `X-Doku-Service` | the service code, such as `25` |
// | `X-Doku-Verified` | `true`; `false` only with `enforce report` |
// | `Idempotency-Key` | the same text each time the app gets the same call |
//
// The app's answer is DOKU's answer, if it is a yes or a no:
//
//   - A yes is HTTP 2xx and a JSON object whose responseCode is a 2xx code, such as 2002500.
//     When DOKU repeats the call, it gets that answer again, and the app is not called. A
//     repeat of a call in flight waits for its answer.
//   - A no is a JSON object whose responseCode is a 4xx or 5xx code, such as 4042512. Of HTTP
//     status and responseCode, DOKU gets the worse as the HTTP status.
//   - Anything else decides nothing, since DOKU looks at the HTTP status only and takes any
//     2xx for "paid and booked": an empty 200, `OK`, a page, a redirect, a 404 without a SNAP
//     body, and 401, 408, 425 and 429 with one: these are about the sidecar, not about the
//     call. DOKU gets a 5xx, as it does if the app cannot be reached or takes too long. It
//     repeats notifications, but not inquiries.
//
// A refused call gets the SNAP code of the case, such as 4012500, and the header
// `X-Doku-Error`. The precise reason is logged, counted, set as the placeholder
// `{http.doku.reason}`, and sent as the event `doku_call_refused`.
type Verify struct {
	// The name of the account, which may be a placeholder. Default: the only
	// account, or the one whose partner id is in X-PARTNER-ID.
	Account string `json:"account,omitempty"`

	// The service code of the calls: `24` (inquiries), `25` (payments of virtual
	// accounts) or `56` (direct debit and e-wallets). Default: by the end of the
	// path, such as 24 for `/transfer-va/inquiry` and 25 for `/transfer-va/payment`.
	// A call to any other path is refused: it could be a notification, whose repeats
	// would not be recognized.
	Service string `json:"service,omitempty"`

	// What the bearer token must be. `issued` (the default): `doku_token` issued it to
	// DOKU. `any`: any token; it is only part of the string to sign. `none`: the string
	// to sign has an empty token.
	Token string `json:"token,omitempty"`

	// Which signatures are accepted. `symmetric` (the default): HMAC-SHA512.
	// `asymmetric`: DOKU's RSA key without a token, as DOKU signed for some merchants in
	// the past. Such a signature does not name the merchant: the partnerServiceId in the
	// body must be one of the account's, and notifications without one (service 56) are
	// refused. The matching form is logged and counted.
	Signatures []string `json:"signatures,omitempty"`

	// `on` (the default), or `report` (shadow mode): everything is verified, logged and
	// counted, but every call passes unchanged, with X-Doku-Verified, Authorization and
	// X-SIGNATURE, and without the ledger. Use it to migrate from the app's own checks,
	// which must stay in place meanwhile.
	Enforce string `json:"enforce,omitempty"`

	// The prefix that a proxy in front of the sidecar strips from the path that DOKU
	// calls, such as `/doku`.
	PublicPrefix string `json:"public_prefix,omitempty"`

	// The path that DOKU calls, if a proxy in front of the sidecar rewrites it in another
	// way. The query stays as it arrives, unless this has one.
	PublicTarget string `json:"public_target,omitempty"`

	// The largest body in bytes. Default: 1 MiB.
	MaxBody int64 `json:"max_body,omitempty"`

	// How long the body may take to arrive. Default: `5s`.
	BodyTimeout caddy.Duration `json:"body_timeout,omitempty"`

	// How long the app may take to answer. Default: `20s`.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// Which answers of the app count as a yes to a notification. `strict` (the default) is
	// described above. `loose`: also HTTP 2xx without a body, or with up to 512 bytes of plain
	// words as text/plain, such as `OK`, for an app that cannot be changed. It is no yes if it
	// speaks of a failure, names a responseCode or the number of an error, or leads to another
	// page. With `doku_inbox`, set it there.
	AppAnswers string `json:"app_answers,omitempty"`

	// The Host that the app gets. It may be a placeholder. Default: the first name that
	// the site block states; if it states none, the app's address. An app over https gets
	// its own address, as always in Caddy, unless its reverse_proxy has `header_up Host`.
	AppHost string `json:"app_host,omitempty"`

	// Names of further headers that the app gets as they arrive. Anybody who has seen a
	// call can send it again with other values, and they do not make it another call. No
	// inbox keeps Cookie and Authorization-Customer: the app gets them with inquiries, and
	// with notifications only if there is no `doku_inbox`.
	PassHeaders []string `json:"pass_headers,omitempty"`

	base     Base
	app      *doku.App
	guard    *guard
	selector *doku.Selector
	site     func() site
	allowed  allowed
	forms    []verifier.SignatureForm
	traces   propagation.TextMapPropagator // to the app
	now      func() time.Time
}

// The values of the option enforce.
const (
	enforceOn     = "on"
	enforceReport = "report"
)

const (
	// DefaultAppTimeout is how long the app may take to answer DOKU.
	DefaultAppTimeout = 20 * time.Second

	defaultBodyTimeout = 5 * time.Second
)

// CaddyModule returns the Caddy module information.
func (Verify) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.doku_verify", New: func() caddy.Module { return new(Verify) }}
}

// Provision finds the account and sets the defaults.
func (v *Verify) Provision(ctx caddy.Context) error {
	var err error
	if v.app, err = doku.Find(ctx); err != nil {
		return err
	}
	v.guard = doku.PartOf[*guard](v.app)
	if v.selector, err = v.app.Select(v.Account, snap.HeaderPartnerID, (*doku.Account).PartnerID); err != nil {
		return err
	}
	if v.base, err = NewBase(ctx); err != nil {
		return err
	}
	if v.Token == "" {
		v.Token = string(verifier.TokenIssued)
	}
	if v.AppAnswers == AnswersLoose {
		v.base.WarnOfLooseAnswers("doku_verify")
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
		v.MaxBody = httpio.DefaultMaxBody
	}
	if v.BodyTimeout == 0 {
		v.BodyTimeout = caddy.Duration(defaultBodyTimeout)
	}
	if v.Timeout == 0 {
		v.Timeout = caddy.Duration(DefaultAppTimeout)
	}
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	v.site = sync.OnceValue(func() site { return findSite(server, v) }) // its routes are not complete yet
	v.allowed = allow(v.PassHeaders)
	v.now, v.traces = time.Now, autoprop.NewTextMapPropagator()
	return nil
}

// Validate checks the options.
func (v *Verify) Validate() error {
	if err := ValidateAnswers(v.AppAnswers); err != nil {
		return err
	}
	if v.Service != "" {
		if err := checkService(v.Service); err != nil {
			return err
		}
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
			if err := errors.Join(v.selector.NeedDOKUKeys("signature asymmetric"), v.selector.NeedPartnerServices()); err != nil {
				return err
			}
			if snap.Service(v.Service) == snap.ServiceDebitNotify {
				return errors.New(
					"signature asymmetric: notifications of service 56 have no partnerServiceId, so nothing would tell whether they are this merchant's; use signature symmetric",
				)
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
	if _, most := v.app.UnverifiedLimits(); v.MaxBody > most {
		return fmt.Errorf("max_body: expected at most unverified_size of the global option doku, %d bytes, found %d", most, v.MaxBody)
	}
	return v.checkForwarding()
}

// ServeHTTP verifies a call, passes it on unless it is a repeat, and answers it.
func (v *Verify) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	in := &call{began: v.now(), span: trace.SpanFromContext(r.Context())}
	closeChunked(w, r)
	in.method, in.target = v.asCalled(r)
	if in.service = snap.Service(v.Service); in.service == "" {
		if in.service, _ = snap.ServiceOf(in.method, in.target); in.service.Inbound() == "" {
			in.service = snap.ServiceUnknown // also if it is one that merchants call
		}
	}
	rejection := v.verify(in, w, r)
	defer func() { httpio.PutBuffer(in.verified.Canonical) }() // nothing behind this handler keeps it
	rej := rejecter{Base: v.base, service: in.service, account: in.accountName(), few: v.guard.log}
	switch {
	case v.Enforce == enforceReport:
		return v.report(in, rejection, rej, w, r, next)
	case rejection != nil:
		if rejection.Reason == reasons.Method {
			w.Header().Set("Allow", http.MethodPost)
		}
		if !in.read {
			httpio.Abandon(w, r)
		}
		return rej.reject(w, r, rejection)
	}
	rej.few = nil
	return v.deliver(in, rej, w, r, next)
}

// verify verifies a call inside a span, and completes in. It returns nil if the call is
// DOKU's.
func (v *Verify) verify(in *call, w http.ResponseWriter, r *http.Request) *reasons.Rejection {
	telemetry.Cleanse(in.span)
	_, span := telemetry.StartSpan(r.Context(), "doku.verify")
	defer span.End()
	rejection := v.check(in, w, r)
	if span.IsRecording() {
		in.traceVerified(span, rejection)
	}
	return rejection
}

// check makes the checks, in their order.
func (v *Verify) check(in *call, w http.ResponseWriter, r *http.Request) *reasons.Rejection {
	if in.method != http.MethodPost {
		return reject(reasons.Method, "", notPOST(in.method))
	}
	if r.ContentLength > v.MaxBody {
		return unread(httpio.TooLarge(v.MaxBody))
	}
	account, err := v.selector.Account(r)
	if err != nil {
		return strange(err, snap.HeaderPartnerID, r.Header, func() error { return v.checkStranger(in, r.Header) })
	}
	in.account = account
	checker, err := account.Credentials().Verifier(verifier.TokenMode(v.Token), v.forms)
	if err != nil { // Validate has found it
		return reject(reasons.Other, "", err)
	}
	head, err := checker.Head(in.method, in.target, r.Header, v.now())
	in.age, in.aged = head.Age, !head.Timestamp.IsZero()
	if err != nil {
		return rejectionOf(err)
	}
	began := v.now()
	share := v.guard.share(verifier.TokenMode(v.Token) == verifier.TokenIssued)
	body, release, err := share.Read(w, r, v.MaxBody, time.Duration(v.BodyTimeout))
	defer release() // verified or refused
	in.body = body
	in.waited += v.now().Sub(began)
	if err != nil {
		return unread(err)
	}
	in.read = true
	if in.verified, err = head.Verify(in.body, httpio.GetBuffer(len(in.body))); err != nil {
		rejection := rejectionOf(err)
		if !v.guard.log.Silent(telemetry.Refusals{Reason: rejection.Reason, Service: string(in.service), Account: account.Name}) {
			rejection.Hint = v.hint(in, &head, r.Header, rejection)
		}
		return rejection
	}
	return v.identify(in, &head, r.Header.Get(snap.HeaderSignature))
}

// checkStranger checks a call that no account is found for.
func (v *Verify) checkStranger(in *call, h http.Header) error {
	checker, err := v.selector.Any().Credentials().Verifier(verifier.TokenMode(v.Token), v.forms)
	if err != nil {
		return err
	}
	_, err = checker.Head(in.method, in.target, h, v.now())
	return err
}

// identify completes the identity of a call whose signature matches. Base64 has one text for
// each signature, since the verifier reads it strictly.
func (v *Verify) identify(in *call, head *verifier.Head, signature string) *reasons.Rejection {
	if in.service == snap.ServiceUnknown {
		return unknownService(in.target)
	}
	in.id = ledger.Identity{
		Account: in.account.Name, Service: in.service, ExternalID: head.ExternalID, Day: snap.Day(head.Timestamp), Digest: in.verified.Digest,
		Signature: signature,
	}
	if in.service.Notification() {
		in.id.PaymentID = snap.PaymentID(in.service, in.verified.Canonical)
	}
	if in.verified.Signature == verifier.Symmetric {
		in.account.Credentials().Use().Matched(v.now())
	}
	telemetry.VerifiedCalls.WithLabelValues(in.account.Name, string(in.verified.Signature), string(in.verified.BodyForm)).Inc()
	return nil
}

// asCalled returns method and target as DOKU called them: as they arrived, before any
// rewrite in this sidecar, and with the changes of a proxy in front undone.
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
