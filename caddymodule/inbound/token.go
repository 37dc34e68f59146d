package inbound

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/caddymodule/doku"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/verifier"
)

func init() {
	caddy.RegisterModule(Token{})
}

// Token answers DOKU's token requests (service 73). Put it at the path that is set as
// Token URL in DOKU's dashboard. It checks DOKU's RSA signature over X-CLIENT-KEY and
// X-TIMESTAMP, and that the time is at most 10 minutes back and 2 minutes ahead. It
// issues a token for 900 s, which `doku_verify` recognizes. The same request gets the
// same token again, which expires 25 minutes after its X-TIMESTAMP. The app never sees
// these requests.
//
// A refused request gets the SNAP code of the case, such as 4017300, and the header
// `X-Doku-Error`. The precise reason is logged, counted, and set as the placeholder
// `{http.doku.reason}`.
type Token struct {
	// The name of the account, which may be a placeholder. Default: the only
	// account, or the one whose client key is in X-CLIENT-KEY.
	Account string `json:"account,omitempty"`

	base     Base
	guard    *guard
	selector *doku.Selector
	now      func() time.Time
}

// CaddyModule returns the Caddy module information.
func (Token) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.doku_token", New: func() caddy.Module { return new(Token) }}
}

// Provision finds the account.
func (t *Token) Provision(ctx caddy.Context) error {
	app, err := doku.Find(ctx)
	if err != nil {
		return err
	}
	t.guard = doku.PartOf[*guard](app)
	if t.selector, err = app.Select(t.Account, snap.HeaderClientKey, (*doku.Account).ClientKey); err != nil {
		return err
	}
	t.base, err = NewBase(ctx)
	t.now = time.Now
	return err
}

// Validate checks that there are keys to verify DOKU's requests with.
func (t *Token) Validate() error { return t.selector.NeedDOKUKeys("doku_token") }

// tokenAnswer is the body of a granted token request ("Get Token B2B").
type tokenAnswer struct {
	snap.Answer
	AccessToken    string `json:"accessToken"`
	TokenType      string `json:"tokenType"`
	ExpiresIn      int    `json:"expiresIn"`
	AdditionalInfo string `json:"additionalInfo"`
}

const maxTokenRequest = 16 << 10 // bytes

// withTokenHint gives the rejection of a token request a hint of its own if the signature
// does not match: the secret key has no part in it.
func withTokenHint(rejection *reasons.Rejection) *reasons.Rejection {
	if rejection.Reason == reasons.Signature {
		rejection.Hint = "compare doku_public_key with DOKU's dashboard: DOKU signs token requests with its RSA key; otherwise it is a forgery"
	}
	return rejection
}

// ServeHTTP answers a token request. It never calls next.
func (t *Token) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	const service = snap.ServiceB2BToken
	telemetry.Cleanse(trace.SpanFromContext(r.Context()))
	_, span := telemetry.StartSpan(r.Context(), "doku.issue_token")
	defer span.End()
	closeChunked(w, r)
	rej := rejecter{Base: t.base, service: service, few: t.guard.log}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return rej.reject(w, r, reject(reasons.Method, "", notPOST(r.Method)))
	}
	grant, account, rejection := t.check(w, r)
	if account != nil {
		rej.account = account.Name
	}
	if rejection != nil {
		return rej.reject(w, r, rejection)
	}
	token, err := account.Credentials().Issuer().IssueFor(grant)
	if err != nil {
		return rej.reject(w, r, reject(reasons.Issuing, "", err))
	}
	answered, err := json.Marshal(tokenAnswer{
		Answer:      snap.Answer{ResponseCode: snap.Successful.Code(service), ResponseMessage: snap.Successful.Message},
		AccessToken: token,
		TokenType:   "Bearer",
		ExpiresIn:   int(verifier.TokenLife / time.Second),
	})
	if err != nil {
		return err
	}
	rej.count(reasons.Issued)
	t.base.Log.LogAttrs(r.Context(), slog.LevelDebug, "DOKU got a token",
		slog.String("account", account.Name), slog.String("service", string(service)))
	traceIssued(r, account.Name)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(answered)))
	h.Set("Cache-Control", "no-store")
	h.Set(snap.HeaderClientKey, r.Header.Get(snap.HeaderClientKey))
	h.Set(snap.HeaderTimestamp, snap.Timestamp(t.now()))
	_, err = w.Write(answered)
	return err
}

// check checks a token request. It reads the body, which is not signed, last: a stranger
// cannot send one.
func (t *Token) check(w http.ResponseWriter, r *http.Request) (verifier.Grant, *doku.Account, *reasons.Rejection) {
	account, err := t.selector.Account(r)
	if err != nil {
		httpio.Abandon(w, r)
		return verifier.Grant{}, nil, withTokenHint(strange(err, snap.HeaderClientKey, r.Header, func() error {
			_, err := t.selector.Any().Credentials().TokenRequest().Head(r.Header, t.now())
			return err
		}))
	}
	head, err := account.Credentials().TokenRequest().Head(r.Header, t.now())
	if err != nil {
		httpio.Abandon(w, r)
		return verifier.Grant{}, account, withTokenHint(rejectionOf(err))
	}
	body, release, err := t.guard.share(true).Read(w, r, maxTokenRequest, defaultBodyTimeout)
	defer release()
	if err != nil {
		httpio.Abandon(w, r)
		return verifier.Grant{}, account, unread(err)
	}
	grant, err := head.Grant(body)
	if err != nil {
		return verifier.Grant{}, account, rejectionOf(err)
	}
	return grant, account, nil
}

var (
	_ caddy.Provisioner           = (*Token)(nil)
	_ caddy.Validator             = (*Token)(nil)
	_ caddyhttp.MiddlewareHandler = (*Token)(nil)
)
