// Package site has what concerns a site as a whole: the directive doku_app, which writes
// a site for DOKU's calls, and the handlers doku_tracing and doku_unhandled.
package site

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-doku/caddy-doku/caddymodule/inbound"
	"github.com/caddy-doku/caddy-doku/caddymodule/inboxes"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/directive"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/routes"
	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/verifier"
)

func init() {
	httpcaddyfile.RegisterDirective(directive.App, parseApp)
	httpcaddyfile.RegisterHandlerDirective(directive.Tracing, parseTracing)
	httpcaddyfile.RegisterHandlerDirective(directive.Unhandled, parseUnhandled)
}

// defaultPath has DOKU's calls, if doku_app names no others.
const defaultPath = "/v1.1/transfer-va/*"

// app is what a directive doku_app says.
type app struct {
	tokenPath string
	paths     []appPath
	verify    *inbound.Verify
	inbox     *inboxes.Inbox
}

// appPath is a path of DOKU's calls to the app.
type appPath struct {
	pattern string
	service string // or "": by the end of the path
}

// parseApp writes the routes of a site for DOKU's calls. Syntax:
//
//	doku_app <upstreams...> {
//		token_path <path>
//		path       <paths...> [service <code>]
//		<the options of doku_verify and doku_inbox>
//	}
//
// is the same as, in this order and whatever else is in the site,
//
//	@doku path <token_path> <paths...>
//	doku_untrusted_trace @doku
//	doku_tracing @doku
//	doku_token <token_path>
//	doku_verify <paths...>
//	doku_inbox <paths...> <upstreams...>
//	doku_unhandled
//
// It answers every path, so it has no matcher, and nothing may stand behind it.
func parseApp(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	if !h.Next() {
		return nil, h.ArgErr()
	}
	if err := neverReached(h); err != nil {
		return nil, err
	}
	a, err := readApp(h)
	if err != nil {
		return nil, err
	}
	return []httpcaddyfile.ConfigValue{{Class: "route", Value: caddyhttp.Subroute{Routes: a.routes()}}}, nil
}

// readApp reads the directive's arguments and options. It hands the options of doku_verify
// and doku_inbox on to these directives, so that both have the same ones.
func readApp(h httpcaddyfile.Helper) (*app, error) {
	a, d := new(app), h.Dispenser
	head := d.Token()
	var upstreams, verify, inbox []caddyfile.Token
	for d.NextArg() {
		if text := d.Val(); text == "*" || strings.HasPrefix(text, "/") || strings.HasPrefix(text, "@") {
			return nil, d.Errf("doku_app answers every path of its site, so it has no matcher; expected the app's address, such as "+
				"127.0.0.1:3000, found '%s'; write the paths of DOKU's calls in its block: `path %s`", text, cmp.Or(text, defaultPath))
		}
		upstreams = append(upstreams, d.Token())
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		switch d.Val() {
		case "token_path":
			if err := directive.Text(d, &a.tokenPath); err != nil {
				return nil, err
			}
			continue
		case "path":
			if err := a.readPaths(d); err != nil {
				return nil, err
			}
			continue
		case "app_answers": // both parts have it, and the inbox is the one that asks the app
			inbox = append(inbox, d.NextSegment()...)
			continue
		}
		segment := d.NextSegment()
		ofVerify, err := belongsToVerify(segment)
		switch {
		case err != nil:
			return nil, err
		case ofVerify:
			verify = append(verify, segment...)
		default:
			inbox = append(inbox, segment...)
		}
	}
	a.verify = new(inbound.Verify)
	if err := a.verify.UnmarshalCaddyfile(caddyfile.NewDispenser(block(head, directive.Verify, nil, verify))); err != nil {
		return nil, err
	}
	var err error
	if a.inbox, err = inboxes.Parse(h.WithDispenser(caddyfile.NewDispenser(block(head, directive.Inbox, upstreams, inbox)))); err != nil {
		if unknown, ok := errors.AsType[*directive.UnknownError](err); ok {
			err = unknownOption(unknown, inbox)
		}
		return nil, err
	}
	return a, a.check(d)
}

