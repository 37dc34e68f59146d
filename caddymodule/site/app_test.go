package site_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // the directives beside ours

	_ "github.com/caddy-doku/caddy-doku/caddymodule" // the directives and their order
)

// adapt returns the JSON of a Caddyfile, or its error.
func adapt(config string) (string, error) {
	adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
	got, _, err := adapter.Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
	return string(got), err
}

// handlers returns the names of the handlers of a site's routes in their order, each with
// the paths of its route.
func handlers(t *testing.T, config string) string {
	t.Helper()
	adapted, err := adapt(config)
	if err != nil {
		t.Fatal(err)
	}
	var parsed struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct {
					Routes []struct {
						Match  []struct{ Path []string }
						Handle []struct{ Handler, Service, Account, Policy string }
					}
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(adapted), &parsed); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, route := range parsed.Apps.HTTP.Servers["srv0"].Routes {
		at := ""
		for _, set := range route.Match {
			at = " " + strings.Join(set.Path, " ")
		}
		for _, h := range route.Handle {
			name := strings.TrimPrefix(h.Handler, "doku_")
			for _, of := range []string{h.Account, h.Service, h.Policy} {
				if of != "" {
					name += ":" + of
				}
			}
			all = append(all, name+at)
		}
	}
	return strings.Join(all, "\n")
}

// traced returns the handlers of traces at paths.
func traced(at string) string { return "untrusted_trace " + at + "\ntracing " + at }

func TestDokuAppWritesTheWholeSite(t *testing.T) {
	t.Parallel()
	const token, paths = "/authorization/v1/access-token/b2b", "/v1.1/transfer-va/*"
	for name, test := range map[string]struct{ config, want string }{
		"by itself": {
			"doku_app 127.0.0.1:3000",
			traced(token+" "+paths) + "\ntoken " + token + "\nverify " + paths + "\ninbox " + paths + "\nunhandled",
		},
		"with other paths": {
			"doku_app 127.0.0.1:3000 {\ntoken_path /t\npath /pay service 25\npath /bill /bills/* service 24\npath /v1/transfer-va/*\n}",
			traced("/t /v1/transfer-va/* /bills/* /bill /pay") + "\ntoken /t\n" +
				"verify /v1/transfer-va/*\ninbox /v1/transfer-va/*\nverify:24 /bills/* /bill\ninbox /bills/* /bill\nverify:25 /pay\ninbox /pay\nunhandled",
		},
		"with an account and options of both parts": {
			"doku_app 127.0.0.1:3000 127.0.0.1:3001 {\naccount kopi\npolicy durable\ntimeout 3s\nname two\n}",
			traced(token+" "+paths) + "\ntoken:kopi " + token + "\nverify:kopi " + paths + "\ninbox:durable " + paths + "\nunhandled",
		},
		"with tokens of somebody else": {
			"doku_app 127.0.0.1:3000 {\ntoken any\n}",
			traced(paths) + "\nverify " + paths + "\ninbox " + paths + "\nunhandled",
		},
		"with directives that only prepare": {
			"doku_app 127.0.0.1:3000\nlog\ntls internal\nheader X-A b\nrequest_body {\nmax_size 1MB\n}\nbind 127.0.0.1",
			"headers\nrequest_body\n" + traced(token+" "+paths) + "\ntoken " + token + "\nverify " + paths + "\ninbox " + paths + "\nunhandled",
		},
		"with a block deliver": {
			"doku_app {\ndeliver {\nreverse_proxy {\nto 127.0.0.1:3000\n}\n}\nbody_timeout 3s\n}",
			traced(token+" "+paths) + "\ntoken " + token + "\nverify " + paths + "\ninbox " + paths + "\nunhandled",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := handlers(t, ":8443 {\n"+test.config+"\n}\n"); got != test.want {
				t.Errorf("found\n%s\nexpected\n%s", got, test.want)
			}
		})
	}
}

func TestDokuAppInARouteKeepsWhatStandsBeforeIt(t *testing.T) {
	t.Parallel()
	got, err := adapt(":8443 {\nroute {\n@stranger not remote_ip 10.0.0.0/8\nrespond @stranger 403\ndoku_app 127.0.0.1:3000\n}\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	if at := strings.Index(got, "static_response"); at < 0 || at > strings.Index(got, "doku_token") {
		t.Errorf("found %s", got)
	}
}

