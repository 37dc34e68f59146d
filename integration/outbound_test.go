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
		{"an external id that is not a number", `{}`, []string{"X-EXTERNAL-ID", "abc"}, 400, "4002701", "external_id"},
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
