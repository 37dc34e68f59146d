package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

func bill(customerNo, trxID, amount, trxType, config string) string {
	numbers := ""
	if customerNo != "" {
		numbers = fmt.Sprintf(`"customerNo":%q,"virtualAccountNo":%q,`, customerNo, partnerServiceID+customerNo)
	}
	return fmt.Sprintf(
		`{"partnerServiceId":%q,%s"virtualAccountName":"José & Putri <VIP>","trxId":%q,"totalAmount":{"value":%q,"currency":"IDR"},`+
			`"virtualAccountTrxType":%q,"additionalInfo":{"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA"%s}}`,
		partnerServiceID,
		numbers,
		trxID,
		amount,
		trxType,
		config,
	)
}

func limits(lowest, highest string) string {
	return fmt.Sprintf(`,"virtualAccountConfig":{"minAmount":%q,"maxAmount":%q}`, lowest, highest)
}

func TestLifeOfAVirtualAccount(t *testing.T) {
	t.Parallel()
	env := start(t, options{})

	created := env.call(t, http.MethodPost, createPath, bill("", "INV-1", "10000.00", "C", ""))
	created.expect(t, http.StatusOK, "2002700")
	var parsed struct {
		Data struct {
			No   string `json:"virtualAccountNo"`
			Info struct {
				Page string `json:"howToPayPage"`
				API  string `json:"howToPayApi"`
			} `json:"additionalInfo"`
		} `json:"virtualAccountData"`
	}
	if err := json.Unmarshal([]byte(created.body), &parsed); err != nil {
		t.Fatal(err)
	}
	if parsed.Data.No == "" || parsed.Data.Info.Page == "" || parsed.Data.Info.API == "" {
		t.Errorf("expected virtualAccountNo, howToPayPage and howToPayApi, found %s", created.body)
	}
	received := env.received(t)
	if string(received.Answer) != created.body {
		t.Errorf("the app got %s, DOKU had answered %s", created.body, received.Answer)
	}
	if got := created.header.Get("X-Doku-External-Id"); got == "" || got != received.Header.Get("X-External-Id") {
		t.Errorf("the app was told external id %q, DOKU got %q", got, received.Header.Get("X-External-Id"))
	}

	env.call(t, http.MethodPost, createPath, bill("1001", "INV-2", "11500.00", "C", "")).expect(t, http.StatusOK, "2002700")
	env.call(t, http.MethodPut, updatePath, bill("1001", "INV-2", "12500.00", "C", "")).expect(t, http.StatusOK, "2002800")
	key := fmt.Sprintf(`{"partnerServiceId":%q,"customerNo":"1001","virtualAccountNo":%q,`, partnerServiceID, partnerServiceID+"1001")
	env.call(t, http.MethodPost, statusPath, key+`"additionalInfo":{}}`).expect(t, http.StatusOK, "2002600")
	deletion := key + `"trxId":"INV-2","additionalInfo":{"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA"}}`
	env.call(t, http.MethodDelete, deletePath, deletion).expect(t, http.StatusOK, "2003100")
	if received := env.received(t); received.Method != http.MethodDelete || string(received.Body) != deletion {
		t.Errorf("DOKU received %s %s", received.Method, received.Body)
	}
	if n := env.doku.Tokens(); n != 1 {
		t.Errorf("DOKU issued %d tokens for five calls, expected one", n)
	}
}

func TestAmountsAreHeldToTheirRules(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	creations := []struct {
		name, amount, trxType, config string
		status                        int
		code                          string
	}{
		{"closed", "10000.00", "C", "", 200, "2002700"},
		{"closed without an amount", "0", "C", "", 400, "4002701"},
		{"closed with limits", "10000.00", "C", limits("1.00", "2.00"), 400, "4002701"},
		{"open", "0", "O", "", 200, "2002700"},
		{"open with limits", "0", "O", limits("10000.00", "50000.00"), 200, "2002700"},
		{"open with an amount", "10000.00", "O", "", 400, "4002701"},
		{"variable within limits", "20000.00", "V", limits("10000.00", "50000.00"), 200, "2002700"},
		{"variable without limits", "20000.00", "V", "", 400, "4002702"},
		{"limits the wrong way round", "0", "O", limits("50000.00", "10000.00"), 400, "4002701"},
		{"an unknown type", "10000.00", "X", "", 400, "4002701"},
	}
	for i, c := range creations {
		t.Run(c.name, func(t *testing.T) {
			env.call(t, http.MethodPost, createPath, bill(fmt.Sprint(3000+i), fmt.Sprint("INV-", i), c.amount, c.trxType, c.config)).
				expect(t, c.status, c.code)
		})
	}
	for _, p := range []struct {
		name, customer, amount string
		taken                  bool
	}{
		{"a closed one takes no less", "3000", "9999.00", false},
		{"a closed one takes its amount", "3000", "10000.00", true},
		{"an open one takes anything", "3003", "123.00", true},
		{"below the limit", "3004", "9999.99", false},
		{"above the limit", "3006", "50000.01", false},
		{"within the limits", "3006", "50000.00", true},
	} {
		t.Run(p.name, func(t *testing.T) {
			_, err := env.doku.Pay(t.Context(), partnerServiceID+p.customer, p.amount)
			if (err == nil) != p.taken {
				t.Errorf("paying %s: %v", p.amount, err)
			}
		})
	}
}

