package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

func payment(id string) []byte {
	return fmt.Appendf(nil, `{"partnerServiceId":%q,"customerNo":"1","virtualAccountNo":%q,"virtualAccountName":"Toru","trxId":"T-1",`+
		`"paymentRequestId":%q,"paidAmount":{"value":"11500.00","currency":"IDR"}}`, partnerServiceID, partnerServiceID+"1", id)
}

// notify sends a notification, signed by DOKU.
func (env *testEnv) notify(t testing.TB, out simulator.Outgoing) answer {
	t.Helper()
	if out.URL == "" {
		out.URL = env.inward + paymentPath
	}
	if out.Body == nil {
		out.Body = payment("P-1")
	}
	a, err := env.doku.Call(t.Context(), out)
	if err != nil {
		t.Fatal(err)
	}
	return answer{a.Status, a.Header, string(a.Body)}
}

// token gets a token from the sidecar, as DOKU does.
func (env *testEnv) token(t testing.TB) string {
	t.Helper()
	a, err := env.doku.RequestToken(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var parsed struct {
		AccessToken string `json:"accessToken"`
	}
	if err := json.Unmarshal(a.Body, &parsed); err != nil || a.Status != http.StatusOK {
		t.Fatalf("HTTP %d %s", a.Status, a.Body)
	}
	return parsed.AccessToken
}

// customer is the token of the merchant's customer, which must not be logged.
const customer = "Bearer a-token-of-a-customer-of-the-merchants"

func TestGenuineNotificationReachesTheApp(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	body := payment("P-1")
	env.notify(t, simulator.Outgoing{Body: body, Mutate: func(r *http.Request) {
		r.Header.Set("X-Doku-Account", "spoofed")
		r.Header.Set("X-Doku-Service", "99")
		r.Header.Set("Idempotency-Key", "spoofed")
		r.Header.Set("Authorization-Customer", customer)
	}}).expect(t, http.StatusOK, "2002500")
	calls := env.app.seen()
	if len(calls) != 1 || calls[0].body != string(body) {
		t.Fatalf("the app saw %v", calls)
	}
	h := calls[0].header
	if h.Get("Authorization") != "" || h.Get("X-Signature") != "" {
		t.Error("the app saw token or signature")
	}
	if h.Get("Authorization-Customer") != "" {
		t.Error("the app saw the customer's token, which is not signed, without pass_headers")
	}
	if h.Get("X-Doku-Account") != "default" || h.Get("X-Doku-Service") != "25" || len(h.Values("Idempotency-Key")) != 1 ||
		h.Get("Idempotency-Key") == "spoofed" {
		t.Errorf("headers of the sidecar: %v", h)
	}
}

func TestNobodyElseSetsOrRemovesWhatTheAppIsTold(t *testing.T) {
	t.Parallel()
	for _, enforce := range []string{"on", "report"} {
		t.Run(enforce, func(t *testing.T) {
			t.Parallel()
			env := start(t, options{verify: "enforce " + enforce + ""})
			env.notify(t, simulator.Outgoing{Mutate: func(r *http.Request) {
				r.Header.Add("Connection", "X-Doku-Account, X-Doku-Service, X-Doku-Verified, Idempotency-Key, Upgrade")
				r.Header.Set("Upgrade", "websocket")
				r.Header.Set("Te", "trailers")
				r.ContentLength = -1
				r.Trailer = http.Header{"X-Doku-Verified": {"false"}, "Idempotency-Key": {"spoofed"}}
			}}).expect(t, http.StatusOK, "2002500")
			calls := env.app.seen()
			if len(calls) != 1 {
				t.Fatalf("the app saw %v", calls)
			}
			h := calls[0].header
			if h.Get("X-Doku-Account") != "default" || h.Get("X-Doku-Service") != "25" || h.Get("X-Doku-Verified") != "true" ||
				h.Get("Idempotency-Key") == "" {
				t.Errorf("headers of the sidecar: %v", h)
			}
			if h.Get("Upgrade") != "" || h.Get("Te") != "" || len(calls[0].trailer) > 0 {
				t.Errorf("the app saw the connection's headers %v, trailers %v", h, calls[0].trailer)
			}
		})
	}
}

// billing answers an inquiry with a bill of 11500.00, and a notification with yes.
func billing(c appCall) (int, string) {
	if !strings.HasSuffix(c.target, "/inquiry") {
		return 200, `{"responseCode":"2002500","responseMessage":"Successful"}`
	}
	var asked map[string]any
	if err := json.Unmarshal([]byte(c.body), &asked); err != nil {
		return 400, err.Error()
	}
	answered, err := json.Marshal(
		map[string]any{"responseCode": "2002400", "responseMessage": "Successful", "virtualAccountData": map[string]any{
			"partnerServiceId": asked["partnerServiceId"], "customerNo": asked["customerNo"], "virtualAccountNo": asked["virtualAccountNo"],
			"inquiryRequestId": asked["inquiryRequestId"], "virtualAccountName": "Toru", "totalAmount": map[string]any{"value": "11500.00", "currency": "IDR"},
			"virtualAccountTrxType": "C", "additionalInfo": map[string]any{"trxId": "INV-7"},
		}},
	)
	if err != nil {
		return 500, err.Error()
	}
	return 200, string(answered)
}

func TestDirectInquiry(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	env.app.setAnswer(billing)
	receipt, err := env.doku.Pay(t.Context(), partnerServiceID+"4711", "11500.00")
	if err != nil {
		t.Fatal(err)
	}
	if calls := env.app.seen(); !receipt.Inquired || !receipt.Notification.OK() || len(calls) != 2 {
		t.Errorf("receipt %+v after %d calls of the app, expected an inquiry and a notification", receipt, len(calls))
	}
}

// forgery is a call that must be refused.
type forgery struct {
	name   string
	call   simulator.Outgoing
	status int
	code   string
}

// withHeader returns a call whose header has these values only.
func withHeader(name string, values ...string) simulator.Outgoing {
	return mutated(func(r *http.Request) {
		r.Header.Del(name)
		for _, v := range values {
			r.Header.Add(name, v)
		}
	})
}

// mutated returns a call that is changed after it was signed.
func mutated(f func(*http.Request)) simulator.Outgoing { return simulator.Outgoing{Mutate: f} }

// at returns a call of another time.
func at(d time.Duration) simulator.Outgoing {
	return simulator.Outgoing{Timestamp: time.Now().Add(d).In(time.FixedZone("WIB", 7*3600)).Format(time.RFC3339)}
}

// forgeries returns calls with a wrong header, body, target or time.
func (env *testEnv) forgeries() []forgery {
	large := payment(strings.Repeat("9", 5000))
	return []forgery{
		{"no X-TIMESTAMP", withHeader("X-TIMESTAMP"), 400, "4002502"},
		{"no X-SIGNATURE", withHeader("X-SIGNATURE"), 400, "4002502"},
		{"no X-PARTNER-ID", withHeader("X-PARTNER-ID"), 400, "4002502"},
		{"no X-EXTERNAL-ID", withHeader("X-EXTERNAL-ID"), 400, "4002502"},
		{"no Authorization", withHeader("Authorization"), 401, "4012501"},
		{"two X-SIGNATURE", withHeader("X-SIGNATURE", "a", "b"), 400, "4002501"},
		{"two X-TIMESTAMP", withHeader("X-TIMESTAMP", "a", "b"), 400, "4002501"},
		{"two Authorization", withHeader("Authorization", "Bearer a", "Bearer b"), 400, "4002501"},
		{"two X-EXTERNAL-ID", withHeader("X-EXTERNAL-ID", "a", "b"), 400, "4002501"},
		{"a garbled timestamp", withHeader("X-TIMESTAMP", "yesterday"), 400, "4002501"},
		{"an external id that is too long", withHeader("X-EXTERNAL-ID", strings.Repeat("1", 129)), 400, "4002501"},
		{"another partner", withHeader("X-PARTNER-ID", "BRN-9"), 401, "4012500"},
		{"a garbled signature", withHeader("X-SIGNATURE", "!!"), 401, "4012500"},
		{"a wrong signature", withHeader("X-SIGNATURE", base64.StdEncoding.EncodeToString(make([]byte, 64))), 401, "4012500"},
		{"the signature in upper-case hex", mutated(func(r *http.Request) {
			raw, _ := base64.StdEncoding.DecodeString(r.Header.Get("X-SIGNATURE"))
			r.Header.Set("X-SIGNATURE", strings.ToUpper(hex.EncodeToString(raw)))
		}), 401, "4012500"},
		{
			"one byte of the body altered",
			simulator.Outgoing{Sent: bytes.Replace(payment("P-1"), []byte("11500"), []byte("91500"), 1)},
			401,
			"4012500",
		},
		{"another path", mutated(func(r *http.Request) { r.URL.Path = "/v1.1/transfer-va//transfer-va/payment" }), 401, "4012500"},
		{"a query added", mutated(func(r *http.Request) { r.URL.RawQuery = "a=1" }), 401, "4012500"},
		{"another method", mutated(func(r *http.Request) { r.Method = http.MethodPut }), 405, "4052500"},
		{"an old timestamp", at(-11 * time.Minute), 400, "4002501"},
		{"a future timestamp", at(5 * time.Minute), 400, "4002501"},
		{"a body over the limit", simulator.Outgoing{Body: large}, 413, "4132500"},
		{
			"a chunked body over the limit", simulator.Outgoing{Body: large, Mutate: func(r *http.Request) { r.ContentLength = -1 }}, 413, "4132500",
		},
		{"signed, but not JSON", simulator.Outgoing{Body: []byte(`{"a":`)}, 400, "4002500"},
		{"signed, but with a byte order mark", simulator.Outgoing{Body: []byte("\ufeff{}")}, 400, "4002500"},
		{"an inquiry with a wrong signature has the inquiry's code", simulator.Outgoing{
			URL: env.inward + inquiryPath, Mutate: func(r *http.Request) { r.Header.Set("X-SIGNATURE", strings.Repeat("A", 86)+"==") },
		}, 401, "4012400"},
	}
}

// forgedTokens returns calls with a wrong token. good is a token that would be accepted.
func forgedTokens(t *testing.T, good string) []forgery {
	t.Helper()
	claims := jwt.MapClaims{"iss": "caddy-doku", "sub": clientID, "aud": "doku-inbound", "exp": time.Now().Add(time.Hour).Unix()}
	signed := func(method jwt.SigningMethod, key any) simulator.Outgoing {
		text, err := jwt.NewWithClaims(method, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return simulator.Outgoing{Bearer: text}
	}
	parts := strings.Split(good, ".")
	otherPayload := base64.RawURLEncoding.EncodeToString(
		[]byte(`{"iss":"caddy-doku","sub":"someone else","aud":["doku-inbound"],"exp":99999999999}`),
	)
	return []forgery{
		{"a token with alg none", signed(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType), 401, "4012501"},
		{"a token by HS256 with DOKU's public key", signed(jwt.SigningMethodHS256, doktest.Data(t, dokuPublicKey)), 401, "4012501"},
		{"a token by HS256 with the bare secret", signed(jwt.SigningMethodHS256, []byte(secretKey)), 401, "4012501"},
		{"a token by RS256 with another key", signed(jwt.SigningMethodRS256, doktest.Key(t, doktest.MerchantKey)), 401, "4012501"},
		{"a token with its payload replaced", simulator.Outgoing{Bearer: parts[0] + "." + otherPayload + "." + parts[2]}, 401, "4012501"},
		{"a token cut short", simulator.Outgoing{Bearer: good[:len(good)-2]}, 401, "4012501"},
		{"no token after Bearer", withHeader("Authorization", "Bearer "), 401, "4012501"},
		{"Basic instead of Bearer", withHeader("Authorization", "Basic eDp5"), 401, "4012501"},
	}
}

func TestForgeriesAndMistakesNeverReachTheApp(t *testing.T) {
	t.Parallel()
	env := start(t, options{verify: "max_body 4KB"})
	good := env.token(t)
	for _, test := range append(env.forgeries(), forgedTokens(t, good)...) {
		t.Run(test.name, func(t *testing.T) {
			if test.call.Bearer == "" {
				test.call.Bearer = good
			}
			got := env.notify(t, test.call)
			got.expect(t, test.status, test.code)
			if got.header.Get("X-Doku-Error") == "" {
				t.Error("X-Doku-Error is missing")
			}
		})
	}
	if calls := env.app.seen(); len(calls) != 0 {
		t.Errorf("the app was called %d times, first with %s", len(calls), calls[0].body)
	}
}

func TestTruncatedBodyIsRefused(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	conn, err := net.Dial("tcp", strings.TrimPrefix(env.inward, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(
		conn, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 100\r\n\r\n{\"a\":", paymentPath, strings.TrimPrefix(env.inward, "http://"),
	)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil {
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("HTTP %d, expected 400", resp.StatusCode)
		}
	}
	if calls := env.app.seen(); len(calls) != 0 {
		t.Errorf("the app was called %d times", len(calls))
	}
}

func TestBodiesThatAreGenuineInAnyForm(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	for name, call := range map[string]simulator.Outgoing{
		"pretty-printed, signed minified": {Body: []byte("{ \"paymentRequestId\" : \"F-1\",\n \"x\": \"a  b\" }")},
		"chunked without a length":        {Body: payment("F-2"), Mutate: func(r *http.Request) { r.ContentLength = -1 }},
		"a timestamp with Z":              {Body: payment("F-3"), Timestamp: time.Now().UTC().Format("2006-01-02T15:04:05Z")},
		"a timestamp with milliseconds":   {Body: payment("F-4"), Timestamp: time.Now().UTC().Format("2006-01-02T15:04:05.000Z")},
		"bearer in lower case": {Body: payment("F-5"), Mutate: func(r *http.Request) {
			r.Header.Set("Authorization", "b"+r.Header.Get("Authorization")[1:])
		}},
	} {
		t.Run(name, func(t *testing.T) { env.notify(t, call).expect(t, http.StatusOK, "2002500") })
	}
}

func TestTokenRequests(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	tests := []struct {
		name   string
		mutate func(*http.Request)
		status int
		code   string
	}{
		{"genuine", nil, 200, "2007300"},
		{"another client key", func(r *http.Request) { r.Header.Set("X-CLIENT-KEY", "BRN-9") }, 401, "4017300"},
		{"no client key", func(r *http.Request) { r.Header.Del("X-CLIENT-KEY") }, 400, "4007302"},
		{"no signature", func(r *http.Request) { r.Header.Del("X-SIGNATURE") }, 400, "4007302"},
		{"a wrong signature", func(r *http.Request) {
			r.Header.Set("X-SIGNATURE", base64.StdEncoding.EncodeToString(make([]byte, 256)))
		}, 401, "4017300"},
		{"a garbled signature", func(r *http.Request) { r.Header.Set("X-SIGNATURE", "x") }, 401, "4017300"},
		{"the time changed after signing", func(r *http.Request) {
			r.Header.Set("X-TIMESTAMP", time.Now().UTC().Add(time.Second).Format(time.RFC3339))
		}, 401, "4017300"},
		{"an old time", func(r *http.Request) { r.Header.Set("X-TIMESTAMP", "2024-01-01T00:00:00+07:00") }, 400, "4007301"},
		{"GET", func(r *http.Request) { r.Method = http.MethodGet }, 405, "4057300"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a, err := env.doku.RequestToken(t.Context(), test.mutate)
			if err != nil {
				t.Fatal(err)
			}
			answer{a.Status, a.Header, string(a.Body)}.expect(t, test.status, test.code)
		})
	}
}

func TestRepeatsAreHarmless(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	first := simulator.Outgoing{Body: payment("R-1"), ExternalID: "E-1"}
	env.notify(t, first).expect(t, 200, "2002500")
	t.Run("the same call gets the same answer", func(t *testing.T) { env.notify(t, first).expect(t, 200, "2002500") })
	t.Run("the same payment with another external id too", func(t *testing.T) {
		env.notify(t, simulator.Outgoing{Body: payment("R-1"), ExternalID: "E-2"}).expect(t, 200, "2002500")
	})
	t.Run("the same external id and payment with another body is refused", func(t *testing.T) {
		changed := bytes.Replace(payment("R-1"), []byte("11500"), []byte("11501"), 1)
		env.notify(t, simulator.Outgoing{Body: changed, ExternalID: "E-1"}).expect(t, 409, "4092500")
	})
	if n := len(env.app.seen()); n != 1 {
		t.Errorf("the app was called %d times, expected once", n)
	}
	t.Run("another payment is delivered whatever its external id", func(t *testing.T) {
		env.notify(t, simulator.Outgoing{Body: payment("R-2"), ExternalID: "E-1"}).expect(t, 200, "2002500")
		env.awaitLine(t, "two notifications of one day have the same external id", `"payment_id":"R-2"`)
	})
	if n := len(env.app.seen()); n != 2 {
		t.Errorf("the app was called %d times, expected twice", n)
	}
}

func TestRepeatInFlightWaitsForTheAnswer(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	entered, release := make(chan struct{}, 10), make(chan struct{})
	env.app.setAnswer(func(appCall) (int, string) {
		entered <- struct{}{}
		<-release
		return 200, `{"responseCode":"2002500"}`
	})
	call := simulator.Outgoing{Body: payment("W-1"), ExternalID: "W-1", Bearer: env.token(t)}
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() { env.notify(t, call).expect(t, 200, "2002500") })
	}
	<-entered
	close(release)
	wg.Wait()
	if n := len(env.app.seen()); n != 1 {
		t.Errorf("the app was called %d times, expected once", n)
	}
}

func TestWhatTheAppDoesNotTakeIsNotAcknowledged(t *testing.T) {
	t.Parallel()
	call := simulator.Outgoing{Body: payment("D-1"), ExternalID: "D-1"}
	t.Run("an error", func(t *testing.T) {
		t.Parallel()
		env := start(t, options{})
		env.app.setAnswer(answering(http.StatusServiceUnavailable))
		if got := env.notify(t, call); got.status != http.StatusServiceUnavailable {
			t.Errorf("HTTP %d, expected the app's 503", got.status)
		}
		env.app.setAnswer(nil)
		env.notify(t, call).expect(t, http.StatusOK, "2002500")
	})
	t.Run("no answer", func(t *testing.T) {
		t.Parallel()
		env := start(t, options{verify: "timeout 500ms"})
		hang := make(chan struct{})
		env.app.setAnswer(func(appCall) (int, string) {
			<-hang
			return http.StatusInternalServerError, ""
		})
		env.notify(t, call).expect(t, http.StatusGatewayTimeout, "5042500")
		close(hang)
		env.app.setAnswer(nil)
		eventually(t, func() answer { return env.notify(t, call) }, "2002500") // when the app is in time
	})
}

func TestAYesWithACodeThatSaysNoIsANo(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	says := func(body string) { env.app.setAnswer(func(appCall) (int, string) { return 200, body }) }
	paid := simulator.Outgoing{Body: payment("N-1"), ExternalID: "N-1"}
	asked := simulator.Outgoing{URL: env.inward + inquiryPath, Body: payment("N-2"), ExternalID: "N-2"}
	says(`{"responseCode":"4042514","responseMessage":"Paid Bill"}`)
	env.notify(t, paid).expect(t, 404, "4042514")
	says(`{"responseCode":"5002500"}`)
	env.notify(t, paid).expect(t, 500, "5002500")
	says(`{"responseCode":"2002500"}`)
	env.notify(t, paid).expect(t, 200, "2002500")
	says(`{"responseCode":"4042412"}`)
	env.notify(t, asked).expect(t, 404, "4042412")
	says(`{"responseCode":"2002400"}`)
	env.notify(t, asked).expect(t, 200, "2002400")
	if n := len(env.app.seen()); n != 5 {
		t.Errorf("the app was called %d times", n)
	}
	env.awaitMetrics(t, `calls_total{account="default",direction="inbound",outcome="app_refused",service="25"} 2`)
}

func TestTheAppsAnswerIsRecordedThoughDOKUHasHungUp(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	entered, release := make(chan struct{}, 1), make(chan struct{})
	env.app.setAnswer(func(appCall) (int, string) {
		entered <- struct{}{}
		<-release
		return 200, `{"responseCode":"2002500"}`
	})
	call := simulator.Outgoing{URL: env.inward + paymentPath, Body: payment("H-1"), ExternalID: "H-1", Bearer: env.token(t)}
	ctx, hangUp := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if _, err := env.doku.Call(ctx, call); err == nil {
			t.Error("DOKU got an answer")
		}
	}()
	<-entered
	hangUp()
	<-gone
	close(release)
	env.notify(t, call).expect(t, 200, "2002500")
	if n := len(env.app.seen()); n != 1 {
		t.Errorf("the app was called %d times", n)
	}
}

func TestAppThatIsNotThere(t *testing.T) {
	t.Parallel()
	env := start(t, options{app: doktest.FreeAddress(t)})
	env.notify(t, simulator.Outgoing{}).expect(t, 500, "5002502")
	env.log.Await(t, `"reason":"app_unreachable","error":"dial tcp `, 1)
}

func TestAnAnswerOfTheAppsThatBreaksOffIsNoAnswer(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if calls.Add(1) == 1 {
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"responseCode":"2002500"`)
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, `{"responseCode":"2002500"}`)
	}))
	t.Cleanup(app.Close)
	env := start(t, options{app: app.Listener.Addr().String()})
	got := env.notify(t, simulator.Outgoing{ExternalID: "B-1"})
	got.expect(t, 500, "5002502")
	if got.header.Get("X-Doku-Error") != "app_unreachable" || got.header.Get("Content-Encoding") != "" {
		t.Errorf("headers %v", got.header)
	}
	env.notify(t, simulator.Outgoing{ExternalID: "B-1"}).expect(t, 200, "2002500")
	if n := calls.Load(); n != 2 {
		t.Errorf("the app was called %d times", n)
	}
}
