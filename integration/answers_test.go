package integration

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// appAnswer is what an app says to a notification, with what DOKU gets.
type appAnswer struct {
	name        string
	status      int
	contentType string
	header      [2]string // one more
	body        string

	doku     int    // status that DOKU gets
	kept     bool   // whether the inbox keeps the notification
	says     string // in the log
	hint     string // in the log
	dokuBody string // if it is not body
}

const (
	jsonType = "application/json"
	htmlType = "text/html; charset=utf-8"
	no404    = `{"responseCode":"4042512"}`
	yes200   = `{"responseCode":"2002500","responseMessage":"Successful"}`
)

// appAnswers are answers of apps as they occur: frameworks, login walls, error pages.
var appAnswers = []appAnswer{
	{name: "a yes", status: 200, contentType: jsonType, body: yes200, doku: 200},
	{name: "a yes behind a newline", status: 200, contentType: jsonType, body: "\n" + yes200, doku: 200, dokuBody: yes200},
	{name: "a yes behind a byte order mark", status: 200, contentType: htmlType, body: "\ufeff" + yes200, doku: 200, dokuBody: yes200},
	{
		name: "another service's yes", status: 200, contentType: jsonType, body: `{"responseCode":"2002400"}`, doku: 200,
		says: "responseCode of another service",
	},
	{name: "a no in HTTP 200", status: 200, contentType: jsonType, body: no404, doku: 404},
	{
		name:        "a no behind other members",
		status:      200,
		contentType: jsonType,
		body:        `{"responseMessage":"x","responseCode":"4042512"}`,
		doku:        404,
	},
	{name: "a no in HTTP 404", status: 404, contentType: jsonType, body: no404, doku: 404},
	{name: "a no behind a byte order mark", status: 200, contentType: jsonType, body: "\ufeff" + no404, doku: 404, dokuBody: no404},

	{name: "a database that is away", status: 200, contentType: jsonType, body: `{"responseCode":"5002500"}`, doku: 500, kept: true},
	{name: "an app that is not well", status: 503, contentType: jsonType, body: `{}`, doku: 500, kept: true, says: "the app has failed"},
	{name: "HTTP 500 with a yes in it", status: 500, contentType: jsonType, body: yes200, doku: 500, kept: true},
	{
		name:        "too many requests",
		status:      429,
		contentType: jsonType,
		body:        `{"responseCode":"4292500"}`,
		doku:        500,
		kept:        true,
		says:        "too busy",
	},
	{
		name:        "a wrong key",
		status:      401,
		contentType: jsonType,
		body:        `{"responseCode":"4012500"}`,
		doku:        500,
		kept:        true,
		hint:        "authentication",
	},
	{
		name: "a wrong key in HTTP 200", status: 200, contentType: jsonType, body: `{"responseCode":"4012500"}`, doku: 500, kept: true,
		hint: "authentication",
	},
	{
		name:        "a missing route",
		status:      404,
		contentType: htmlType,
		body:        "<html>not found</html>",
		doku:        500,
		kept:        true,
		hint:        "add a route",
	},
	{name: "a CSRF guard", status: 419, contentType: htmlType, body: "<html>Page Expired</html>", doku: 500, kept: true, hint: "CSRF"},
	{
		name:        "Django's host check",
		status:      400,
		contentType: htmlType,
		body:        "<h1>Bad Request (400)</h1>",
		doku:        500,
		kept:        true,
		hint:        "ALLOWED_HOSTS",
	},
	{
		name:        "Rails' host check",
		status:      403,
		contentType: htmlType,
		body:        "<h1>Blocked hosts: x</h1>",
		doku:        500,
		kept:        true,
		hint:        "config.hosts",
	},
	{
		name: "a redirect to a login page", status: 302, contentType: htmlType, header: [2]string{"Location", "/login"}, doku: 500, kept: true,
		says: "redirects", hint: "login",
	},

	{
		name:        "a whole page",
		status:      200,
		contentType: htmlType,
		body:        "<!doctype html><div id=root></div>",
		doku:        500,
		kept:        true,
		hint:        "error page",
	},
	{name: "nothing", status: 200, contentType: jsonType, doku: 500, kept: true, says: "the answer is empty", hint: "returned nothing"},
	{name: "no content", status: 204, contentType: "", doku: 500, kept: true, says: "the answer is empty"},
	{name: "OK", status: 200, contentType: "text/plain", body: "OK", doku: 500, kept: true, says: "plain text"},
	{
		name:        "a no in its own words",
		status:      200,
		contentType: jsonType,
		body:        `{"status":"error"}`,
		doku:        500,
		kept:        true,
		says:        "no responseCode",
	},
	{
		name:        "the code one level down",
		status:      200,
		contentType: jsonType,
		body:        `{"data":{"responseCode":"5002500"}}`,
		doku:        500,
		kept:        true,
	},
	{name: "an empty object", status: 200, contentType: jsonType, body: `{}`, doku: 500, kept: true},
	{name: "the key in another case", status: 200, contentType: jsonType, body: `{"ResponseCode":"5002500"}`, doku: 500, kept: true},
	{
		name:        "six digits",
		status:      200,
		contentType: jsonType,
		body:        `{"responseCode":"500250"}`,
		doku:        500,
		kept:        true,
		hint:        "seven digits",
	},
	{name: "a blank behind the code", status: 200, contentType: jsonType, body: `{"responseCode":"4042512 "}`, doku: 500, kept: true},
	{name: "code 00", status: 200, contentType: jsonType, body: `{"responseCode":"00"}`, doku: 500, kept: true},
	{
		name:        "a yes and a no",
		status:      200,
		contentType: jsonType,
		body:        `{"responseCode":"2002500","responseCode":"5002500"}`,
		doku:        500,
		kept:        true,
	},
	{
		name:        "a no behind a PHP warning",
		status:      200,
		contentType: htmlType,
		body:        "<br />\n<b>Warning</b>: x\n" + no404,
		doku:        500,
		kept:        true,
	},
	{name: "a no behind a debug line", status: 200, contentType: htmlType, body: "array(0) {}\n" + no404, doku: 500, kept: true},
	{
		name: "a yes, and a no with a long s", status: 200, contentType: jsonType, body: `{"responseCode":"2002500","reſponseCode":"5002500"}`,
		doku: 500, kept: true, says: "several responseCodes",
	},
	{name: "a yes before a no", status: 200, contentType: jsonType, body: yes200 + no404, doku: 500, kept: true},
}

