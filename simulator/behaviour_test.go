package simulator

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

// modes runs a test with the usual DOKU, and with a strict one.
func modes(t *testing.T, test func(t *testing.T, s *testEnv, strict bool)) {
	t.Helper()
	for _, strict := range []bool{false, true} {
		t.Run(fmt.Sprintf("strict %t", strict), func(t *testing.T) {
			s := newEnv(t)
			if err := s.SetBehaviour(Behaviour{Strict: strict}); err != nil {
				t.Fatal(err)
			}
			test(t, s, strict)
		})
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	set := func(name, value string) func(*http.Request, *testEnv) {
		return func(r *http.Request, _ *testEnv) { r.Header.Set(name, value) }
	}
	del := func(name string) func(*http.Request, *testEnv) {
		return func(r *http.Request, _ *testEnv) { r.Header.Del(name) }
	}
	at := func(timestamp string) func(*http.Request, *testEnv) {
		return func(r *http.Request, s *testEnv) { s.sign(r, timestamp) }
	}
	const ok, mandatory, format, client, token = "2002700", "4002702", "4002701", "4012700", "4012701"
	tests := []struct {
		name          string
		usual, strict string
		change        func(*http.Request, *testEnv)
	}{
		{"genuine", ok, ok, func(*http.Request, *testEnv) {}},

		{"an external id of the PHP SDK", ok, format, set("X-EXTERNAL-ID", strings.Repeat("0f", 16)+"2024-03-26T12:00:00+07:00")},
		{"an external id of the Node SDK", ok, format, set("X-EXTERNAL-ID", "3f2b8c1e-8f1d-4a7e-9d53-0a1b2c3d4e5f-1711429200000")},
		{"an external id of 37 digits", ok, format, set("X-EXTERNAL-ID", strings.Repeat("7", 37))},
		{"an external id of 36 digits", ok, ok, set("X-EXTERNAL-ID", strings.Repeat("7", 36))},
		{"an external id with a blank", format, format, set("X-EXTERNAL-ID", "9 9")},
		{"no external id", mandatory, mandatory, del("X-EXTERNAL-ID")},
		{"two external ids", mandatory, mandatory, func(r *http.Request, _ *testEnv) { r.Header.Add("X-EXTERNAL-ID", "9") }},

		{"no channel id", ok, mandatory, del("CHANNEL-ID")},
		{"an empty channel id", ok, mandatory, set("CHANNEL-ID", "")},
		{"a channel id of the PHP SDK", ok, format, set("CHANNEL-ID", "VIRTUAL_ACCOUNT_BCA")},
		{"a channel id of the Go SDK", ok, ok, set("CHANNEL-ID", "SDK")},
		{"an older channel id", ok, ok, set("CHANNEL-ID", "95221")},
		{"two channel ids", mandatory, mandatory, func(r *http.Request, _ *testEnv) { r.Header.Add("CHANNEL-ID", "SDK") }},

		{"bearer in lower case", ok, ok, set("Authorization", "bearer tok")},
		{"bearer in capitals, and two blanks", ok, ok, set("Authorization", "BEARER  tok")},
		{"another scheme", token, token, set("Authorization", "Basic tok")},
		{"no scheme", token, token, set("Authorization", "tok")},
		{"a scheme alone", token, token, set("Authorization", "Bearer")},
		{"another token", token, token, set("Authorization", "Bearer other")},
		{"a token in lower case is another", token, token, set("Authorization", "Bearer TOK")},

		{"no content type", mandatory, mandatory, del("Content-Type")},
		{"text", format, format, set("Content-Type", "text/plain")},
		{"a form", format, format, set("Content-Type", "application/x-www-form-urlencoded")},
		{"another charset", format, format, set("Content-Type", "application/json; charset=iso-8859-1")},
		{"no type at all", format, format, set("Content-Type", "application/ json")},
		{"a charset", ok, ok, set("Content-Type", "application/json;charset=UTF-8")},
		{"capitals", ok, ok, set("Content-Type", "Application/JSON")},

		{"a time in UTC", ok, ok, at("2024-03-26T05:00:00Z")},
		{"the time of the Go SDK", ok, ok, at("2024-03-26T05:00:00+00:00")},
		{"the time of the Node SDK", ok, ok, at("2024-03-26T05:00:00-00:00")},
		{"a time with a half hour", ok, ok, at("2024-03-26T10:30:00+05:30")},
		{"7 seconds ago", ok, ok, at("2024-03-26T11:59:53+07:00")},
		{"5 seconds ahead", ok, format, at("2024-03-26T12:00:05+07:00")},
		{"6 seconds ahead", format, format, at("2024-03-26T12:00:06+07:00")},
		{"10 minutes ahead", format, format, at("2024-03-26T12:10:00+07:00")},
		{"12 minutes ago", ok, format, at("2024-03-26T11:48:00+07:00")},
		{"16 minutes ago", format, format, at("2024-03-26T11:44:00+07:00")},
		{"milliseconds", ok, format, at("2024-03-26T12:00:00.000+07:00")},
		{"a comma", format, format, at("2024-03-26T12:00:00,000+07:00")},
		{"no offset", format, format, at("2024-03-26T12:00:00")},
		{"an offset without a colon", format, format, at("2024-03-26T12:00:00+0700")},
		{"the time of the Node SDK in India", format, format, at("2024-03-26T10:30:00+5.5:30")},
		{"a blank", format, format, at("2024-03-26 12:00:00+07:00")},

		{"another partner", client, client, set("X-PARTNER-ID", "BRN-1")},
		{"another time than signed", client, client, set("X-TIMESTAMP", "2024-03-26T11:59:59+07:00")},
		{"another signature", client, client, set("X-SIGNATURE", "AAAA")},
		{"no signature", mandatory, mandatory, del("X-SIGNATURE")},
	}
	modes(t, func(t *testing.T, s *testEnv, strict bool) {
		t.Helper()
		for i, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				want := test.usual
				if strict {
					want = test.strict
				}
				change := func(r *http.Request) { test.change(r, s) }
				if got := s.call(t, bill(fmt.Sprint(100+i), fmt.Sprint("T", i)), fmt.Sprint(i), change); got != want {
					t.Errorf("response code %s, expected %s", got, want)
				}
			})
		}
	})
}

