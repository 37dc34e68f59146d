package appanswer

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
)

func answer(status int, contentType, body string) store.Answer {
	return store.Answer{Status: status, Header: http.Header{"Content-Type": {contentType}}, Body: []byte(body)}
}

const (
	yesBody = `{"responseCode":"2002500","responseMessage":"Successful"}`
	noBody  = `{"responseCode":"4042512","responseMessage":"Bill not found"}`
)

// test is an answer to a payment notification, with what it means.
type test struct {
	name   string
	status int
	body   string
	want   Decision
	judged int // the judged status
}

func (x test) run(t *testing.T, loose bool) {
	t.Helper()
	if got := Judge(snap.ServiceVAPayment, answer(x.status, "application/json", x.body), loose); got.Decision != x.want ||
		got.Status != x.judged {
		t.Errorf("%s: decision %d, HTTP %d, expected %d, %d (%s)", x.name, got.Decision, got.Status, x.want, x.judged, got)
	}
}

func TestAYesIsHTTP2xxAndOneJSONObjectWithA2xxCode(t *testing.T) {
	t.Parallel()
	for _, x := range []test{
		{"as DOKU shows it", 200, yesBody, Yes, 200},
		{"HTTP 201", 201, yesBody, Yes, 201},
		{"a number", 200, `{"responseCode":2002500}`, Yes, 200},
		{"another 2xx", 200, `{"responseCode":"2022500"}`, Yes, 200},
		{"the code last, with white space", 200, "{ \"a\": [1],\n \"responseCode\" : \"2002500\" }\n", Yes, 200},
		{"an escape in the key", 200, `{"respon\u0073eCode":"2002500"}`, Yes, 200},
		{"white space around it", 200, "\r\n\t " + yesBody + " \n", Yes, 200},
		{"a byte order mark before it", 200, "\ufeff" + yesBody, Yes, 200},
		{"marks and white space, mixed", 200, "\ufeff\n\ufeff\u00a0" + yesBody + "\ufeff\n", Yes, 200},
		{"a code within another member", 200, `{"responseCode":"2002500","data":{"responseCode":"5002500"}}`, Yes, 200},
		{"the same code twice", 200, `{"responseCode":"2002500","responseCode":"2002500"}`, Yes, 200},
		{"text in Latin-1", 200, "{\"responseCode\":\"2002500\",\"responseMessage\":\"d\xe9j\xe0\"}", Yes, 200},
	} {
		x.run(t, false)
		x.run(t, true)
	}
}

func TestANoIsASNAPAnswerWithA4xxCode(t *testing.T) {
	t.Parallel()
	for _, x := range []test{
		{"HTTP says yes, the code no", 200, noBody, No, 404},
		{"a number", 200, `{"responseCode":4092500}`, No, 409},
		{"both say no", 404, noBody, No, 404},
		{"with another 4xx", 400, noBody, No, 400},
		{"a byte order mark before it", 200, "\ufeff" + noBody, No, 404},
		{"white space around it", 404, "\n" + noBody + "\n", No, 404},
	} {
		x.run(t, false)
		x.run(t, true)
	}
}