// serveAnswers starts an app that gives the answer whose number is in the body.
func serveAnswers(t *testing.T) (address string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		for n, x := range appAnswers {
			if err != nil || !strings.Contains(string(body), fmt.Sprintf(`"P-answer-%d"`, n)) {
				continue
			}
			w.Header()["Content-Type"] = nil // net/http would guess one
			if x.contentType != "" {
				w.Header().Set("Content-Type", x.contentType)
			}
			if x.header[0] != "" {
				w.Header().Set(x.header[0], x.header[1])
			}
			w.WriteHeader(x.status)
			_, _ = w.Write([]byte(x.body))
			return
		}
		http.Error(w, "expected the number of an answer", http.StatusInternalServerError)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// notifyFor sends the notification that gets the answer number n, to a virtual account of
// its own.
func (env *testEnv) notifyFor(t *testing.T, n int) answer {
	t.Helper()
	return env.notify(t, simulator.Outgoing{
		ExternalID: fmt.Sprintf("E-answer-%d", n), Body: paymentTo(fmt.Sprint(1000+n), fmt.Sprintf("P-answer-%d", n)),
	})
}

func TestOnlyAYesIsAYes(t *testing.T) {
	t.Parallel()
	env := start(t, options{app: serveAnswers(t), inbox: "{\n answer_within 300ms\n}"})
	kept := 0
	for n, x := range appAnswers {
		got := env.notifyFor(t, n)
		if got.status != x.doku {
			t.Errorf("%s: DOKU got HTTP %d, expected %d", x.name, got.status, x.doku)
		}
		if x.kept {
			kept++
		} else if want := cmp.Or(x.dokuBody, x.body); got.body != want {
			t.Errorf("%s: DOKU got %q, expected %q", x.name, got.body, want)
		}
		if reason := got.header.Get("X-Doku-Error"); (reason == "kept") != x.kept {
			t.Errorf("%s: X-Doku-Error %q", x.name, reason)
		}
		if waiting, dead := env.kept(t); waiting != kept || dead != 0 {
			t.Fatalf("%s: %d wait and %d are dead, expected %d", x.name, waiting, dead, kept)
		}
		if x.says+x.hint != "" {
			env.awaitLine(t, `"external_id":"E-answer-`+fmt.Sprint(n)+`"`, x.says, x.hint)
		}
	}
	env.awaitMetrics(t, `calls_total{account="default",direction="inbound",outcome="app_refused",service="25"} 4`,
		fmt.Sprintf(`calls_total{account="default",direction="inbound",outcome="kept",service="25"} %d`, kept))

	list, err := env.inboxCommand(t, "list")
	if err != nil || strings.Count(list, "\n") != 1+kept+1 || !strings.Contains(list, "the app has refused 4") {
		t.Errorf("%v\n%s", err, list)
	}
	status, err := env.runCommand(t, "doku", "status")
	if err != nil || !strings.Contains(status, fmt.Sprintf("%d waiting for the app", kept)) {
		t.Errorf("%v\n%s", err, status)
	}
	for line := range strings.Lines(env.log.String()) {
		if strings.Contains(line, `"reason":"kept"`) && strings.Contains(line, "not accepted") {
			t.Errorf("a kept notification was accepted as genuine: %s", line)
		}
	}
}

func TestWithoutAnInboxDOKUGetsA5xxForWhatDecidesNothing(t *testing.T) {
	t.Parallel()
	env := start(t, options{app: serveAnswers(t)})
	for n, x := range appAnswers {
		got := env.notifyFor(t, n)
		switch {
		case !x.kept && got.status != x.doku:
			t.Errorf("%s: DOKU got HTTP %d, expected %d", x.name, got.status, x.doku)
		case x.kept && got.status < 400:
			t.Errorf("%s: DOKU got HTTP %d", x.name, got.status)
		case x.kept && got.header.Get("X-Doku-Error") == "app_undecided" && !strings.Contains(got.body, fmt.Sprintf(`"%d25`, got.status)):
			t.Errorf("%s: DOKU got HTTP %d %s", x.name, got.status, got.body)
		case x.kept && got.header.Get("X-Doku-Error") == "" && got.status < 500 && !strings.Contains(got.body, fmt.Sprint(got.status)):
			t.Errorf("%s: DOKU got HTTP %d %s", x.name, got.status, got.body)
		}
	}
}

func TestAnInquiryIsAnsweredWithABillOrA5xx(t *testing.T) {
	t.Parallel()
	for name, inbox := range map[string]string{"behind reverse_proxy": "", "behind doku_inbox": "{\n}", "loose": "{\n app_answers loose\n}"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := start(t, options{inbox: inbox})
			asked := 0 // the same call within a second has the same signature, and is a repeat
			for body, want := range map[string]int{
				`{"responseCode":"2002400","virtualAccountData":{}}`: 200, "OK": 500, "": 500, "<html></html>": 500, `{"a":1}`: 500,
				`{"responseCode":"4042412"}`: 404, `{"responseCode":"5002400"}`: 500,
			} {
				asked++
				env.app.setAnswer(func(appCall) (int, string) { return http.StatusOK, body })
				got := env.notify(t, simulator.Outgoing{URL: env.inward + inquiryPath, Body: fmt.Appendf(nil, `{"inquiryRequestId":"I-%d"}`, asked)})
				if got.status != want {
					t.Errorf("%q: HTTP %d %s", body, got.status, got.body)
				}
				if want == 500 && !strings.Contains(got.body, `"500240`) {
					t.Errorf("%q: DOKU got %s", body, got.body)
				}
			}
			env.awaitLine(t, `"reason":"app_undecided"`, "DOKU does not repeat an inquiry")
			for line := range strings.Lines(env.log.String()) {
				if strings.Contains(line, `"service":"24"`) && strings.Contains(line, "DOKU tries again") {
					t.Errorf("DOKU does not: %s", line)
				}
			}
		})
	}
}

