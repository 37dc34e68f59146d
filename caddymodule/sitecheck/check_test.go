package sitecheck_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // the directives beside ours

	_ "github.com/caddy-doku/caddy-doku/caddymodule" // the directives and their order
	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

// adapt returns the JSON of a Caddyfile, or its error.
func adapt(config string) (string, error) {
	adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
	got, _, err := adapter.Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
	return string(got), err
}

var validating sync.Mutex // Caddy provisions one configuration at a time

// orders is how often a configuration is provisioned: Caddy takes its apps in a random order.
const orders = 6

// validate validates sites as `caddy-doku validate` does, and returns the warnings about
// them. It fails if the result depends on the order of the apps.
func validate(t *testing.T, sites string) (warnings string, err error) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	adapted, err := adapt(fmt.Sprintf(`{
	admin off
	log {
		output file %s {
			roll_disabled
		}
		format json
	}
	doku {
		environment http://127.0.0.1:1
		account {
			client_id BRN-1
			secret_key SK-0123456789abcdef
			private_key %s
			doku_public_key %s
		}
	}
}
%s
`, log, doktest.Path(t, doktest.MerchantKey), doktest.Path(t, "test-doku-public.pem"), sites))
	if err != nil {
		return "", err
	}
	return validateJSON(t, []byte(adapted), log)
}