func TestEverythingElseDecidesNothing(t *testing.T) {
	t.Parallel()
	for _, x := range []test{
		{"a JSON object without a code", 200, `{"status":"error","message":"order not found"}`, Undecided, 200},
		{"an empty object", 200, `{}`, Undecided, 200},
		{"a code one level down", 200, `{"data":{"responseCode":"2002500"}}`, Undecided, 200},
		{"an array", 200, `[` + yesBody + `]`, Undecided, 200},
		{"JSON in a JSON text", 200, `"{\"responseCode\":\"2002500\"}"`, Undecided, 200},
		{"two objects", 200, yesBody + yesBody, Undecided, 200},
		{"a no after a yes", 200, yesBody + noBody, Undecided, 200},
		{"cut short", 200, yesBody[:len(yesBody)-1], Undecided, 200},
		{"a PHP warning before it", 200, "Warning: x in y.php on line 3\n" + yesBody, Undecided, 200},
		{"a PHP warning before a no", 200, "<br />\n<b>Warning</b>: x\n" + noBody, Undecided, 200},
		{"a no within a page", 200, "<html>" + noBody + "</html>", Undecided, 200},
		{"a debug bar after it", 200, yesBody + "<script></script>", Undecided, 200},
		{"the prefix against JSON hijacking", 200, ")]}',\n" + yesBody, Undecided, 200},
		{"a comment before it", 200, "/* ok */" + yesBody, Undecided, 200},
		{"a zero byte before it", 200, "\x00" + yesBody, Undecided, 200},
		{"the key in another case", 200, `{"ResponseCode":"2002500"}`, Undecided, 200},
		{"six digits", 200, `{"responseCode":"500250"}`, Undecided, 200},
		{"eight digits", 200, `{"responseCode":"20025000"}`, Undecided, 200},
		{"a blank behind the code", 200, `{"responseCode":"2002500 "}`, Undecided, 200},
		{"00", 200, `{"responseCode":"00"}`, Undecided, 200},
		{"null", 200, `{"responseCode":null}`, Undecided, 200},
		{"true", 200, `{"responseCode":true}`, Undecided, 200},
		{"a list", 200, `{"responseCode":["2002500"]}`, Undecided, 200},
		{"a decimal number", 200, `{"responseCode":2002500.0}`, Undecided, 200},
		{"a signed number", 200, `{"responseCode":-200250}`, Undecided, 200},
		{"a code that is a redirect", 200, `{"responseCode":"3022500"}`, Undecided, 200},
		{"a code with a status that HTTP has not", 200, `{"responseCode":"9992500"}`, Undecided, 200},
		{"a yes and a no", 200, `{"responseCode":"2002500","responseCode":"5002500"}`, Undecided, 200},
		{"a no and a yes", 200, `{"responseCode":"4042512","responseCode":"2002500"}`, Undecided, 200},
		{"a yes, and a no in another case", 200, `{"responseCode":"2002500","ResponseCode":"5002500"}`, Undecided, 200},
		{"a yes, and a no with an escape", 200, `{"responseCode":"2002500","respon\u0073eCode":"5002500"}`, Undecided, 200},
		{"a page", 200, "<!doctype html><html></html>", Undecided, 200},
		{"a code that says 5xx", 200, `{"responseCode":"5002500"}`, Undecided, 500},
		{"a code that says 504", 200, `{"responseCode":"5042500"}`, Undecided, 504},
		{"a code that says 401", 200, `{"responseCode":"4012500"}`, Undecided, 401},
		{"a code that says 408", 200, `{"responseCode":"4082500"}`, Undecided, 408},
		{"a code that says 425", 200, `{"responseCode":"4252500"}`, Undecided, 425},
		{"a code that says 429", 200, `{"responseCode":"4292500"}`, Undecided, 429},
		{"401 with a SNAP body", 401, `{"responseCode":"4012500"}`, Undecided, 401},
		{"401 with another SNAP body", 401, noBody, Undecided, 401},
		{"404 with a code that says 401", 404, `{"responseCode":"4012500"}`, Undecided, 401},
		{"400 with a code that says 5xx", 400, `{"responseCode":"5002500"}`, Undecided, 500},
		{"429 with a SNAP body", 429, `{"responseCode":"4292500"}`, Undecided, 429},
		{"500 with a yes in it", 500, yesBody, Undecided, 500},
		{"503 with a no in it", 503, noBody, Undecided, 503},
		{"404 with a yes in it", 404, yesBody, Undecided, 404},
		{"404 without a SNAP body", 404, "<html>not found</html>", Undecided, 404},
		{"404 without a body", 404, "", Undecided, 404},
		{"419", 419, "<html>Page Expired</html>", Undecided, 419},
		{"a redirect", 302, "", Undecided, 302},
		{"a redirect with a yes", 302, yesBody, Undecided, 302},
		{"a redirect with a no", 302, noBody, Undecided, 302},
	} {
		x.run(t, false)
		x.run(t, true)
	}
}