// looseAnswers are the configurations in which a bare answer of the app can be a yes.
var looseAnswers = map[string]options{
	"of doku_inbox":  {inbox: "{\n app_answers loose\n answer_within 300ms\n}"},
	"of doku_verify": {verify: "app_answers loose"},
}

func TestABareYesCountsOnlyIfTheConfigurationSaysSo(t *testing.T) {
	t.Parallel()
	for name, o := range looseAnswers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			app := newWireApp(t)
			o.app = app.address
			env := start(t, o)
			env.log.Await(t, "app_answers loose: ", 1)
			for n, x := range []struct {
				status int
				body   string
				want   int
			}{
				{200, "OK", 200},
				{200, "", 200},
				{200, "<html>", 500},
				{302, "", 500},
				{200, `{"a":1}`, 500},
				{200, `{"responseCode":"4042512"}`, 404},
			} {
				app.set(wire(fmt.Sprintf("HTTP/1.1 %d x\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s",
					x.status, len(x.body), x.body)))
				if got := env.notifyFor(t, n); got.status != x.want {
					t.Errorf("%d %q: DOKU got HTTP %d", x.status, x.body, got.status)
				}
			}
			env.log.Await(t, "app_answers loose: ", 1)
		})
	}
}

func TestNobodySaysThatTheAppHasTakenEverything(t *testing.T) {
	t.Parallel()
	env := start(t, options{inbox: "{\n answer_within 300ms\n}"})
	expect := func(parts ...string) {
		t.Helper()
		list, err := env.inboxCommand(t, "list")
		if err != nil || strings.Contains(list, "taken everything") {
			t.Errorf("%v\n%s", err, list)
		}
		for _, part := range parts {
			if !strings.Contains(list, part) {
				t.Errorf("expected %q in\n%s", part, list)
			}
		}
	}
	expect("is empty now")
	env.app.setAnswer(func(appCall) (int, string) { return http.StatusOK, no404 })
	env.notify(t, simulator.Outgoing{}).expect(t, http.StatusNotFound, "4042512")
	expect("is empty now", "the app has refused 1")
}