func TestDOKUGetsNothingButTheCall(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	pretty := "{ \"partnerServiceId\" : \"    8808\",\n" +
		`  "virtualAccountName": "Jos\u00e9 \u0026 Putri \u003cVIP\u003e", "trxId":"I-1", ` +
		"\"totalAmount\":{\"value\":\"1.00\",\"currency\":\"IDR\"},\n" +
		`"virtualAccountTrxType":"C", "additionalInfo": { "channel":"VIRTUAL_ACCOUNT_BANK_PERMATA", "url":"https:\/\/t.id\/x?a=1&b=\ud83c\udf89" } }`
	got := env.call(
		t, http.MethodPost, createPath+"?x=%2F&y=1", pretty, "X-EXTERNAL-ID", "12345", "CHANNEL-ID", "SDK", "Authorization", "Bearer mine",
		"X-SIGNATURE", "mine", "X-PARTNER-ID", clientID, "Cookie", "session=1", "X-Forwarded-For", "10.1.2.3", "Traceparent",
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Baggage", "a=b", "X-Internal", "1",
	)
	got.expect(t, http.StatusOK, "2002700")
	received := env.received(t)
	want := `{"partnerServiceId":"    8808","virtualAccountName":"José & Putri <VIP>","trxId":"I-1",` +
		`"totalAmount":{"value":"1.00","currency":"IDR"},` +
		`"virtualAccountTrxType":"C","additionalInfo":{"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA","url":"https://t.id/x?a=1&b=🎉"}}`
	if string(received.Body) != want {
		t.Errorf("the body that DOKU received:\n%s\nexpected:\n%s", received.Body, want)
	}
	if received.Target != createPath+"?x=%2F&y=1" {
		t.Errorf("target %s", received.Target)
	}
	allowed := map[string]bool{
		"Content-Type": true, "Content-Length": true, "User-Agent": true, "X-Timestamp": true, "X-Signature": true,
		"X-Partner-Id": true, "X-External-Id": true, "Channel-Id": true, "Authorization": true,
	}
	for name := range received.Header {
		if !allowed[name] {
			t.Errorf("DOKU got the header %s: %q", name, received.Header[name])
		}
	}
	if received.Header.Get("X-External-Id") != "12345" || received.Header.Get("Channel-Id") != "SDK" {
		t.Errorf("the app's own X-EXTERNAL-ID and CHANNEL-ID were not kept: %v", received.Header)
	}
}