func TestMistakesInDokuAppAreToldWithTheirPlace(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ site, want string }{
		"no address":              {"doku_app", "expected the app's address"},
		"a matcher":               {"doku_app /pay/* 127.0.0.1:3000", "has no matcher"},
		"a named matcher":         {"@a path /a\ndoku_app @a 127.0.0.1:3000", "has no matcher"},
		"an unknown option":       {"doku_app 127.0.0.1:3000 {\ntimeuot 3s\n}", "unrecognized subdirective 'timeuot'; expected one of: token_path, path, account, "},
		"a bad value of verify":   {"doku_app 127.0.0.1:3000 {\npolicy durable\ntimeout soon\n}", "expected a duration such as 20s, found 'soon', at Caddyfile:4"},
		"a bad value of inbox":    {"doku_app 127.0.0.1:3000 {\ntimeout 3s\nconcurrency many\n}", "found 'many', at Caddyfile:4"},
		"a path without a slash":  {"doku_app 127.0.0.1:3000 {\npath pay\n}", "found 'pay', at Caddyfile:3"},
		"no path":                 {"doku_app 127.0.0.1:3000 {\npath\n}", "path: expected a path such as"},
		"no service":              {"doku_app 127.0.0.1:3000 {\npath /pay service\n}", "expected a service of two digits"},
		"a service of the app's":  {"doku_app 127.0.0.1:3000 {\npath /pay service 27\n}", "expected 24 (inquiries about a virtual account), 25 ("},
		"a service for all":       {"doku_app 127.0.0.1:3000 {\nservice 52\n}", "found \"52\", which is none that DOKU calls you for, at Caddyfile:3"},
		"a path of the app's":     {"doku_app 127.0.0.1:3000 {\npath /v1.1/transfer-va/create-va\n}", "does not tell the service"},
		"a service of three":      {"doku_app 127.0.0.1:3000 {\npath /pay service 250\n}", "found \"250\""},
		"a path twice":            {"doku_app 127.0.0.1:3000 {\npath /pay /PAY\n}", "'/PAY' is already specified"},
		"one path for both":       {"doku_app 127.0.0.1:3000 {\ntoken_path /pay\npath /pay\n}", "both token_path and path"},
		"a token path of calls":   {"doku_app 127.0.0.1:3000 {\ntoken_path /v1.1/transfer-va/token\n}", "is one of `path /v1.1/transfer-va/*` too"},
		"a covered token path":    {"doku_app 127.0.0.1:3000 {\npath /*\n}", "is one of `path /*` too"},
		"in other letters":        {"doku_app 127.0.0.1:3000 {\npath /doku/*\ntoken_path /DOKU/token\n}", "is one of `path /doku/*` too"},
		"a payment's token path":  {"doku_app 127.0.0.1:3000 {\npath /pay service 25\ntoken_path /v1.1/transfer-va/payment\n}", "ends like a path of service 25"},
		"a token path below":      {"doku_app 127.0.0.1:3000 {\npath /pay service 25\ntoken_path /pay/token\n}", "is below the path '/pay'"},
		"a token path's escape":   {"doku_app 127.0.0.1:3000 {\npath /pay service 25\ntoken_path /p%61y\n}", "is one of `path /pay` too"},
		"a token path as a path":  {"doku_app 127.0.0.1:3000 {\npath /authorization/v1/access-token/b2b service 25\n}", "write `token_path /auth"},
		"a pattern for tokens":    {"doku_app 127.0.0.1:3000 {\ntoken_path /t/*\n}", "token_path: expected a path such as"},
		"a respond":               {"doku_app 127.0.0.1:3000\nrespond 404", "respond at Caddyfile:3 is never reached: doku_app answers every path of its site"},
		"a respond at a path":     {"respond /healthz 200\ndoku_app 127.0.0.1:3000", "respond at Caddyfile:2 is never reached"},
		"a proxy":                 {"doku_app 127.0.0.1:3000\nreverse_proxy /shop/* 127.0.0.1:80", "reverse_proxy at Caddyfile:3 is never reached"},
		"a handle":                {"doku_app 127.0.0.1:3000\nhandle /shop/* {\nrespond ok\n}", "handle at Caddyfile:3 is never reached"},
		"files":                   {"root * /srv\nfile_server\ndoku_app 127.0.0.1:3000 {\ntimeout 3s\n}", "file_server at Caddyfile:3 is never reached"},
		"a password":              {"basic_auth {\na b\n}\ndoku_app 127.0.0.1:3000", "basic_auth at Caddyfile:2 is never reached"},
		"doku_verify":             {"doku_verify /a\ndoku_app 127.0.0.1:3000", "doku_verify at Caddyfile:2 is never reached"},
		"two of it":               {"doku_app 127.0.0.1:3000\ndoku_app 127.0.0.1:3001", "two doku_app stand in one site"},
		"behind it in a route":    {"route {\nrespond /x 403\ndoku_app 127.0.0.1:3000 {\ntimeout 3s\n}\nrespond 404\n}", "respond at Caddyfile:7 is never reached"},
		"behind it in a handle":   {"handle {\ndoku_app 127.0.0.1:3000\nmetrics /m\n}", "metrics at Caddyfile:4 is never reached"},
		"doku_tracing with words": {"doku_tracing /a b\nrespond 404", "doku_tracing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := adapt(":8443 {\n" + test.site + "\n}\n"); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("found %v, expected it to contain %q; JSON %.300s", err, test.want, got)
			}
		})
	}
}

func TestADirectiveThatAnOwnOrderPutsBeforeDokuAppIsAllowed(t *testing.T) {
	t.Parallel()
	if _, err := adapt("{\norder respond first\n}\n:8443 {\nrespond /healthz 200\ndoku_app 127.0.0.1:3000\n}\n"); err != nil {
		t.Error(err)
	}
	if _, err := adapt("{\norder respond after doku_app\n}\n:8443 {\nrespond /healthz 200\ndoku_app 127.0.0.1:3000\n}\n"); err == nil {
		t.Error("expected an error")
	}
}

func TestAMisspeltDirectiveIsToldWithTheRightOne(t *testing.T) {
	t.Parallel()
	for word, name := range map[string]string{
		"doku_sing": "doku_sign", "doku_sgn": "doku_sign", "doku_signn": "doku_sign", "doku-sign": "doku_sign", "dokusign": "doku_sign",
		"doku_verfy": "doku_verify", "douk_verify": "doku_verify", "doku_inbux": "doku_inbox", "doku_toke": "doku_token", "doku_ap": "doku_app",
		"doku_apps": "doku_app", "doku_helth": "doku_health", "doku_unhandeld": "doku_unhandled", "DOKU_SIGN": "doku_sign",
	} {
		for _, site := range []string{word + " x", "route {\n" + word + "\n}"} {
			_, err := adapt(":8443 {\n" + site + "\n}\n")
			if want := word + "; did you mean " + name + "?, at Caddyfile:"; err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("found %v, expected it to contain %q", err, want)
			}
		}
	}
}