// wrongs are mistakes in the order in which they are found.
var wrongs = []struct {
	code, names string
	make        func(*http.Request)
}{
	{"4002702", "Content-Type", func(r *http.Request) { r.Header.Del("Content-Type") }},
	{"4002702", "X-TIMESTAMP", func(r *http.Request) { r.Header.Del("X-TIMESTAMP") }},
	{"4002702", "X-SIGNATURE", func(r *http.Request) { r.Header.Del("X-SIGNATURE") }},
	{"4002702", "X-PARTNER-ID", func(r *http.Request) { r.Header.Del("X-PARTNER-ID") }},
	{"4002702", "X-EXTERNAL-ID", func(r *http.Request) { r.Header.Del("X-EXTERNAL-ID") }},
	{"4002702", "Authorization", func(r *http.Request) { r.Header.Del("Authorization") }},
	{"4002701", "Content-Type", func(r *http.Request) { setIfGiven(r, "Content-Type", "text/plain") }},
	{"4002701", "X-TIMESTAMP", func(r *http.Request) { setIfGiven(r, "X-TIMESTAMP", "now") }},
	{"4002701", "X-EXTERNAL-ID", func(r *http.Request) { setIfGiven(r, "X-EXTERNAL-ID", "a b") }},
	{"4002701", "CHANNEL-ID", func(r *http.Request) { setIfGiven(r, "CHANNEL-ID", "é") }},
	{"4012700", "client", func(r *http.Request) { setIfGiven(r, "X-PARTNER-ID", "BRN-9") }},
	{"4012701", "Token", func(r *http.Request) { setIfGiven(r, "Authorization", "Bearer other") }},
	{"4012700", "Signature", func(r *http.Request) { setIfGiven(r, "X-SIGNATURE", "AAAA") }},
}