func TestCallsThatAreNotMade(t *testing.T) {
	t.Parallel()
	env := start(t, options{sign: "body strict\n max_body 2KB"})
	tests := []struct {
		name, body string
		header     []string
		status     int
		code       string
		reason     string
	}{
		{"not JSON", `{"a":`, nil, 400, "4002700", "body_not_json"},
		{"a byte order mark", "\ufeff{}", nil, 400, "4002700", "body_not_json"},
		{"too large", `"` + strings.Repeat("a", 3000) + `"`, nil, 413, "4132700", "body_too_large"},
		{"an amount as a float, with body strict", `{"totalAmount":{"value":10000.00}}`, nil, 400, "4002701", "body_unsafe"},
		{"a duplicate key, with body strict", `{"a":"1","\u0061":"2"}`, nil, 400, "4002701", "body_unsafe"},
		{"an external id with a blank", `{}`, []string{"X-EXTERNAL-ID", "a b"}, 400, "4002701", "external_id"},
		{"an external id that is too long", `{}`, []string{"X-EXTERNAL-ID", strings.Repeat("1", 65)}, 400, "4002701", "external_id"},
		{"an empty external id", `{}`, []string{"X-EXTERNAL-ID", ""}, 400, "4002701", "external_id"},
		{"two channels", `{}`, []string{"CHANNEL-ID", "a", "CHANNEL-ID", "b"}, 400, "4002701", "header_repeated"},
		{"two devices", `{}`, []string{"X-DEVICE-ID", "a", "X-DEVICE-ID", "a"}, 400, "4002701", "header_repeated"},
		{"Latin-1", "{\"n\":\"Jos\xe9\"}", nil, 400, "4002700", "body_not_json"},
		{"UTF-8 that is too long", "{\"n\":\"\xc0\xaf\"}", nil, 400, "4002700", "body_not_json"},
		{"a key in Latin-1", "{\"\xe9\":1}", nil, 400, "4002700", "body_not_json"},
		{"a surrogate in UTF-8", "{\"n\":\"\xed\xa0\x80\"}", nil, 400, "4002700", "body_not_json"},
		{"null", `null`, nil, 400, "4002700", "body_not_json"},
		{"an array", ` ["a"]`, nil, 400, "4002700", "body_not_json"},
		{"a number", `1`, nil, 400, "4002700", "body_not_json"},
		{"JSON that is encoded twice", `"{\"trxId\":\"A\"}"`, nil, 400, "4002700", "body_not_json"},
		{"another merchant's partner id", `{}`, []string{"X-PARTNER-ID", "BRN-9"}, 400, "4002701", "account"},
		{"two external ids", `{}`, []string{"X-EXTERNAL-ID", "1", "X-EXTERNAL-ID", "2"}, 400, "4002701", "external_id"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := env.call(t, http.MethodPost, createPath, test.body, test.header...)
			got.expect(t, test.status, test.code)
			if reason := got.header.Get("X-Doku-Error"); reason != test.reason {
				t.Errorf("X-Doku-Error %q, expected %q", reason, test.reason)
			}
		})
	}
	if n := len(env.doku.Exchanges()); n != 0 {
		t.Errorf("DOKU received %d calls, expected none", n)
	}
}

func TestABodyInAnotherEncodingIsRefusedWithEachWayToChangeIt(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"canonical", "minify"} {
		env := start(t, options{sign: "body " + body})
		got := env.call(t, http.MethodPost, createPath, "{\"n\":\"Jos\xe9\"}")
		got.expect(t, http.StatusBadRequest, "4002700")
		if !strings.Contains(got.body, "0xe9 at offset 9") {
			t.Errorf("the app is told %s", got.body)
		}
		env.call(t, http.MethodPost, createPath, `"{}"`).expect(t, http.StatusBadRequest, "4002700")
		env.awaitLine(t, `"reason":"body_not_json"`, "encoded twice")
		if n := env.sent(); n != 0 {
			t.Errorf("DOKU received %d calls", n)
		}
	}
}

func TestIDsOfDOKUsOwnLibrariesPassWithAWarning(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	const warning = "the app's X-EXTERNAL-ID is not what SNAP wants"
	for _, id := range []string{
		"INV123", "a3f1c2d4-0000-4000-8000-123456789abc", "a3f1c2d4-0000-4000-8000-123456789abc-1732770000000",
		"0123456789abcdef0123456789abcdef2024-03-26T16:01:41+07:00", strings.Repeat("x1", 28) + "y", strings.Repeat("1", 50),
	} {
		env.call(t, http.MethodPost, statusPath, "{}", "X-EXTERNAL-ID", id)
		if got := env.received(t).Header.Get("X-External-Id"); got != id {
			t.Errorf("DOKU received the id %q, expected %q", got, id)
		}
		env.awaitLine(t, `"level":"warn"`, warning, `"external_id":"`+id+`"`)
	}
	env.call(t, http.MethodPost, statusPath, "{}", "X-EXTERNAL-ID", "4711", "CHANNEL-ID", "WAY TOO LONG A NAME FOR IT")
	env.awaitLine(t, `"level":"warn"`, "the CHANNEL-ID is not what SNAP wants", "WAY TOO LONG")
	env.call(t, http.MethodPost, statusPath, "{}", "X-EXTERNAL-ID", "4712", "CHANNEL-ID", "a-b")
	env.awaitLine(t, `"level":"warn"`, "the CHANNEL-ID is not what SNAP wants", `"channel_id":"a-b"`)
	before := strings.Count(env.log.String(), "is not what SNAP wants")
	env.call(t, http.MethodPost, statusPath, "{}", "X-EXTERNAL-ID", "4713", "CHANNEL-ID", "H2H")
	env.awaitLine(t, `"external_id":"4713"`)
	if n := strings.Count(env.log.String(), "is not what SNAP wants"); n != before {
		t.Error("ids that SNAP wants were warned of")
	}
}

