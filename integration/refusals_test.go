package integration

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/simulator"
)

func TestAGetIsSentOnceOnly(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700") // a connection is kept
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		env.doku.SetFault(statusPath, nil)
		env.call(t, method, statusPath, "")               // one more that may be kept
		env.doku.SetFault(statusPath, &simulator.Fault{}) // from now on it breaks under the call
		before := env.sent()
		env.call(t, method, statusPath, "").expect(t, http.StatusGatewayTimeout, "5042600")
		if n := env.sent() - before; n != 1 {
			t.Errorf("%s: DOKU received the call %d times", method, n)
		}
	}
}

func TestATokenThatDOKURefusesInAnyFormIsReplaced(t *testing.T) {
	t.Parallel()
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write([]byte(`{"responseCode":"4012701"}`)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, fault := range map[string]simulator.Fault{
		"within a 200":          {Status: 200, Body: `{"responseCode":"4012701","responseMessage":"Access Token Invalid (B2B)"}`},
		"token not found, 200":  {Status: 200, Body: `{"responseCode": 4012703}`},
		"within a 400":          {Status: 400, Body: `{"responseCode":"4012701"}`},
		"401":                   {Status: 401, Body: `{"responseCode":"4012701"}`},
		"with a mark before it": {Status: 401, Body: "\ufeff" + `{ "responseCode" : "4012701" }`},
		"in gzip": {
			Status: 401, Body: zipped.String(), Header: http.Header{"Content-Encoding": {"gzip"}, "Content-Type": {"application/json"}},
		},
		"a code with blanks": {Status: 401, Body: `{"responseCode":" 4012701 "}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := start(t, options{})
			fault.Times = 1
			env.doku.SetFault(createPath, &fault)
			env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
			if n := env.doku.Tokens(); n != 2 {
				t.Errorf("DOKU issued %d tokens, expected 2", n)
			}
			var ids []string
			for _, e := range env.doku.Exchanges() {
				if e.Target == createPath {
					ids = append(ids, e.Header.Get("X-External-Id"))
				}
			}
			if len(ids) != 2 || ids[0] != ids[1] {
				t.Errorf("DOKU received the call with the ids %q", ids)
			}
		})
	}
}

func TestARefusalWithinA200CountsAsWhatItIs(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	const body = `{"responseCode":"4012701","responseMessage":"Access Token Invalid (B2B)"}`
	env.doku.SetFault(createPath, &simulator.Fault{Status: 200, Body: body})
	for range 2 { // the answer is not kept for repeats: the token may be right later
		got := env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", ""), "Idempotency-Key", "INV-1")
		if got.status != http.StatusOK || got.body != body || got.header.Get("X-Doku-Replayed") != "" {
			t.Errorf("HTTP %d %s, replayed %q", got.status, got.body, got.header.Get("X-Doku-Replayed"))
		}
	}
	env.awaitMetrics(t, `calls_total{account="default",direction="outbound",outcome="unauthorized",service="27"} 2`)
	env.awaitLine(t, `"level":"warn"`, `"reason":"unauthorized"`, `"response_code":"4012701"`, "Access Token Invalid (B2B)")
}

func TestTheLogSaysWhatDOKUSays(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	const secret = "eyJhbGciOiJSUzI1NiJ9.eyJjbGllbnRJZCI6IjMxODkifQ.c2lnbmF0dXJl"
	tests := []struct {
		status int
		body   string
		want   []string
	}{
		{401, `{"responseCode":"4012700","responseMessage":"Unauthorized. [Signature]"}`, []string{
			`"response_code":"4012700"`, `"response_message":"Unauthorized. [Signature]"`,
		}},
		{
			500,
			"<!DOCTYPE html>\n<html><head><style>p{}</style><title>502 Bad Gateway</title></head></html>",
			[]string{`"answer":"502 Bad Gateway"`},
		},
		{503, "upstream\x1b[31m gone\nsecond line", []string{`"answer":"upstream [31m gone"`}},
		{500, `{"responseCode":5002700,"responseMessage":"no: ` + secret + ` for    88081234567890123 or a.b@c.example"}`, []string{
			`"response_code":"5002700"`, `"response_message":"no: … for … or …"`,
		}},
		{500, "", []string{`"answer":""`}},
		{500, strings.Repeat("long ", 1000), []string{`"answer":"long long`}},
	}
	for i, test := range tests {
		id := fmt.Sprint(1000 + i)
		env.doku.SetFault(createPath, &simulator.Fault{Status: test.status, Body: test.body})
		env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", ""), "X-EXTERNAL-ID", id)
		env.awaitLine(t, append(test.want, `"level":"warn"`, `"external_id":"`+id+`"`)...)
	}
	if log := env.log.String(); strings.Contains(log, secret) || strings.Contains(log, strings.Repeat("long ", 40)) {
		t.Error("a token, or a very long answer, is in the log")
	}
}

func TestTheLogNamesTheLikelyCauseOfARefusal(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	good := bill("1", "A", "1000.00", "C", "")
	for i, test := range []struct{ method, path, body, want string }{
		{http.MethodPost, createPath, strings.Replace(good, `"1000.00"`, `1000`, 1), "totalAmount.value must be a string"},
		{http.MethodPost, createPath, strings.Replace(good, partnerServiceID, "8808", 1), "padded with blanks on the left"},
		{http.MethodPost, createPath, strings.Replace(good, "BANK_PERMATA", "PERMATA", 1), "none of DOKU's channels"},
		{http.MethodPost, updatePath, good, "the method of this path is PUT, the app has sent POST"},
		{http.MethodPost, "/virtual-accounts/bi-snap-va/v1.1/transfer-va/creat-va", good, "check its spelling"},
	} {
		id := fmt.Sprint(2000 + i)
		got := env.call(t, test.method, test.path, test.body, "X-EXTERNAL-ID", id)
		if got.status < 400 || got.header.Get("X-Doku-Error") != "" {
			t.Errorf("HTTP %d %s, expected a refusal of DOKU's", got.status, got.body)
		}
		env.awaitLine(t, `"level":"warn"`, `"external_id":"`+id+`"`, `"reason":"declined"`, `"response_code":"4`, test.want)
	}
}