func setIfGiven(r *http.Request, name, value string) {
	if r.Header.Get(name) != "" {
		r.Header.Set(name, value)
	}
}

func TestOfTwoMistakesTheFirstIsNamed(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, s *testEnv, _ bool) {
		t.Helper()
		for i, first := range wrongs {
			for _, second := range wrongs[i:] {
				got, message := s.answer(t, bill("1", "T1"), "1", func(r *http.Request) {
					second.make(r)
					first.make(r)
				})
				if got != first.code || !strings.Contains(message, first.names) {
					t.Errorf("%s %s and %s %s: response code %s, %q", first.code, first.names, second.code, second.names, got, message)
				}
			}
		}
	})
}

func TestOfTwoWrongFieldsTheFirstIsNamed(t *testing.T) {
	t.Parallel()
	s := newEnv(t)
	fields := []string{
		`"virtualAccountName":"` + strings.Repeat("n", 256) + `"`, `"virtualAccountEmail":"toru@"`, `"virtualAccountPhone":"62"`,
		`"trxId":"` + strings.Repeat("T", 65) + `"`, `"totalAmount":{"value":"1.5","currency":"IDR"}`,
		`"additionalInfo":{"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA","virtualAccountConfig":{"minAmount":"x","maxAmount":"y"}}`,
		`"freeText":[{}]`, `"expiredDate":"tomorrow"`,
	}
	names := []string{
		"virtualAccountName", "virtualAccountEmail", "virtualAccountPhone", "trxId", "totalAmount.value", "minAmount", "freeText", "expiredDate",
	}
	for i := range fields {
		for j := i; j < len(fields); j++ {
			body := strings.TrimSuffix(bill("1", "T1"), "}") + "," + fields[j] + "," + fields[i] + "}"
			if got, message := s.answer(t, body, fmt.Sprint(100*i+j), nil); got != "4002701" || !strings.Contains(message, names[i]) {
				t.Errorf("%s and %s: response code %s, %q", names[i], names[j], got, message)
			}
		}
	}
}

func TestPaths(t *testing.T) {
	t.Parallel()
	const ok, unknown = "2002700", "4040000"
	tests := []struct{ path, usual, strict string }{
		{createVA, ok, ok},
		{createVA + "?x=1", ok, ok},
		{"/virtual-accounts/bi-snap-va/v1/transfer-va/create-va", ok, unknown},
		{"/bi-snap-va/v1/transfer-va/create-va", ok, unknown},
		{"/virtual-accounts/bi-snap-va/bnc/v1/transfe-va/create-va", ok, unknown},
		{"/transfer-va/create-va", unknown, unknown},
		{"/anything/transfer-va/create-va", unknown, unknown},
		{"/virtual-accounts/bi-snap-va/v9/transfer-va/create-va", unknown, unknown},
		{"/virtual-accounts/bi-snap-va/v1.1//transfer-va/create-va", unknown, unknown},
		{createVA + "/", unknown, unknown},
		{"/x" + createVA, unknown, unknown},
		{"/virtual-accounts/bi-snap-va/v1.1/transfer-va/create%2Dva", unknown, unknown},
		{"/virtual-accounts/bi-snap-va/v1.1/transfer-va/Create-VA", unknown, unknown},
	}
	modes(t, func(t *testing.T, s *testEnv, strict bool) {
		t.Helper()
		for i, test := range tests {
			want := test.usual
			if strict {
				want = test.strict
			}
			if got, _ := s.post(t, test.path, bill(fmt.Sprint(100+i), fmt.Sprint("T", i)), fmt.Sprint(i), nil); got != want {
				t.Errorf("%s: response code %s, expected %s", test.path, got, want)
			}
		}
	})
}