func TestABareAnswerIsAYesOnlyIfTheConfigurationSaysSo(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{"empty": "", "OK": "OK", "white space": " \n", "a sentence": "RECEIVED, thanks"} {
		test{name, 200, body, Undecided, 200}.run(t, false)
		test{name, 200, body, Yes, 200}.run(t, true)
	}
	for _, x := range []test{
		{"a redirect", 302, "OK", Undecided, 302},
		{"500", 500, "OK", Undecided, 500},
		{"404", 404, "", Undecided, 404},
		{"text with JSON in it", 200, `saved {"responseCode":"5002500"}`, Undecided, 200},
		{"a text in JSON", 200, `"OK"`, Undecided, 200},
	} {
		x.run(t, true)
	}
	if got := Judge(snap.ServiceVAInquiry, answer(200, "text/plain", "OK"), true); got.Decision != Undecided {
		t.Errorf("a bare answer to an inquiry is no bill: decision %d", got.Decision)
	}
	gzipped := answer(200, "text/plain", "OK")
	gzipped.Header.Set("Content-Encoding", "gzip")
	if got := Judge(snap.ServiceVAPayment, gzipped, true); got.Decision != Undecided {
		t.Errorf("nobody can read a compressed answer: decision %d", got.Decision)
	}
}

func TestDOKUGetsTheAnswerCleanAndWithTheWorseStatus(t *testing.T) {
	t.Parallel()
	got := Judge(snap.ServiceVAPayment, answer(200, "application/json", "\ufeff\n"+noBody+"\n"), false)
	if got.Answer.Status != 404 || string(got.Answer.Body) != noBody || got.Code != "4042512" || got.OtherService {
		t.Errorf("found %+v", got)
	}
	for body, want := range map[string]bool{`{"responseCode":"2002400"}`: true, yesBody: false, `{"responseCode":"4042412"}`: true} {
		if got := Judge(snap.ServiceVAPayment, answer(200, "", body), false); got.OtherService != want {
			t.Errorf("%s: other service is %v", body, got.OtherService)
		}
	}
	for _, x := range []struct {
		status int
		body   string
		want   bool
	}{
		{200, yesBody, true},
		{200, noBody, true},
		{200, `{"responseCode":"5002500"}`, true},
		{503, `{"responseCode":"5032500"}`, true},
		{401, `{"responseCode":"4012500"}`, true},
		{500, yesBody, false},
		{503, noBody, false},
		{503, "", false},
		{200, "OK", false},
		{302, noBody, false},
	} {
		if got := Judge(snap.ServiceVAInquiry, answer(x.status, "", x.body), false); got.ForDOKU() != x.want {
			t.Errorf("%d %s: for DOKU is %v", x.status, x.body, got.ForDOKU())
		}
	}
}

func TestWhenToTryAgain(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		status           int
		body             string
		soon, maybeTaken bool
	}{
		{200, yesBody, false, false},
		{200, noBody, false, false},
		{200, "", false, true},
		{200, `{"responseCode":"2002500","responseCode":"5002500"}`, false, true},
		{200, `{"responseCode":"5002500"}`, true, false},
		{200, `{"responseCode":"4292500"}`, true, false},
		{200, `{"responseCode":"4012500"}`, false, false},
		{302, "", false, false},
		{404, "", false, false},
		{503, "", true, false},
		{425, "", true, false},
	} {
		got := Judge(snap.ServiceVAPayment, answer(x.status, "", x.body), false)
		if got.Soon() != x.soon || got.MaybeTaken() != x.maybeTaken {
			t.Errorf("%d %s: soon is %v, maybe taken is %v", x.status, x.body, got.Soon(), got.MaybeTaken())
		}
	}
}