func TestAFullDiskIsReportedByTheInbox(t *testing.T) {
	t.Parallel()
	env := start(t, options{inbox: "{\n answer_within 300ms\n max_size 64KiB\n}"})
	env.app.setAnswer(answering(http.StatusServiceUnavailable))
	refused := false
	for n := 0; n < 200 && !refused; n++ {
		got := env.notify(t, simulator.Outgoing{
			ExternalID: fmt.Sprintf("E-%d", n),
			Body: []byte(
				strings.Replace(
					string(paymentTo(fmt.Sprint(n), fmt.Sprintf("P-%d", n))),
					`{`,
					`{"x":"`+strings.Repeat("x", 20_000)+`",`,
					1,
				),
			),
		})
		refused = got.header.Get("X-Doku-Error") == "not_kept"
	}
	if !refused {
		t.Fatal("the file never was full")
	}
	list, err := env.inboxCommand(t, "list")
	if err != nil || !strings.Contains(list, "1 COULD NOT BE KEPT") {
		t.Errorf("%v\n%s", err, list)
	}
	doktest.Eventually(t, "a warning", func() bool { return env.hasLine(`"reason":"not_kept"`) })
}

func TestABadPositionInAListIsTheCallersMistake(t *testing.T) {
	t.Parallel()
	env := start(t, options{inbox: "{\n}"})
	for _, after := range []string{"aaaa", "1", "x-y", "-"} {
		if got := get(t, http.MethodGet, env.admin+"/doku/inbox/default?after="+after); got.status != http.StatusBadRequest {
			t.Errorf("after=%s: HTTP %d %s", after, got.status, got.body)
		}
	}
}

func TestAnotherMerchantsNotificationHidesNothing(t *testing.T) {
	t.Parallel()
	server := doktest.StartRedis(t)
	o := options{global: "store redis " + server.URL, inbox: "{\n answer_within 300ms\n}"}
	other := newEnv(t)
	other.doku = newDOKU(t, "BRN-9999-1", secretKey+"-of-another", new(atomic.Int64))
	other.doku.SetMerchantURLs(other.inward+tokenPath, other.inward+inquiryPath, other.inward+paymentPath)
	other.variables = append(other.variables, "DOKU_CLIENT_ID=BRN-9999-1", "DOKU_SECRET_KEY="+secretKey+"-of-another")
	other.run(t, other.caddyfile(o))
	other.app.setAnswer(answering(http.StatusServiceUnavailable))
	other.notify(t, simulator.Outgoing{}).expect(t, http.StatusInternalServerError, "5002502")

	env := start(t, o)
	env.app.setAnswer(answering(http.StatusServiceUnavailable))
	env.notify(t, simulator.Outgoing{Body: paymentTo("7", "P-7")}).expect(t, http.StatusInternalServerError, "5002502")
	list, err := env.inboxCommand(t, "list")
	if err != nil || !strings.Contains(list, "HTTP 503") {
		t.Errorf("%v\n%s", err, list)
	}
	exported, err := env.inboxCommand(t, "export")
	if err != nil || !strings.Contains(exported, "P-7") || strings.Contains(exported, "P-1") {
		t.Errorf("%v\n%s", err, exported)
	}
	env.app.setAnswer(nil)
	doktest.Eventually(t, "the delivery", func() bool {
		calls := env.app.seen()
		return len(calls) > 0 && strings.Contains(calls[len(calls)-1].body, "P-7")
	})
	if calls := other.app.seen(); len(calls) == 0 {
		t.Error("the other merchant's app got nothing")
	}
}
