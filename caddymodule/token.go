package caddymodule

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/verifier"
)

func init() {
	caddy.RegisterModule(Token{})
}

// Token answers DOKU's requests for a token (service 73): put it at the path
// that is set as Token URL in DOKU's dashboard. It checks DOKU's RSA signature
// over X-CLIENT-KEY and X-TIMESTAMP, and that the time is within 10 minutes
// back and 2 ahead, and gives a token good for 900 s, which `doku_verify`
// recognizes. The app never sees these requests.
//
// A refusal is answered with the SNAP code of the case, such as 4017300, and
// the header `X-Doku-Error`; the precise reason is logged, counted, and set as
// placeholder `{http.doku.reason}`.
type Token struct {
	// The name of the account, which may be a placeholder. Default: the only
	// account, or the one whose client key is in X-CLIENT-KEY.
	Account string `json:"account,omitempty"`

	guard   guard
	chooser *chooser
	now     func() time.Time
}

// CaddyModule returns the Caddy module information.
func (Token) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.doku_token", New: func() caddy.Module { return new(Token) }}
}

// Provision finds the account.
func (t *Token) Provision(ctx caddy.Context) error {
	app, err := findApp(ctx)
	if err != nil {
		return err
	}
	if t.chooser, err = app.choose(t.Account, snap.HeaderClientKey, func(a *Account) string { return a.clientKey }); err != nil {
		return err
	}
	t.guard, err = newGuard(ctx)
	t.now = time.Now
	return err
}

// Validate checks that DOKU can be recognized.
func (t *Token) Validate() error { return t.chooser.needDOKUKeys("doku_token") }

// tokenAnswer is the body of a granted token request ("Get Token B2B").
type tokenAnswer struct {
	snap.Answer
	AccessToken    string `json:"accessToken"`
	TokenType      string `json:"tokenType"`
	ExpiresIn      int    `json:"expiresIn"`
	AdditionalInfo string `json:"additionalInfo"`
}

const tokenRequestLargest = 16 << 10

// ServeHTTP answers a token request. It never calls next.
func (t *Token) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	const service = snap.ServiceB2BToken
	cleanse(trace.SpanFromContext(r.Context()))
	_, span := startSpan(r.Context(), "doku.issue_token")
	defer span.End()
	refuse := refuser{guard: t.guard, service: service}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return refuse.refuse(w, r, refusal{snap.MethodNotAllowed, "method", notPOST(r.Method)})
	}
	body, err := readInbound(w, r, tokenRequestLargest, defaultBodyTimeout)
	if err != nil {
		abandon(w, r)
		return refuse.refuse(w, r, unread(err))
	}
	account, err := t.chooser.account(r)
	if err != nil {
		return refuse.refuse(w, r, stranger(r.Header, snap.HeaderClientKey, err))
	}
	refuse.account = account.Name
	c := account.credentials()
	if err := c.requests.Verify(r.Header, body, t.now()); err != nil {
		return refuse.refuse(w, r, refusalOf(err))
	}
	token, err := c.issuer.Issue()
	if err != nil {
		return refuse.refuse(w, r, refusal{snap.GeneralError, "issuing", err})
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
	refuse.count(outcomeIssued)
	t.guard.log.LogAttrs(r.Context(), slog.LevelDebug, "DOKU got a token", slog.String("account", account.Name), slog.String("service", string(service)))
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

var (
	_ caddy.Provisioner           = (*Token)(nil)
	_ caddy.Validator             = (*Token)(nil)
	_ caddyhttp.MiddlewareHandler = (*Token)(nil)
)
