package site

import (
	"cmp"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/directive"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/routes"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/snap"
)

func init() {
	caddy.RegisterModule(Unhandled{})
}

// Unhandled is the last word of a site for DOKU's calls: it answers 404 with a SNAP body.
// Without it, a request that no handler answers gets an empty 200 from Caddy, which DOKU
// takes for "received". `doku_app` ends with it.
//
// A signed call that comes here means that the URL at DOKU is not the one in the
// configuration: one warning a minute says which, and what to write.
type Unhandled struct {
	log    *slog.Logger
	pacing *pacing
}

// pacing says when the next warning is due. It is safe for concurrent use.
type pacing struct {
	now func() time.Time

	mu      sync.Mutex
	last    time.Time
	skipped int // since then
}

// due reports whether a warning is due, and how many were skipped since the last one.
func (p *pacing) due() (skipped int, due bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if !p.last.IsZero() && now.Sub(p.last) < unhandledInterval {
		p.skipped++
		return 0, false
	}
	skipped, p.last, p.skipped = p.skipped, now, 0
	return skipped, true
}

// unhandledInterval is the time between two warnings of one handler.
const unhandledInterval = time.Minute

// CaddyModule returns the Caddy module information.
func (Unhandled) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers." + directive.Unhandled, New: func() caddy.Module { return new(Unhandled) }}
}

// Provision sets the log.
func (u *Unhandled) Provision(ctx caddy.Context) error {
	u.log, u.pacing = ctx.Slogger(), &pacing{now: time.Now}
	return nil
}

// ServeHTTP answers 404. It never calls next.
func (u *Unhandled) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	telemetry.Cleanse(trace.SpanFromContext(r.Context()))
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && signed(r.Header) {
		u.warn(r, original.Method, original.RequestURI)
	}
	return httpio.Reject(w, snap.ServiceUnknown, snap.NotFound, "path_unknown")
}

// signed reports whether a request looks like a call from DOKU.
func signed(h http.Header) bool {
	return h.Get(snap.HeaderSignature) != "" && (h.Get(snap.HeaderPartnerID) != "" || h.Get(snap.HeaderClientKey) != "")
}

// warn warns of a signed call, once a minute.
func (u *Unhandled) warn(r *http.Request, method, target string) {
	skipped, due := u.pacing.due()
	if !due {
		return
	}
	path, _, _ := strings.Cut(target, "?")
	var served []string
	if server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		served = servedPaths(server)
	}
	u.log.LogAttrs(r.Context(), slog.LevelWarn, "a signed call came to a path or host that nobody handles, and got 404",
		slog.String("method", printable(method)), slog.String("host", printable(r.Host)), slog.String("path", printable(path)),
		slog.Int("more_since_the_last_warning", skipped), slog.String("hint", hint(path, served)), slog.String("remote", r.RemoteAddr))
}

// printable returns a text from outside for the log: short, in visible ASCII.
func printable(text string) string {
	const most = 200
	clean := strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, text)
	if len(clean) > most {
		clean = clean[:most] + "…"
	}
	return clean
}

// hint says what to do about a signed call to a path, if the server handles others.
func hint(path string, served []string) string {
	plain := printable(httpio.CleanPath(path))
	for _, pattern := range served {
		if routes.MatchPath(pattern, plain) || routes.MatchPath(httpio.CleanPath(pattern), plain) {
			return "the URL at DOKU is spelt otherwise than in the Caddyfile, which has " + pattern +
				" (or it came under another host name): correct one of them"
		}
	}
	service, _ := snap.ServiceOf(http.MethodPost, plain)
	switch {
	case service == snap.ServiceB2BToken:
		return "if this is the Token URL at DOKU, write `token_path " + printable(
			path,
		) + "` in doku_app, or `doku_token " + printable(
			path,
		) + "`"
	case service == snap.ServiceVAInquiry || service.Notification():
		return "if this is the URL at DOKU, write `path " + printable(
			path,
		) + "` in doku_app, or this path behind doku_verify and doku_inbox"
	}
	return "if this is the URL of payment notifications at DOKU, write `path " + printable(path) +
		" service 25` in doku_app (24 for inquiries); otherwise somebody else is calling"
}

// servedPaths returns the path patterns of a server that doku_token and doku_verify stand
// at, the longest first.
func servedPaths(server *caddyhttp.Server) []string {
	var all []string
	for _, place := range routes.New(server, nil).Places(routes.Named(directive.Token, directive.Verify)) {
		all = append(all, place.Paths...)
	}
	slices.SortFunc(all, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), strings.Compare(a, b)) })
	return slices.Compact(all)
}

func parseUnhandled(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	u := new(Unhandled)
	return u, u.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	doku_unhandled [<matcher>]
func (u *Unhandled) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return noOptions(d) }

var (
	_ caddy.Provisioner           = (*Unhandled)(nil)
	_ caddyfile.Unmarshaler       = (*Unhandled)(nil)
	_ caddyhttp.MiddlewareHandler = (*Unhandled)(nil)
)