// readPaths reads an option path.
func (a *app) readPaths(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	service := ""
	if at := slices.Index(args, "service"); at >= 0 {
		if at != len(args)-2 {
			return d.Errf("path: expected a service of two digits at the end, such as `path /payments service 25`")
		}
		args, service = args[:at], args[at+1]
		if err := snap.Service(service).CheckInbound(); err != nil {
			return d.Errf("path: service: %v", err)
		}
	}
	if len(args) == 0 {
		return d.Errf("path: expected a path such as %s", defaultPath)
	}
	for _, pattern := range args {
		if !strings.HasPrefix(pattern, "/") || strings.ContainsAny(pattern, "{}?#") {
			return d.Errf("path: expected a path that begins with /, such as %s, found '%s'", defaultPath, pattern)
		}
		if slices.ContainsFunc(a.paths, func(p appPath) bool { return strings.EqualFold(p.pattern, pattern) }) {
			return d.Errf("path: '%s' is already specified", pattern)
		}
		a.paths = append(a.paths, appPath{pattern, service})
	}
	return nil
}

// check sets the defaults, and checks what belongs together.
func (a *app) check(d *caddyfile.Dispenser) error {
	if len(a.paths) == 0 {
		a.paths = []appPath{{pattern: defaultPath}}
	}
	if a.tokenPath == "" && a.issuesTokens() {
		a.tokenPath = directive.DefaultTokenPath
	}
	if a.tokenPath != "" && (!strings.HasPrefix(a.tokenPath, "/") || strings.ContainsAny(a.tokenPath, "*{}?#")) {
		return d.Errf("token_path: expected a path such as %s, found '%s'", directive.DefaultTokenPath, a.tokenPath)
	}
	if err := a.checkTokenPath(); err != nil {
		return d.WrapErr(err)
	}
	for _, p := range a.paths {
		if service, _ := snap.ServiceOf(http.MethodPost, p.pattern); p.service == "" && a.verify.Service == "" &&
			service.Inbound() == "" && !strings.Contains(p.pattern, "*") {
			return d.Errf("path: '%s' does not tell the service; write `path %[1]s service 25` for payment notifications, 24 for inquiries",
				p.pattern)
		}
	}
	// As Caddy sorts directives: the longer path is the more specific one.
	slices.SortStableFunc(a.paths, func(p, q appPath) int {
		return cmp.Compare(len(strings.TrimSuffix(q.pattern, "*")), len(strings.TrimSuffix(p.pattern, "*")))
	})
	return nil
}

// checkTokenPath returns an error if one call would be both a token request and another
// call of DOKU.
func (a *app) checkTokenPath() error {
	if service, _ := snap.ServiceOf(http.MethodPost, a.tokenPath); service != snap.ServiceUnknown && service != snap.ServiceB2BToken {
		return fmt.Errorf("token_path: '%s' ends like a path of service %s, not of token requests; expected a path such as %s",
			a.tokenPath, service, directive.DefaultTokenPath)
	}
	for _, p := range a.paths {
		if service, _ := snap.ServiceOf(http.MethodPost, p.pattern); service == snap.ServiceB2BToken || service == snap.ServiceB2B2CToken {
			return fmt.Errorf("path: '%s' ends like the path of DOKU's token requests; write `token_path %[1]s`", p.pattern)
		}
		switch {
		case a.tokenPath == "":
		case strings.EqualFold(p.pattern, a.tokenPath):
			return fmt.Errorf("doku_app: '%s' is both token_path and path", a.tokenPath)
		case routes.MatchPath(p.pattern, a.tokenPath) || routes.MatchPath(p.pattern, httpio.CleanPath(a.tokenPath)):
			return fmt.Errorf("doku_app: token_path '%s' is one of `path %s` too; write paths that leave it out, such as %s",
				a.tokenPath, p.pattern, defaultPath)
		case httpio.CleanPath(p.pattern) == httpio.CleanPath(a.tokenPath):
			return fmt.Errorf("doku_app: token_path '%s' and path '%s' are two spellings of one path", a.tokenPath, p.pattern)
		case !strings.Contains(p.pattern, "*") && strings.HasPrefix(strings.ToLower(a.tokenPath), strings.ToLower(p.pattern)+"/"):
			return fmt.Errorf("doku_app: token_path '%s' is below the path '%s'; write another one, such as %s", a.tokenPath, p.pattern,
				directive.DefaultTokenPath)
		}
	}
	return nil
}

// issuesTokens reports whether doku_verify expects tokens that doku_token has issued.
func (a *app) issuesTokens() bool {
	return verifier.TokenMode(cmp.Or(a.verify.Token, string(verifier.TokenIssued))) == verifier.TokenIssued
}