func TestAnAnswerThatDecidesNothingHasADescriptionAndAHint(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		status     int
		body       string
		says, hint string
	}{
		{200, "", "the answer is empty: HTTP 200, \"text/html\", no body", "returned nothing"},
		{200, "<html>Please log in</html>", "the answer is a page", "error page"},
		{200, "<br />\n<b>Warning</b>: x\n" + yesBody, "before or behind the JSON", "display_errors"},
		{200, "OK", `the answer is plain text: HTTP 200, "text/html", "OK"`, "2002500"},
		{200, `{"status":"error"}`, "no responseCode", "2002500"},
		{200, `[1]`, "not a JSON object", "2002500"},
		{200, `{"responseCode":"00"}`, "not a 2xx, 4xx or 5xx code", "seven digits"},
		{200, `{"responseCode":"2002500","responseCode":"5002500"}`, "several responseCodes", "one responseCode"},
		{419, "<html>Page Expired</html>", "CSRF", "validateCsrfTokens"},
		{403, "<h1>Forbidden</h1> CSRF verification failed.", "CSRF", "csrf_exempt"},
		{422, "ActionController::InvalidAuthenticityToken", "CSRF", "skip_forgery_protection"},
		{302, "", "redirects", "login"},
		{404, "", "no such route", "add a route"},
		{405, "", "does not take POST", "POST"},
		{400, "<h1>Bad Request (400)</h1>", "without a SNAP answer", "ALLOWED_HOSTS"},
		{400, "Invalid HTTP_HOST header: 'x'. You may need to add 'x' to ALLOWED_HOSTS.", "host name", "app_host"},
		{403, "Blocked hosts: x", "host name", "config.hosts"},
		{401, "", "login or a key", "exempt"},
		{429, "", "too busy", "limits"},
		{503, "", "has failed", "own log"},
	} {
		got := Judge(snap.ServiceVAPayment, answer(x.status, "text/html", x.body), false)
		if !strings.Contains(got.Error(), x.says) || !strings.Contains(got.Hint(), x.hint) {
			t.Errorf("%d %s: %s – %s", x.status, x.body, got.Error(), got.Hint())
		}
	}
	redirect := answer(302, "", "")
	redirect.Header.Set("Location", "/login?next=/secret")
	if got := Judge(snap.ServiceVAPayment, redirect, false).Error(); !strings.Contains(got, `to "/login"`) {
		t.Error(got)
	}
}

func TestADescriptionTellsNeitherPeopleNorSecretsAndIsShort(t *testing.T) {
	t.Parallel()
	body := "Siti siti@example.com paid 25000 for 8808123456 with sk_live_abcdefghijklmnopqrstuvwxyz\x1b[31m\u202e " + strings.Repeat(
		"word ",
		1000,
	)
	got := Judge(snap.ServiceVAPayment, answer(200, "text/plain", body), false).Error()
	for _, secret := range []string{"example.com", "25000", "8808123456", "uvwxyz", "\x1b", "\u202e"} {
		if strings.Contains(got, secret) {
			t.Errorf("%q is in %s", secret, got)
		}
	}
	if !strings.Contains(got, "paid *****") || len(got) > 300 {
		t.Error(got)
	}
}

// FuzzJudge compares the decision with that of a reader that takes no short way.
func FuzzJudge(f *testing.F) {
	for _, seed := range []string{
		yesBody, noBody, "", "OK", `{"responseCode" : "2002500","a":{"responseCode":"4042512"}}`,
		`{"responseCode":"2002500","responseCode":"4042512"}`,
		`{"a":"responseCode","responseCode":"2002500"}`, `{"responseCode":"2002500","\u0052esponseCode":"4042512"}`,
		`{"responseCode":"2002500","x":"}{"}`, `{"responseCode":2002500}`, `{"responseCode":"2002500`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got := Judge(snap.ServiceVAPayment, store.Answer{Status: 200, Body: body}, false)
		if got.Decision != Yes {
			return
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(trim(body), &fields); err != nil {
			t.Fatalf("%q is a yes, but %v", body, err)
		}
		for name, value := range fields {
			if strings.EqualFold(name, "responseCode") && !strings.HasPrefix(strings.Trim(string(value), `"`), "2") {
				t.Fatalf("%q is a yes, but %s is %s", body, name, value)
			}
		}
		if len(fields["responseCode"]) == 0 {
			t.Fatalf("%q is a yes without a code", body)
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	yes := answer(200, "application/json", yesBody)
	b.ReportAllocs()
	for b.Loop() {
		if Judge(snap.ServiceVAPayment, yes, false).Decision != Yes {
			b.Fatal("no yes")
		}
	}
}