func validateJSON(t *testing.T, config []byte, log string) (warnings string, err error) {
	t.Helper()
	validating.Lock()
	defer validating.Unlock()
	for i := range orders {
		if err := os.WriteFile(log, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		var parsed caddy.Config
		if err := json.Unmarshal(config, &parsed); err != nil {
			t.Fatal(err)
		}
		err := caddy.Validate(&parsed)
		text, readErr := os.ReadFile(log)
		if readErr != nil {
			t.Fatal(readErr)
		}
		var found []string
		for line := range bytes.Lines(text) {
			var entry struct{ Level, Logger, Site, Error, Hint string }
			if json.Unmarshal(line, &entry) == nil && entry.Level == "warn" && entry.Site != "" {
				found = append(found, entry.Site+": "+entry.Error+"; "+entry.Hint)
			}
		}
		if i > 0 && strings.Join(found, "\n") != warnings {
			t.Fatalf("warnings depend on the order of the apps:\n%s\n--\n%s", warnings, strings.Join(found, "\n"))
		}
		warnings = strings.Join(found, "\n")
		if i == orders-1 {
			return warnings, err
		}
	}
	return warnings, nil
}

const (
	tokenLine  = "doku_token /authorization/v1/access-token/b2b\n"
	verifyLine = "doku_verify /v1.1/transfer-va/*\n"
	inboxLine  = "doku_inbox /v1.1/transfer-va/* 127.0.0.1:3000\n"
	lastLine   = "doku_unhandled\n"
	goodSite   = tokenLine + verifyLine + inboxLine + lastLine
)

// goodCalls is goodSite without its last line, handledCalls the same in a block.
const (
	goodCalls    = tokenLine + verifyLine + inboxLine
	handledCalls = "handle /v1.1/transfer-va/* {\ndoku_verify\ndoku_inbox 127.0.0.1:3000\n}\n" + tokenLine
	password     = " {\nkopi $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG\n}\n"

	// payHost is a site for DOKU's calls under a name, and one for other names.
	payHost = "http://pay.example.com:8443 {\ndoku_app 127.0.0.1:3000\n}\nhttp://:8443 {\ndoku_unhandled\n}\n"
)

// inSite returns a site on a port with directives.
func inSite(directives string) string { return ":8443 {\n" + directives + "\n}\n" }

func TestGoodSitesAreNeitherRefusedNorWarnedOf(t *testing.T) {
	for name, sites := range map[string]string{
		"doku_app":                     inSite("doku_app 127.0.0.1:3000"),
		"doku_app for two services":    inSite("doku_app 127.0.0.1:3000 {\npath /pay service 25\npath /bill service 24\n}"),
		"doku_app with issued tokens":  "http://:8443 {\ndoku_app 127.0.0.1:3000\n}\n",
		"doku_app behind a filter":     inSite("route {\n@stranger not remote_ip 10.0.0.0/8\nrespond @stranger 403\ndoku_app 127.0.0.1:3000\n}"),
		"doku_app in a handle":         inSite("handle {\ndoku_app 127.0.0.1:3000\n}\nhandle /healthz {\nrespond ok\n}"),
		"by hand":                      inSite(goodSite),
		"by hand with a respond":       inSite(tokenLine + verifyLine + inboxLine + "@other not path /authorization/v1/access-token/b2b /v1.1/transfer-va/*\nrespond @other 404"),
		"by hand with a last respond":  inSite(tokenLine + verifyLine + "route {\n" + inboxLine + "respond 404\n}"),
		"in a route":                   inSite("route {\n" + tokenLine + verifyLine + inboxLine + "respond 404\n}"),
		"in handles":                   inSite("handle /authorization/* {\n" + tokenLine + "respond 404\n}\nhandle /v1.1/transfer-va/* {\ndoku_verify\ndoku_inbox 127.0.0.1:3000\n}\nhandle {\nrespond 404\n}"),
		"in a handle_path":             inSite("handle_path /kopi/* {\n" + tokenLine + verifyLine + inboxLine + lastLine + "}\nrespond 404"),
		"in a named route":             "&(doku) {\n" + verifyLine + inboxLine + "}\n" + inSite("route {\n"+tokenLine+"invoke doku\nrespond 404\n}"),
		"with an unknown matcher":      inSite("@doku {\npath /v1.1/transfer-va/*\nremote_ip 10.0.0.0/8\n}\n" + tokenLine + "doku_verify @doku\ndoku_inbox @doku 127.0.0.1:3000\n" + lastLine),
		"a maintenance answer":         inSite("@down header X-Down *\nroute {\nrespond @down 503\n" + goodSite + "}"),
		"with tokens of somebody else": inSite("doku_verify /v1.1/transfer-va/* {\ntoken any\n}\n" + inboxLine + lastLine),
		"a site for the app's calls":   "http://:9180 {\nbind 127.0.0.1\ndoku_sign\n}\n" + inSite(goodSite),
		"another site of the user":     "http://:8080 {\nrespond ok\n}\n" + inSite(goodSite),
		"inquiries through a proxy":    inSite(tokenLine + "doku_verify /bills {\nservice 24\n}\nreverse_proxy /bills 127.0.0.1:3000\n" + lastLine),
		"the token in another site":    "http://:8444 {\n" + tokenLine + lastLine + "}\nhttp://:8445 {\n" + verifyLine + inboxLine + lastLine + "}\n",
		"a rewrite for the shop":       inSite(goodCalls + "handle /shop/* {\nuri strip_suffix /\nreverse_proxy 127.0.0.1:8000\n}\n" + lastLine),
		"a replacement for the shop":   inSite(goodCalls + "handle /shop/* {\nuri replace /legacy/ /shop/\nreverse_proxy 127.0.0.1:8000\n}\n" + lastLine),
		"a product for the shop":       inSite(goodCalls + "handle /shop/* {\nrewrite * /product{http.request.orig_uri.path}\nreverse_proxy 127.0.0.1:8000\n}\n" + lastLine),
		"no slash at the end":          inSite("uri strip_suffix /\nhandle /doku/* {\ndoku_app 127.0.0.1:3000 {\ntoken_path /doku/token\npath /doku/pay service 25\n}\n}\nhandle {\nreverse_proxy 127.0.0.1:8000\n}"),
		"another app at all else":      inSite(goodCalls + "reverse_proxy 127.0.0.1:8000"),
		"an error page of another":     payHost + "http://shop.example.com:8443 {\nreverse_proxy 127.0.0.1:8000\nhandle_errors {\nrespond \"back soon\" 200\n}\n}\n",
		"files that let others pass":   inSite("route {\nfile_server {\npass_thru\n}\n" + goodSite + "}"),
		"a class of letters":           inSite(tokenLine + "doku_verify /doku/[pq]ay {\nservice 25\n}\ndoku_inbox /doku/[pq]ay 127.0.0.1:3000\n" + lastLine),
		"a page for a single page app": inSite("handle /doku/* {\ndoku_app 127.0.0.1:3000 {\ntoken_path /doku/token\npath /doku/pay service 25\n}\n}\nhandle {\nroot * /www\ntry_files {path} /index.html\nfile_server\n}"),
		"WordPress beside it":          inSite("handle /doku/* {\ndoku_app 127.0.0.1:3000 {\ntoken_path /doku/token\npath /doku/pay service 25\n}\n}\nhandle {\nroot * /www\nphp_fastcgi 127.0.0.1:9000\nfile_server\n}"),
		"intercept with a no":          inSite("route {\nintercept {\n@e status 5xx\nhandle_response @e {\nrespond \"sorry\" 503\n}\n}\n" + goodSite + "}"),
		"forward_auth in front":        inSite("forward_auth 127.0.0.1:9 {\nuri /auth\n}\n" + goodSite),
		"basic_auth for others":        inSite("basic_auth /admin/*" + password + goodSite),
		"php_fastcgi for a shop":       inSite("handle /v1* {\ndoku_app 127.0.0.1:3000\n}\nhandle /authorization/* {\ndoku_app 127.0.0.1:3000\n}\nhandle {\nphp_fastcgi 127.0.0.1:9000\n}"),
		"php_fastcgi as the app":       inSite(tokenLine + "doku_verify /v1.1/transfer-va/*\ndoku_inbox /v1.1/transfer-va/* {\ndeliver {\nphp_fastcgi 127.0.0.1:9000\n}\n}\n" + lastLine),
		"a shop beside it":             inSite("@doku path /authorization/* /v1/* /v1.0/* /v1.1/*\nhandle @doku {\ndoku_app 127.0.0.1:3000\n}\nhandle {\nreverse_proxy 127.0.0.1:8000\n}"),
		"another app beside it":        inSite("doku_app 127.0.0.1:3000") + "http://:8080 {\nreverse_proxy 127.0.0.1:8000\n}\n",
		"the app without our header":   inSite("doku_app 127.0.0.1:3000") + "http://:8080 {\nreverse_proxy 127.0.0.1:3000 {\nheader_up -X-Doku-*\n}\n}\n",
		"… by request_header":          inSite("doku_app 127.0.0.1:3000") + "http://:8080 {\nrequest_header -X-Doku-Verified\nreverse_proxy 127.0.0.1:3000\n}\n",
		"a rewrite in front":           inSite("handle /pay {\nrewrite * /v1.1/transfer-va/payment\n" + verifyLine + inboxLine + "}\n" + tokenLine + "handle {\nrespond 404\n}"),
		"many matchers":                inSite(strings.Repeat("header /x/* {\nX-A b\n}\n", 3) + "@a header A *\n@b header B *\n@c header C *\nheader @a X 1\nheader @b X 1\nheader @c X 1\n" + goodSite),
		"a plain answer of the errors": inSite(goodSite + "handle_errors {\nrespond {err.status_code}\n}"),
		"a named site and the others":  "http://pay.example.com:8443 {\n" + goodSite + "}\nhttp://:8443 {\n" + lastLine + "}\n",
	} {
		t.Run(name, func(t *testing.T) {
			if warnings, err := validate(t, sites); err != nil || warnings != "" {
				t.Errorf("error %v, warnings %s", err, warnings)
			}
		})
	}
}

func TestSitesThatFailOpenAreRefused(t *testing.T) {
	const unverified, hidden = "that doku_verify has not verified", "respond (or redir, abort) answers DOKU's calls to /"
	for name, test := range map[string]struct{ sites, want string }{
		"an inbox alone":                     {inSite(tokenLine + inboxLine + lastLine), unverified},
		"an inbox for more paths":            {inSite(tokenLine + "doku_verify /v1.1/transfer-va/payment\ndoku_inbox /other/* 127.0.0.1:3000\n" + lastLine), unverified},
		"an inbox in another handle":         {inSite("handle /a/* {\ndoku_verify\n}\nhandle /b/* {\ndoku_inbox 127.0.0.1:3000\n}\n" + tokenLine), unverified},
		"an inbox before doku_verify":        {inSite("route {\n" + tokenLine + inboxLine + verifyLine + lastLine + "}"), unverified},
		"an inbox in a named route":          {"&(doku) {\n" + inboxLine + "}\n" + inSite("invoke doku\n"), unverified},
		"an inbox of a named site":           {"http://a.example:8443 {\n" + goodSite + "}\nhttp://b.example:8443 {\n" + inboxLine + "}\n", unverified},
		"N11, a respond without its matcher": {inSite(tokenLine + verifyLine + inboxLine + "respond 404"), hidden + "v1.1/transfer-va/payment before doku_inbox"},
		"a respond in a route":               {inSite("route {\nrespond 404\n" + goodSite + "}"), hidden},
		"a respond at DOKU's path":           {inSite(tokenLine + verifyLine + inboxLine + "respond /v1.1/transfer-va/payment 200"), hidden + "v1.1/transfer-va/payment before doku_inbox"},
		"a respond for POST":                 {inSite("@p method POST\n" + tokenLine + verifyLine + inboxLine + "respond @p 200"), hidden + "v1.1/transfer-va/payment before doku_inbox"},
		"a respond within a handle_path":     {inSite("handle_path /kopi/* {\n" + tokenLine + verifyLine + inboxLine + "respond 404\n}\nrespond 404"), hidden + "kopi/v1.1/transfer-va/payment before doku_inbox"},
		"a respond within a handle":          {inSite(verifyLine + tokenLine + "handle {\nrespond 404\n}\nreverse_proxy 127.0.0.1:3000"), hidden + "v1.1/transfer-va/payment before reverse_proxy"},
		"a redirect":                         {inSite(goodSite + "redir https://example.com{uri}"), hidden},
		"an abort":                           {inSite(tokenLine + verifyLine + inboxLine + "abort"), hidden + "v1.1/transfer-va/payment before doku_inbox"},
		"an error":                           {inSite(tokenLine + verifyLine + inboxLine + "error 404"), "error answers DOKU's calls"},
		"files before a proxy":               {inSite("route {\n" + tokenLine + verifyLine + "file_server\nreverse_proxy 127.0.0.1:3000\n}"), "file_server answers DOKU's calls"},
		"a proxy before doku_verify":         {inSite("route {\nreverse_proxy 127.0.0.1:3000\n" + goodSite + "}"), "reverse_proxy passes calls to /v1.1/transfer-va/payment to the app unverified"},
		"a proxy to others before it":        {inSite("route {\nreverse_proxy 127.0.0.1:8000\n" + goodSite + "}"), "reverse_proxy answers DOKU's calls to /authorization/v1/access-token/b2b before doku_token"},
		"a respond before doku_app":          {inSite("route {\nrespond 404\ndoku_app 127.0.0.1:3000\n}"), hidden},
		"a yes in a sibling":                 {inSite("handle /v1.1/transfer-va/payment* {\nrespond 200\n}\nhandle {\ndoku_app 127.0.0.1:3000\n}"), hidden + "v1.1/transfer-va/payment before doku_verify"},
		"a yes to inquiries in a sibling":    {inSite("handle /v1.1/transfer-va/inquiry {\nrespond 200\n}\nhandle {\ndoku_app 127.0.0.1:3000\n}"), hidden + "v1.1/transfer-va/inquiry before doku_verify"},
		"a yes to a part in a sibling":       {inSite("handle /pay/a* {\nrespond 200\n}\nhandle {\ndoku_app 127.0.0.1:3000 {\npath /pay/* service 25\n}\n}"), hidden + "pay/apayment before doku_verify"},
		"a yes to tokens in a sibling":       {inSite("handle /authorization/* {\nrespond 200\n}\nhandle {\ndoku_app 127.0.0.1:3000\n}"), hidden + "authorization/v1/access-token/b2b before doku_token"},
		"a yes to inquiries in a route":      {inSite("route {\nrespond /v1.1/transfer-va/inquiry 200\ndoku_app 127.0.0.1:3000\n}"), hidden + "v1.1/transfer-va/inquiry before doku_verify"},
		"a yes by an expression of the path": {inSite("@p path_regexp ^/v1.1/.*/inquiry$\nroute {\nrespond @p 200\ndoku_app 127.0.0.1:3000\n}"), hidden + "v1.1/transfer-va/inquiry before doku_verify"},
		"two answers of which one comes":     {inSite("@down header X-Down *\nroute {\nrespond @down 503\nrespond 200\ndoku_app 127.0.0.1:3000\n}"), hidden},
		"tokens that go to the shop":         {inSite("handle /v1.1/* {\ndoku_app 127.0.0.1:3000\n}\nhandle {\nreverse_proxy 127.0.0.1:8000\n}"), "doku_token /authorization/v1/access-token/b2b is never reached"},
		"a path outside of its block":        {inSite("handle /pay/* {\n" + verifyLine + inboxLine + "}\n" + tokenLine + "handle {\nrespond 404\n}"), "doku_verify /v1.1/transfer-va/* is never reached"},
		"an inbox behind a password":         {inSite("basic_auth" + password + tokenLine + inboxLine + lastLine), unverified},
		"an inbox behind forward_auth":       {inSite("forward_auth 127.0.0.1:9 {\nuri /auth\n}\n" + tokenLine + inboxLine + lastLine), unverified},
		"an inbox for more calls":            {inSite(tokenLine + "doku_verify /v1.1/transfer-va/payment\n" + inboxLine + lastLine), unverified},
		"an inbox for other headers":         {inSite("@s {\npath /v1.1/transfer-va/*\nheader X-SIGNATURE *\n}\n" + tokenLine + "doku_verify @s\n" + inboxLine + lastLine), unverified},
		"an inbox for other methods":         {inSite("@s {\npath /v1.1/transfer-va/*\nmethod POST\n}\n" + tokenLine + "doku_verify @s\n" + inboxLine + lastLine), unverified},
		"an app for other methods":           {inSite("@s {\npath /v1.1/transfer-va/*\nmethod POST\n}\n" + tokenLine + "doku_verify @s\ndoku_inbox @s 127.0.0.1:3000\nreverse_proxy 127.0.0.1:3000"), "reverse_proxy passes PUT calls to /v1.1/transfer-va/payment to the app unverified"},
		"an app for other headers":           {inSite("@s {\npath /v1.1/transfer-va/*\nheader X-SIGNATURE *\n}\n" + tokenLine + "doku_verify @s\nreverse_proxy 127.0.0.1:3000"), "if its matcher does not match"},
		"an app for other addresses":         {inSite("@s {\npath /v1.1/transfer-va/*\nremote_ip 10.0.0.0/8\n}\n" + tokenLine + "handle @s {\ndoku_verify\ndoku_inbox 127.0.0.1:3000\n}\nhandle {\nreverse_proxy 127.0.0.1:3000\n}"), "if its matcher does not match"},
		"a yes in place of every answer":     {inSite("route {\nintercept {\nreplace_status 200\n}\ndoku_app 127.0.0.1:3000\n}"), "intercept may answer DOKU's calls"},
		"a yes in place of an error":         {inSite("route {\nintercept {\n@e status 4xx 5xx\nhandle_response @e {\nrespond ok\n}\n}\n" + goodSite + "}"), "intercept may answer DOKU's calls"},
		"a block that only sets a header":    {inSite("handle /v1.1/* {\nheader X-Api 1\n}\nhandle {\ndoku_app 127.0.0.1:3000\n}"), "get an empty 200 from Caddy"},
		"a page in place of an error":        {inSite(handledCalls + "intercept {\n@e status 4xx 5xx\nhandle_response @e {\nroot * /www\nrewrite * /index.html\nmethod GET\nfile_server\n}\n}\n" + lastLine), "intercept may answer"},
		"a named route in place of an error": {"&(ok) {\nrespond sorry 200\n}\n" + inSite(handledCalls+"intercept {\n@e status 4xx 5xx\nhandle_response @e {\ninvoke ok\n}\n}\n"+lastLine), "intercept may answer"},
		"a 200 in place of an error":         {inSite(handledCalls + "intercept {\n@e status 4xx 5xx\nhandle_response @e {\ncopy_response 200\n}\n}\n" + lastLine), "intercept may answer"},
		"the app in place of an error":       {inSite(handledCalls + "intercept {\n@e status 4xx\nhandle_response @e {\nreverse_proxy 127.0.0.1:3000\n}\n}\n" + lastLine), "intercept may answer"},
		"a proxy that rewrites":              {inSite("route {\nreverse_proxy /v1.1/transfer-va/* 127.0.0.1:3000 {\nrewrite {uri}\n@err status 502\nhandle_response @err {\nrespond 503\n}\n}\n" + goodSite + "}"), "to the app unverified"},
		"another method of a matcher":        {inSite("@d {\nnot method OPTIONS\npath /v1.1/transfer-va/*\n}\n" + tokenLine + "doku_verify @d\nreverse_proxy /v1.1/transfer-va/* 127.0.0.1:3000\n" + lastLine), "passes OPTIONS calls"},
		"a method of one's own":              {inSite("@d {\nmethod POST PUT PATCH DELETE GET HEAD OPTIONS\npath /v1.1/transfer-va/*\n}\n" + tokenLine + "doku_verify @d\nreverse_proxy /v1.1/transfer-va/* 127.0.0.1:3000\n" + lastLine), "passes ANY calls"},
		"a header that is set on the way":    {inSite("@d {\npath /v1.1/transfer-va/*\nheader X-Ok 1\n}\n" + tokenLine + "doku_verify @d\nrequest_header X-Ok 1\nreverse_proxy @d 127.0.0.1:3000\n" + lastLine), "to the app unverified"},
		"a variable that is set on the way":  {inSite("@d {\npath /v1.1/transfer-va/*\nvars ready yes\n}\nroute {\n" + tokenLine + "doku_verify @d\nvars ready yes\nreverse_proxy @d 127.0.0.1:3000\n" + lastLine + "}"), "to the app unverified"},
		"a single page app that takes all":   {inSite(goodCalls + "root * /www\ntry_files {path} /index.html\nfile_server\ndoku_unhandled /v1/*"), "never reached"},
		"files or 404":                       {inSite(goodCalls + "root * /www\ntry_files {path} =404\nfile_server"), "is never reached"},
		"a page before the inbox":            {inSite(goodCalls + "handle {\nroot * /www\ntry_files {path} /index.html\nfile_server\n}"), "doku_inbox /v1.1/transfer-va/* is never reached"},
		"a no without a slash":               {inSite(goodCalls + "uri strip_suffix /\nrespond nope 404"), hidden + "v1.1/transfer-va/payment before doku_inbox"},
		"something behind doku_unhandled":    {inSite("route {\n" + goodSite + "reverse_proxy 127.0.0.1:3000\n}"), "reverse_proxy is never reached"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := validate(t, test.sites); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("found %v, expected it to contain %q", err, test.want)
			}
		})
	}
}