func TestATargetThatNoURLMayHaveIsRefused(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	for _, target := range []string{"/x|y", "/x?q=\xe9", "/x?q=\xc3\xa9", `/x?q="1"`, "/x?q={1}", "/x^", "/x<y>", `/x\y`, "/x#y", "/x?`"} {
		got := env.raw(t, "GET "+target, nil, "")
		if got.header.Get("X-Doku-Error") != "target" || got.status != http.StatusBadRequest || !strings.Contains(got.body, "write it as %") {
			t.Errorf("%s: HTTP %d %s", target, got.status, got.body)
		}
	}
	if n := env.sent(); n != 0 {
		t.Errorf("DOKU received %d calls", n)
	}
	for _, target := range []string{"/x%7Cy?q=%E9&a[]=1&b='*'", "/x;y=1/..", "/%2e%2e/x//y/?", "/x?q=%zz"} {
		env.raw(t, "GET "+target, nil, "")
		if got := env.received(t).Target; got != target {
			t.Errorf("DOKU received %s, expected %s", got, target)
		}
	}
}

func TestManyAtOnceShareOneToken(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			env.call(t, http.MethodPost, createPath, bill(fmt.Sprint(5000+i), fmt.Sprint("M-", i), "1000.00", "C", "")).
				expect(t, http.StatusOK, "2002700")
		})
	}
	wg.Wait()
	if n := env.doku.Tokens(); n != 1 {
		t.Errorf("DOKU issued %d tokens, expected one", n)
	}
}

func TestTokenThatDOKUNoLongerTakesIsReplacedOnce(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	env.doku.ExpireToken()
	env.call(t, http.MethodPost, createPath, bill("2", "B", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	all := env.doku.Exchanges()
	if n := env.doku.Tokens(); n != 2 || len(all) != 5 {
		t.Fatalf("%d tokens in %d exchanges, expected 2 in 5", n, len(all))
	}
	if all[2].Header.Get("X-External-Id") != all[4].Header.Get("X-External-Id") {
		t.Error("the second attempt has another X-EXTERNAL-ID")
	}
}

func TestWhenDOKUMisbehaves(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		path   string
		fault  simulator.Fault
		status int
		code   string
		reason string
	}{
		{"500 to the token request", tokenPath, simulator.Fault{Status: 500, Body: "oops"}, 503, "5032700", "token"},
		{"HTML to the token request", tokenPath, simulator.Fault{Status: 200, Body: "<html>proxy</html>"}, 503, "5032700", "token"},
		{"200 without a token", tokenPath, simulator.Fault{Status: 200, Body: "{}"}, 503, "5032700", "token"},
		{"refused token request", tokenPath, simulator.Fault{Status: 401, Body: `{"responseCode":"4017300"}`}, 503, "5032700", "token"},
		{"the connection breaks after the call was sent", createPath, simulator.Fault{}, 504, "5042700", "outcome_unknown"},
		{
			"500 to the call passes through", createPath, simulator.Fault{Status: 500, Body: `{"responseCode":"5002700"}`}, 500, "5002700", "",
		},
		{
			"401 about the signature passes through", createPath,
			simulator.Fault{Status: 401, Body: `{"responseCode":"4012700"}`},
			401, "4012700",
			"",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			env := start(t, options{})
			env.doku.SetFault(test.path, &test.fault)
			got := env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", ""))
			got.expect(t, test.status, test.code)
			if reason := got.header.Get("X-Doku-Error"); reason != test.reason {
				t.Errorf("X-Doku-Error %q, expected %q", reason, test.reason)
			}
			calls := 0
			for _, e := range env.doku.Exchanges() {
				if e.Target == createPath {
					calls++
				}
			}
			if want := map[string]int{tokenPath: 0, createPath: 1}[test.path]; calls != want {
				t.Errorf("DOKU received the call %d times, expected %d", calls, want)
			}
		})
	}
}

func TestDOKUUnreachable(t *testing.T) {
	t.Parallel()
	env := start(t, options{environment: "http://" + doktest.FreeAddress(t)})
	got := env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", ""))
	got.expect(t, http.StatusServiceUnavailable, "5032700")
}