func TestAStatusCallNeedsNoChannel(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, s *testEnv, strict bool) {
		t.Helper()
		if got := s.call(t, bill("1", "T1"), "1", nil); got != "2002700" {
			t.Fatal(got)
		}
		const ask = `{"partnerServiceId":"    8808","customerNo":"1","virtualAccountNo":"    88081"}`
		again := "2002600"
		if strict {
			again = "4092600"
		}
		for _, want := range []string{"2002600", again} {
			if got, _ := s.post(t, "/orders/v1.0/transfer-va/status", ask, "2", func(r *http.Request) { r.Header.Del("CHANNEL-ID") }); got != want {
				t.Errorf("response code %s, expected %s", got, want)
			}
		}
	})
}

func TestAnswersAsDOKUsPagesAlsoShowThem(t *testing.T) {
	t.Parallel()
	s := newEnv(t)
	if err := s.SetBehaviour(Behaviour{NumberCodes: true, NumberAmounts: true, TextExpires: true}); err != nil {
		t.Fatal(err)
	}
	for i, path := range []string{createVA, "/orders/v1.0/transfer-va/status"} {
		if _, body := s.post(t, path, bill("1", "T1"), fmt.Sprint(i), nil); !strings.Contains(body, `"responseCode":2002`) {
			t.Errorf("%s", body)
		}
	}
	if _, err := s.Pay(t.Context(), "    88081", "10000.00"); err != nil {
		t.Fatal(err)
	}
	_, body := s.post(t, "/orders/v1.0/transfer-va/status", bill("1", "T1"), "9", nil)
	if !strings.Contains(body, `"paidAmount":{"currency":"IDR","value":10000.00}`) {
		t.Errorf("%s", body)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if value := object(s.accounts["88081"].data, "totalAmount")["value"]; value != "10000.00" {
		t.Errorf("the virtual account itself has changed: %v", value)
	}
}

func TestADOKUThatEncodesBodiesAgain(t *testing.T) {
	t.Parallel()
	info := func(member string) string {
		return strings.Replace(bill("1", "T1"), `"additionalInfo":{`, `"additionalInfo":{`+member+",", 1)
	}
	const ok, wrong = "2002700", "4012700"
	for _, test := range []struct {
		name, body                string
		asSent, java, script, php string
	}{
		{"a canonical body", bill("1", "T1"), ok, ok, ok, ok},
		{"white space", strings.ReplaceAll(bill("1", "T1"), ",", " ,\n"), ok, ok, ok, ok},
		{"an escaped slash", info(`"u":"https:\/\/t.id"`), ok, wrong, wrong, wrong},
		{"decimals", info(`"n":10000.00`), ok, wrong, wrong, wrong},
		{"keys that are indices", info(`"o":{"b":1,"1":2}`), ok, ok, wrong, ok},
		{"a line separator", info("\"s\":\"\u2028\""), ok, ok, ok, wrong},
		{"a large integer", info(`"n":12345678901234567890`), ok, ok, wrong, wrong},
	} {
		for spoken, want := range map[Dialect]string{
			DialectAsSent: test.asSent, DialectJava: test.java, DialectJavaScript: test.script, DialectPHP: test.php,
		} {
			s := newEnv(t)
			if err := s.SetBehaviour(Behaviour{Dialect: spoken}); err != nil {
				t.Fatal(err)
			}
			if got := s.call(t, test.body, "1", nil); got != want {
				t.Errorf("%s, in dialect %q: response code %s, expected %s", test.name, spoken, got, want)
			}
		}
	}
	if err := newEnv(t).SetBehaviour(Behaviour{Dialect: "COBOL"}); err == nil {
		t.Error("an unknown dialect is accepted")
	}
}

func TestFieldsThatDOKUsSDKsSend(t *testing.T) {
	t.Parallel()
	with := func(members string) func(string) string {
		return func(good string) string { return strings.TrimSuffix(good, "}") + "," + members + "}" }
	}
	replace := func(old, replacement string) func(string) string {
		return func(good string) string { return strings.Replace(good, old, replacement, 1) }
	}
	const ok, mandatory, format = "2002700", "4002702", "4002701"
	tests := []struct {
		name          string
		usual, strict string
		change        func(string) string
	}{
		{"empty texts", ok, format, with(`"virtualAccountEmail":"","virtualAccountPhone":"","expiredDate":""`)},
		{"null", ok, format, with(`"virtualAccountEmail":null,"freeTexts":null`)},
		{"the type as the Go SDK spells it", ok, mandatory, replace("virtualAccountTrxType", "virtualAccounTrxType")},
		{"no type", mandatory, mandatory, replace(`"virtualAccountTrxType":"C",`, "")},
		{"an amount without decimals", ok, format, replace("10000.00", "10000")},
		{"a name with other letters", ok, format, replace("Toru", "José")},
		{"a name with all documented characters", ok, ok, replace("Toru", `A z 0.\\-/+,=_:'@%`)},
		{"an offset without a colon", ok, format, with(`"expiredDate":"2024-03-27T11:00:00+0700"`)},
		{"a phone number that is a number", format, format, with(`"virtualAccountPhone":6281828384858`)},
		{"an email that is an object", format, format, with(`"virtualAccountEmail":{}`)},
		{"a date that is a number", format, format, with(`"expiredDate":20240327`)},
		{"a customer number that is a number", format, format, with(`"customerNo":1`)},
		{"a name that is a number", format, format, replace(`"Toru"`, "7")},
		{"an amount that is a number", format, format, replace(`"10000.00"`, "10000.00")},
		{"a total that is a text", format, format, replace(`{"value":"10000.00","currency":"IDR"}`, `"10000.00"`)},
		{"a status that is a text", format, format, replace(`"channel"`, `"virtualAccountConfig":{"reusableStatus":"true"},"channel"`)},
		{"a configuration that is a list", format, format, replace(`"channel"`, `"virtualAccountConfig":[],"channel"`)},
		{"a limit of a closed amount", format, format, replace(`"channel"`, `"virtualAccountConfig":{"maxAmount":"1.00"},"channel"`)},
		{"free texts that are an object", format, format, with(`"freeTexts":{}`)},
		{"more members", ok, ok, replace(`"channel"`, `"origin":{"product":"SDK","apiFormat":"SNAP"},"channel"`)},
	}
	modes(t, func(t *testing.T, s *testEnv, strict bool) {
		t.Helper()
		for i, test := range tests {
			want := test.usual
			if strict {
				want = test.strict
			}
			if got, answer := s.answer(t, test.change(bill(fmt.Sprint(100+i), fmt.Sprint("T", i))), fmt.Sprint(i), nil); got != want {
				t.Errorf("%s: response code %s, expected %s: %s", test.name, got, want, answer)
			}
		}
	})
}

func TestBodiesThatAreNoObject(t *testing.T) {
	t.Parallel()
	s := newEnv(t)
	for i, body := range []string{"", "null", "[]", `"a"`, "{", bill("1", "T1") + "x", "\ufeff" + bill("1", "T1")} {
		if got, answer := s.answer(t, body, fmt.Sprint(i), nil); got != "4002700" {
			t.Errorf("%q: %s", body, answer)
		}
	}
}

func TestTheNumberOfAVABelongsTogetherInEveryCall(t *testing.T) {
	t.Parallel()
	s := newEnv(t)
	if got := s.call(t, bill("1", "T1"), "1", nil); got != "2002700" {
		t.Fatal(got)
	}
	for i, test := range []struct{ body, code string }{
		{`{"partnerServiceId":"    8808","customerNo":"1","virtualAccountNo":"    88081"}`, "2002600"},
		{`{"virtualAccountNo":"    88081"}`, "2002600"},
		{`{"partnerServiceId":"    8808","customerNo":"2","virtualAccountNo":"    88081"}`, "4002601"},
		{`{"partnerServiceId":"8808","customerNo":"1","virtualAccountNo":"88081"}`, "4002601"},
		{`{"partnerServiceId":"    8808","customerNo":1,"virtualAccountNo":"    88081"}`, "4002601"},
		{`{"virtualAccountNo":88081}`, "4002601"},
		{`{"virtualAccountNo":"    88081","paymentRequestId":"` + strings.Repeat("p", 129) + `"}`, "4002601"},
		{`{}`, "4002602"},
		{`{"virtualAccountNo":"    88082"}`, "4042612"},
	} {
		if got, answer := s.post(t, "/orders/v1.0/transfer-va/status", test.body, fmt.Sprint(100+i), nil); got != test.code {
			t.Errorf("%s: expected %s, found %s", test.body, test.code, answer)
		}
	}
}

func TestTokenRequestsOfDOKUsSDKs(t *testing.T) {
	t.Parallel()
	const ok, mandatory, format, refused = "2007300", "4007302", "4007301", "4017300"
	plain := `{"grantType":"client_credentials"}`
	tests := []struct {
		name, timestamp, body string
		usual, strict         string
		change                func(http.Header)
	}{
		{"Go and Node", "2024-03-26T12:00:00+07:00", plain, ok, ok, nil},
		{"Java", "2024-03-26T05:00:00Z", plain, ok, ok, nil},
		{"PHP", "2024-03-26T11:59:53+07:00", `{"grantType":"client_credentials","additionalInfo":[]}`, ok, ok, nil},
		{"Python", "2024-03-26T05:00:00Z", `{"grantType": "client_credentials", "additionalInfo": ""}`, ok, ok, nil},
		{"another grant", "2024-03-26T05:00:00Z", `{"grantType":"password"}`, mandatory, mandatory, nil},
		{"no JSON", "2024-03-26T05:00:00Z", "grantType=client_credentials", "4007300", "4007300", nil},
		{"a time ahead", "2024-03-26T05:00:03Z", plain, ok, format, nil},
		{"a text", "2024-03-26T05:00:00Z", plain, format, format, func(h http.Header) { h.Set("Content-Type", "text/plain") }},
		{"another client", "2024-03-26T05:00:00Z", plain, refused, refused, func(h http.Header) { h.Set("X-CLIENT-KEY", "BRN-1") }},
		{"another time", "2024-03-26T05:00:00Z", plain, refused, refused, func(h http.Header) { h.Set("X-TIMESTAMP", "2024-03-26T04:59:59Z") }},
		{"no client, and a wrong time", "now", plain, mandatory, mandatory, func(h http.Header) { h.Del("X-CLIENT-KEY") }},
		{"a wrong time, and another grant", "now", "{}", format, format, nil},
	}
	modes(t, func(t *testing.T, s *testEnv, strict bool) {
		t.Helper()
		key := doktest.Key(t, doktest.MerchantKey)
		for _, test := range tests {
			sum := sha256.Sum256([]byte("BRN-0|" + test.timestamp))
			signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
			if err != nil {
				t.Fatal(err)
			}
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, tokenPath, strings.NewReader(test.body))
			for name, value := range map[string]string{
				"Content-Type": "application/json", "X-CLIENT-KEY": "BRN-0", "X-TIMESTAMP": test.timestamp,
				"X-SIGNATURE": base64.StdEncoding.EncodeToString(signature),
			} {
				r.Header.Set(name, value)
			}
			if test.change != nil {
				test.change(r.Header)
			}
			want := test.usual
			if strict {
				want = test.strict
			}
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if !strings.Contains(w.Body.String(), `"`+want+`"`) {
				t.Errorf("%s: expected %s, found %s", test.name, want, w.Body)
			}
		}
	})
}