func TestSitesThatAreProbablyWrongAreWarnedOf(t *testing.T) {
	t.Setenv("APP_ADDRESS", "127.0.0.1:3000")
	const falls, unkept = "gets an empty 200 from Caddy", "keeps none that the app does not accept"
	for name, test := range map[string]struct{ sites, want, hint string }{
		"N8, no last word":             {inSite(tokenLine + verifyLine + inboxLine), falls, "`doku_unhandled`"},
		"no last word in a handle":     {inSite("handle /v1.1/transfer-va/* {\n" + verifyLine + inboxLine + "}\n" + tokenLine), falls, "`doku_unhandled`"},
		"no last word in a route":      {inSite("route {\n" + tokenLine + verifyLine + inboxLine + "}"), falls, "`doku_unhandled`"},
		"N9, no doku_token":            {inSite(verifyLine + inboxLine + "@other not path /authorization/v1/access-token/b2b /v1.1/transfer-va/*\nrespond @other 404"), "there is no doku_token", "`doku_token /authorization/v1/access-token/b2b`"},
		"N9, and its path":             {inSite(verifyLine + inboxLine + "@other not path /authorization/v1/access-token/b2b /v1.1/transfer-va/*\nrespond @other 404"), falls, "`doku_unhandled`"},
		"N10, a host name":             {"http://pay.example.com:8443 {\n" + goodSite + "}\n", "a call with another Host", "`http://:8443 {`, `doku_unhandled`, `}`"},
		"N10, a host name with TLS":    {"pay.example.com {\n" + goodSite + "}\n", "a call with another Host", "`:443 {`"},
		"N10, a host within the site":  {inSite("@host host pay.example.com\nhandle @host {\n" + goodSite + "}"), "a call with another Host", "doku_unhandled"},
		"a plain proxy":                {inSite(tokenLine + verifyLine + "reverse_proxy /v1.1/transfer-va/* 127.0.0.1:3000\n" + lastLine), unkept, "doku_inbox"},
		"a plain proxy with a service": {inSite(tokenLine + "doku_verify /pay {\nservice 56\n}\nreverse_proxy /pay 127.0.0.1:3000\n" + lastLine), unkept, "doku_inbox"},
		"no app":                       {inSite(tokenLine + verifyLine + "respond /x 404"), "no handler passes the verified calls", "`doku_inbox /v1.1/transfer-va/* "},
		"a yes, perhaps":               {inSite("@x header X-Foo *\nroute {\nrespond @x 200\ndoku_app 127.0.0.1:3000\n}"), "respond answers paths that DOKU may call with a 2xx", "let it answer 404"},
		"a yes, perhaps, to inquiries": {inSite("@x {\npath /v1.1/transfer-va/inquiry\nexpression {env.X} == \"1\"\n}\nroute {\nrespond @x 200\ndoku_app 127.0.0.1:3000\n}"), "for a success: /v1.1/transfer-va/inquiry", "let it answer 404"},
		"a yes to all else":            {inSite(goodSite[:len(goodSite)-len(lastLine)] + "@all not path /v1.1/transfer-va/* /authorization/v1/access-token/b2b\nrespond @all hello"), "with a 2xx, which DOKU takes for a success: all", "doku_unhandled"},
		"a yes for errors":             {inSite(goodSite + "handle_errors {\nrespond 200\n}"), "handle_errors answers errors with a 2xx", "err.status_code"},
		"a shop at other paths":        {inSite(tokenLine + "handle /v1.1/transfer-va/* {\ndoku_verify\ndoku_inbox 127.0.0.1:3000\n}\nhandle {\nreverse_proxy 127.0.0.1:3000\n}"), "passes calls that nobody has verified", "`header_up -X-Doku-Verified`"},
		"a shop at other services":     {inSite(tokenLine + "doku_verify /v1.1/transfer-va/payment\ndoku_inbox /v1.1/transfer-va/payment 127.0.0.1:3000\nreverse_proxy 127.0.0.1:3000"), "passes calls that nobody has verified", "a port of the app's own"},
		"a shop at nearly the path":    {inSite(tokenLine + "doku_verify /v1.1/transfer-va/payment\ndoku_inbox /v1.1/transfer-va/payment 127.0.0.1:3000\nreverse_proxy 127.0.0.1:3000"), "passes calls that nobody has verified", "a port of the app's own"},
		"the app in a site of its own": {inSite("doku_app 127.0.0.1:3000") + "http://:8080 {\nreverse_proxy localhost:3000\n}\n", "passes calls that nobody has verified", "`header_up -X-Doku-Verified`"},
		"the app under another name":   {"http://pay.example.com:8443 {\n" + goodSite + "}\nhttp://shop.example.com:8443 {\nreverse_proxy 127.0.0.1:3000\n}\n", "passes calls that nobody has verified", "`header_up -X-Doku-Verified`"},
		"a way past doku_verify":       {inSite("@in remote_ip 10.0.0.0/8\nroute {\nreverse_proxy @in 127.0.0.1:3000\ndoku_app 127.0.0.1:3000\n}"), "past doku_verify", "remove this reverse_proxy"},
		"doku_app in a handle":         {inSite("handle /v1.1/* {\ndoku_app 127.0.0.1:3000 {\ntoken_path /v1.1/token\n}\n}"), falls, "outside of its blocks: `doku_unhandled`"},
		"a block for own addresses":    {inSite("@in client_ip private_ranges\nhandle @in {\nheader X-In 1\n}\nhandle {\ndoku_app 127.0.0.1:3000\n}"), falls, "doku_unhandled"},
		"a more exact name":            {"http://pay.example.com:8443 {\nlog\n}\nhttp://:8443 {\ndoku_app 127.0.0.1:3000\n}\n", "pay.example.com (:8443): a call to a path of DOKU's with this Host gets a 2xx", "`doku_unhandled`"},
		"a more exact name with a yes": {"http://pay.example.com:8443 {\nrespond hi\n}\nhttp://:8443 {\ndoku_app 127.0.0.1:3000\n}\n", "pay.example.com (:8443): a call to a path of DOKU's with this Host gets a 2xx", "`doku_unhandled`"},
		"a shop with an open end":      {payHost + "http://shop.example.com:8443 {\nheader X-A b\nreverse_proxy /api/* 127.0.0.1:8000\n}\n", "shop.example.com (:8443): a call to a path of DOKU's with this Host gets a 2xx", "`doku_unhandled`"},
		"own paths, other names":       {"http://pay.example.com:8443 {\ndoku_app 127.0.0.1:3000 {\npath /doku/pay service 25\n}\n}\nhttp://:8443 {\nrespond /v1.1/* 404\n}\n", "a call with another Host", "doku_unhandled"},
		"errors lead to the app":       {inSite(handledCalls + "basic_auth /v1/*" + password + "handle_errors {\nreverse_proxy 127.0.0.1:3000\n}\n" + lastLine), "passes calls that nobody has verified", "header_up"},
		"errors lead elsewhere":        {inSite(handledCalls + "basic_auth /v1/*" + password + "handle_errors {\nreverse_proxy 127.0.0.1:8000\n}\n" + lastLine), "handle_errors passes calls to a reverse_proxy", "leave DOKU's paths out"},
		"a named route for errors":     {"&(ok) {\nrespond sorry 200\n}\n" + inSite(handledCalls+"handle_errors {\ninvoke ok\n}\n"+lastLine), "handle_errors answers errors with a 2xx", "err.status_code"},
		"a page with 200 for errors":   {inSite(goodCalls + "error /v1/* gone 404\nhandle_errors {\nrewrite * /index.html\nmethod GET\nfile_server {\nstatus 200\n}\n}"), "handle_errors answers errors with a 2xx", "err.status_code"},
		"an error that is a yes":       {inSite(goodCalls + "error /v1/* gone 200\n" + lastLine), "with a 2xx, which DOKU takes for a success: /v1/transfer-va/payment", "doku_unhandled"},
		"a file server that passes on": {inSite(goodCalls + "file_server {\npass_thru\n}"), falls, "doku_unhandled"},
		"a suffix that goes":           {inSite(goodCalls + "uri strip_suffix /"), falls, "doku_unhandled"},
		"a prefix that goes":           {inSite(goodCalls + "handle_path /api/* {\nreverse_proxy 127.0.0.1:3000\n}\n" + lastLine), "passes calls that nobody has verified", "header_up"},
		"a path of the app":            {inSite(goodCalls + "reverse_proxy /legacy 127.0.0.1:3000 {\nrewrite /v1.1/transfer-va/payment\n}\n" + lastLine), "passes calls that nobody has verified", "header_up"},
		"the app behind another":       {inSite(goodCalls + "reverse_proxy /auth/* 127.0.0.1:8000 {\n@ok status 2xx\nhandle_response @ok {\nreverse_proxy 127.0.0.1:3000\n}\n}\n" + lastLine), "passes calls that nobody has verified", "header_up"},
		"the app by its port":          {payHost + "http://shop.example.com:8443 {\nreverse_proxy :3000\n}\n", "shop.example.com (:8443): reverse_proxy passes calls that nobody", "header_up"},
		"the app by IPv6":              {payHost + "http://shop.example.com:8443 {\nreverse_proxy [::1]:3000\n}\n", "shop.example.com (:8443): reverse_proxy passes calls that nobody", "header_up"},
		"the app by a variable":        {strings.ReplaceAll(payHost, "127.0.0.1:3000", "{env.APP_ADDRESS}") + "http://shop.example.com:8443 {\nreverse_proxy {env.APP_ADDRESS}\n}\n", "shop.example.com (:8443): reverse_proxy passes calls that nobody", "header_up"},
		"the app by its name":          {payHost + "http://shop.example.com:8443 {\nreverse_proxy {\ndynamic a localhost 3000\n}\n}\n", "shop.example.com (:8443): reverse_proxy passes calls that nobody", "header_up"},
		"the app for one of two names": {payHost + "http://shop.example.com:8443, http://api.example.com:8443 {\n@x not host shop.example.com\nreverse_proxy @x 127.0.0.1:3000\n}\n", "api.example.com (:8443): reverse_proxy passes calls that nobody", "header_up"},
		"basic_auth for the site":      {inSite(goodCalls + "basic_auth" + password + lastLine), "asks for a password", "matcher"},
		"basic_auth before doku_app":   {inSite("route {\nbasic_auth" + password + "doku_app 127.0.0.1:3000\n}"), "asks for a password", "matcher"},
		"the www redirect":             {"http://example.com:8443, http://www.example.com:8443 {\n@www host www.example.com\nredir @www https://example.com{uri}\n" + handledCalls + lastLine + "}\nhttp://:8443 {\n" + lastLine + "}\n", "under one of the site's names", "URLs at DOKU"},
		"report and doku_token":        {inSite(tokenLine + "doku_verify /v1.1/transfer-va/* {\nenforce report\n}\nreverse_proxy /v1.1/transfer-va/* 127.0.0.1:3000\n" + lastLine), "does not know them", "remove doku_token"},
	} {
		t.Run(name, func(t *testing.T) {
			warnings, err := validate(t, test.sites)
			if err != nil || !strings.Contains(warnings, test.want) || !strings.Contains(warnings, test.hint) {
				t.Errorf("error %v, warnings\n%s\nexpected %q with %q", err, warnings, test.want, test.hint)
			}
		})
	}
}

