package appanswer

import (
	"encoding/json"
	"errors"
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
		{"a yes, and a no with a long s", 200, `{"responseCode":"2002500","reſponseCode":"5002500"}`, Undecided, 200},
		{"a yes, and a no with another long s", 200, `{"responseCode":"2002500","RESPONſECODE":"5002500"}`, Undecided, 200},
		{"a yes, and a no with two of them", 200, `{"responseCode":"2002500","reſponſeCode":"5002500"}`, Undecided, 200},
		{"a yes, and a no with a long s at the end", 200, `{"responseCode":"2002500","a":1,"reſponſeCode":"4"}`, Undecided, 200},
		{"only a code with a long s", 200, `{"reſponseCode":"2002500"}`, Undecided, 200},
		{"a redirect", 302, "", Undecided, 302},
		{"a redirect with a yes", 302, yesBody, Undecided, 302},
		{"a redirect with a no", 302, noBody, Undecided, 302},
	} {
		x.run(t, false)
		x.run(t, true)
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
		{401, `{"responseCode":"4012500"}`, false},
		{429, `{"responseCode":"4292500"}`, false},
		{200, `{"responseCode":"4292500"}`, false},
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
		if strings.Contains(got.Hint(), "<yes>") || strings.Contains(got.Hint(), "<no>") {
			t.Error(got.Hint())
		}
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

func TestAHintHasTheAnswersOfTheService(t *testing.T) {
	t.Parallel()
	for service, want := range map[snap.Service][2]string{
		snap.ServiceVAInquiry: {"\"2002400\"", "4042412"}, snap.ServiceVAPayment: {"\"2002500\"", "4042512"},
		snap.ServiceDebitNotify: {"\"2005600\"", "4045612"},
	} {
		for n, x := range []store.Answer{
			answer(200, "", ""), answer(200, "", "<html>"), answer(200, "", "OK"), answer(200, "", "[]"), answer(200, "", "{}"),
			answer(200, "", `{"responseCode":"00"}`), answer(200, "", `{"responseCode":"1","responseCode":"2"}`), answer(400, "", ""),
		} {
			hint := Judge(service, x, false).Hint()
			if !strings.Contains(hint, want[n/7]) || (n < 7 && service == snap.ServiceVAInquiry) != strings.Contains(hint, "virtualAccountData") {
				t.Errorf("service %s, HTTP %d %s: %s", service, x.Status, x.Body, hint)
			}
			if strings.ContainsAny(hint, "<>") {
				t.Error(hint)
			}
		}
	}
}

func TestAnAnswerThatNobodyCanReadDecidesNothing(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"gzip", "br", "deflate", "x-gzip", "identity, br", "aes128gcm", "GZIP"} {
		for _, body := range []string{yesBody, noBody, "OK", "", "\x1f\x8b\x08\x00"} {
			encoded := answer(200, "application/json", body)
			encoded.Header.Set("Content-Encoding", encoding)
			for _, loose := range []bool{false, true} {
				got := Judge(snap.ServiceVAPayment, encoded, loose)
				if got.Decision != Undecided || !got.MaybeTaken() || got.Soon() || got.ForDOKU() || !strings.Contains(got.Error(), encoding) {
					t.Errorf("%s %q: %+v", encoding, body, got)
				}
			}
		}
	}
	plain := answer(200, "application/json", yesBody)
	plain.Header.Set("Content-Encoding", "Identity")
	if got := Judge(snap.ServiceVAPayment, plain, false); got.Decision != Yes {
		t.Errorf("identity is no encoding: %s", got)
	}
}

func TestABrokenAnswerDecidesNothing(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		status           int
		soon, maybeTaken bool
	}{{200, false, true}, {204, false, true}, {201, false, true}, {302, false, false}, {404, false, false}, {503, true, false}} {
		for _, body := range []string{"", yesBody, noBody, yesBody[:9]} {
			got := JudgeBroken(snap.ServiceVAPayment, answer(x.status, "application/json", body), errors.New("it breaks off"))
			if got.Decision != Undecided || got.Soon() != x.soon || got.MaybeTaken() != x.maybeTaken || got.ForDOKU() || got.Status != x.status {
				t.Errorf("HTTP %d %q: %+v", x.status, body, got)
			}
			if !strings.Contains(got.Error(), "it breaks off") || got.Hint() == "" || len(got.Answer.Body) > 0 {
				t.Errorf("HTTP %d %q: %s; %s; %q", x.status, body, got, got.Hint(), got.Answer.Body)
			}
		}
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
		`{"responseCode":"2002500","reſponseCode":"4042512"}`, `{"responseCode":"2002500","x":"}{"}`, `{"responseCode":2002500}`, `{"responseCode":"2002500`,
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