// routes returns the routes of the site.
func (a *app) routes() caddyhttp.RouteList {
	var all []string
	if a.tokenPath != "" {
		all = append(all, a.tokenPath)
	}
	for _, p := range a.paths {
		all = append(all, p.pattern)
	}
	list := caddyhttp.RouteList{route(all,
		caddyconfig.JSONModuleObject(inbound.UntrustedTrace{}, "handler", directive.UntrustedTrace, nil),
		caddyconfig.JSONModuleObject(Tracing{}, "handler", directive.Tracing, nil))}
	if a.tokenPath != "" {
		token := inbound.Token{Account: a.verify.Account}
		list = append(list, route([]string{a.tokenPath}, caddyconfig.JSONModuleObject(token, "handler", directive.Token, nil)))
	}
	inbox := caddyconfig.JSONModuleObject(a.inbox, "handler", directive.Inbox, nil)
	for i := 0; i < len(a.paths); {
		first := a.paths[i]
		var patterns []string
		for ; i < len(a.paths) && a.paths[i].service == first.service; i++ {
			patterns = append(patterns, a.paths[i].pattern)
		}
		verify := *a.verify
		verify.Service = cmp.Or(first.service, verify.Service)
		list = append(list, route(patterns, caddyconfig.JSONModuleObject(&verify, "handler", directive.Verify, nil), inbox))
	}
	return append(list, route(nil, caddyconfig.JSONModuleObject(Unhandled{}, "handler", directive.Unhandled, nil)))
}

// route returns a route for paths, or for all if there are none.
func route(paths []string, handlers ...json.RawMessage) caddyhttp.Route {
	r := caddyhttp.Route{HandlersRaw: handlers}
	if len(paths) > 0 {
		r.MatcherSetsRaw = caddyhttp.RawMatcherSets{caddy.ModuleMap{"path": caddyconfig.JSON(paths, nil)}}
	}
	return r
}

// belongsToVerify reports whether an option is one of doku_verify, and returns what is
// wrong with it.
func belongsToVerify(option caddyfile.Segment) (bool, error) {
	err := new(inbound.Verify).UnmarshalCaddyfile(caddyfile.NewDispenser(block(option[0], directive.Verify, nil, option)))
	if _, ok := errors.AsType[*directive.UnknownError](err); ok {
		return false, nil
	}
	return true, err
}

// unknownOption returns the error of an option that doku_inbox, the last to be asked, does
// not know either, with its place and with all that doku_app allows.
func unknownOption(of *directive.UnknownError, options []caddyfile.Token) error {
	allowed := []string{"token_path", "path"}
	probe := caddyfile.Token{Text: of.Name}
	err := new(inbound.Verify).UnmarshalCaddyfile(caddyfile.NewDispenser(block(probe, directive.Verify, nil, []caddyfile.Token{probe})))
	if ofVerify, ok := errors.AsType[*directive.UnknownError](err); ok {
		allowed = append(allowed, ofVerify.Allowed...)
	}
	for _, name := range of.Allowed {
		if !slices.Contains(allowed, name) {
			allowed = append(allowed, name)
		}
	}
	err = &directive.UnknownError{Name: of.Name, Allowed: allowed}
	at := slices.IndexFunc(options, func(t caddyfile.Token) bool { return t.Text == of.Name })
	if at < 0 {
		return err
	}
	d := caddyfile.NewDispenser(options[at : at+1])
	d.Next()
	return d.WrapErr(err)
}

// block returns the tokens of a directive with arguments and options, which keep their
// places for errors. head is the token whose place the directive has.
func block(head caddyfile.Token, name string, args, options []caddyfile.Token) []caddyfile.Token {
	at := func(text string, line int) caddyfile.Token {
		t := head.Clone()
		t.Text, t.Line = text, line
		return t
	}
	tokens := append([]caddyfile.Token{at(name, head.Line)}, args...)
	if len(options) == 0 {
		return tokens
	}
	last := tokens[len(tokens)-1]
	opening := last.Line + last.NumLineBreaks()
	tokens = append(tokens, at("{", opening))
	tokens = append(tokens, options...)
	last = options[len(options)-1]
	return append(tokens, at("}", last.Line+last.NumLineBreaks()+1))
}