func TestAWarningDoesNotAdviseWhatTheSiteHas(t *testing.T) {
	warnings, err := validate(t, inSite("handle /v1.1/* {\ndoku_app 127.0.0.1:3000 {\ntoken_path /v1.1/token\n}\n}"))
	if err != nil || warnings == "" || strings.Contains(warnings, "use doku_app") {
		t.Errorf("error %v, warnings %s", err, warnings)
	}
}

func TestAJSONConfigurationIsCheckedToo(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	config := func(routes string) []byte {
		return fmt.Appendf(nil, `{"admin":{"disabled":true},
			"logging":{"logs":{"default":{"writer":{"output":"file","filename":%q,"roll":false}}}},
			"apps":{"doku":{"environment":"http://127.0.0.1:1","accounts":[{"client_id":"BRN-1","secret_keys":["SK-0123456789abcdef"],
			"private_key":%q,"doku_public_keys":[%q]}]},"http":{"servers":{"plain":{"listen":[":1"]},"pay":{"listen":[":8443"],"routes":[%s]}}}}}`,
			log, doktest.Path(t, doktest.MerchantKey), doktest.Path(t, "test-doku-public.pem"), routes)
	}
	const inbox = `{"handler":"doku_inbox","deliver":{"routes":[{"handle":[
		{"handler":"reverse_proxy","upstreams":[{"dial":"127.0.0.1:1"}]}]}]}}`
	_, err := validateJSON(
		t,
		config(`{"match":[{"path":["/pay"]}],"handle":[{"handler":"subroute","routes":[{"handle":[`+inbox+`]}]}]}`),
		log,
	)
	if err == nil || !strings.Contains(err.Error(), "has not verified") {
		t.Errorf("found %v", err)
	}
	warnings, err := validateJSON(t, config(`{"match":[{"path":["/pay"]}],"terminal":true,"handle":[
		{"handler":"doku_verify","service":"25"},`+inbox+`]}`), log)
	if err != nil || !strings.Contains(warnings, "gets an empty 200") || !strings.Contains(warnings, "there is no doku_token") {
		t.Errorf("error %v, warnings %s", err, warnings)
	}
}

func TestAMisspeltExporterOfTracesIsToldAtLoad(t *testing.T) {
	for value, want := range map[string]string{
		"oltp": "expected none, otlp, console, found \"oltp\"; did you mean otlp?", "off": "found \"off\"",
	} {
		t.Setenv("OTEL_TRACES_EXPORTER", value)
		if _, err := validate(t, inSite("doku_app 127.0.0.1:3000")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: found %v, expected %s", value, err, want)
		}
	}
	for _, value := range []string{"", "none", "otlp"} {
		t.Setenv("OTEL_TRACES_EXPORTER", value)
		if _, err := validate(t, inSite("doku_app 127.0.0.1:3000")); err != nil {
			t.Errorf("%q: %v", value, err)
		}
	}
}
