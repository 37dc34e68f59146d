package simulator

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/snap"
)

// testEnv is a simulator with a clock that the test moves and a merchant whose answers the
// test sets.
type testEnv struct {
	*Simulator
	mu     sync.Mutex
	now    time.Time
	status int // of the merchant's answers to notifications
	ids    []string
	body   []byte // of the last notification
}

func newEnv(t *testing.T) *testEnv {
	t.Helper()
	st := &testEnv{now: time.Date(2024, 3, 26, 12, 0, 0, 0, wib), status: http.StatusOK}
	merchant := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			_, _ = w.Write([]byte(`{"responseCode":"2007300","accessToken":"m","expiresIn":"900"}`))
			return
		}
		st.mu.Lock()
		defer st.mu.Unlock()
		st.ids = append(st.ids, r.Header.Get("X-EXTERNAL-ID"))
		st.body, _ = io.ReadAll(r.Body)
		w.WriteHeader(st.status)
	}))
	t.Cleanup(merchant.Close)
	private := doktest.Key(t, doktest.MerchantKey)
	s, err := New(Config{
		Now: func() time.Time {
			st.mu.Lock()
			defer st.mu.Unlock()
			return st.now
		},
		Merchant: Merchant{
			ClientID: "BRN-0", SecretKey: "SK-test-0123456789ABCDEF", PublicKey: &private.PublicKey,
			DOKUKey: doktest.Key(t, doktest.DOKUKey), PartnerServiceID: "    8808",
			TokenURL: merchant.URL + "/token", InquiryURL: merchant.URL + "/inquiry", NotificationURL: merchant.URL + "/payment",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.token, s.tokenEnds = "tok", st.now.Add(100*time.Hour)
	st.Simulator = s
	return st
}

func (st *testEnv) advance(d time.Duration) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.now = st.now.Add(d)
}

func (st *testEnv) answerWith(status int) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.status = status
}

const createVA = "/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va"

// call creates a virtual account and returns the response code.
func (st *testEnv) call(t *testing.T, body, externalID string, change func(*http.Request)) string {
	t.Helper()
	code, _ := st.post(t, createVA, body, externalID, change)
	return code
}

// answer is call, with the message.
func (st *testEnv) answer(t *testing.T, body, externalID string, change func(*http.Request)) (code, message string) {
	t.Helper()
	return st.post(t, createVA, body, externalID, change)
}

// post sends a signed call and returns the response code and the whole answer.
func (st *testEnv) post(t *testing.T, target, body, externalID string, change func(*http.Request)) (code, whole string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, target, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-PARTNER-ID", "BRN-0")
	r.Header.Set("X-EXTERNAL-ID", externalID)
	r.Header.Set("CHANNEL-ID", "H2H")
	r.Header.Set("Authorization", "Bearer tok")
	st.sign(r, st.timestamp())
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	st.ServeHTTP(w, r)
	var answer struct {
		Code any `json:"responseCode"`
	}
	decoder := json.NewDecoder(strings.NewReader(w.Body.String()))
	decoder.UseNumber()
	if err := decoder.Decode(&answer); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	return fmt.Sprint(answer.Code), w.Body.String()
}

// sign gives a call a time and the signature of its body as DOKU reads it by default.
func (st *testEnv) sign(r *http.Request, timestamp string) {
	body, _ := io.ReadAll(r.Body) // from memory
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.Header.Set("X-TIMESTAMP", timestamp)
	r.Header.Set("X-SIGNATURE", base64.StdEncoding.EncodeToString(st.mac(toSign(r.Method, r.RequestURI, "tok", body, timestamp))))
}

func bill(customer, trx string) string {
	return fmt.Sprintf(`{"partnerServiceId":"    8808","customerNo":%q,"virtualAccountNo":%q,"virtualAccountName":"Toru","trxId":%q,`+
		`"totalAmount":{"value":"10000.00","currency":"IDR"},"virtualAccountTrxType":"C",`+
		`"additionalInfo":{"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA"}}`,
		customer, "    8808"+customer, trx)
}

func TestSignaturesOfTheVectors(t *testing.T) {
	t.Parallel()
	data := doktest.Data(t, "vectors.json")
	var vectors []struct {
		Name, Kind, Secret, Method, Endpoint, Token, Timestamp, Body, StringToSign, Signature, Input, Output string
	}
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	s := newEnv(t)
	for _, v := range vectors {
		switch v.Kind {
		case "symmetric":
			got := toSign(v.Method, v.Endpoint, v.Token, []byte(v.Body), v.Timestamp)
			if got != v.StringToSign || base64.StdEncoding.EncodeToString(s.mac(got)) != v.Signature {
				t.Errorf("%s: string to sign %s", v.Name, got)
			}
		case "minify":
			if got := string(minify([]byte(v.Input))); got != v.Output {
				t.Errorf("%s: minified %s", v.Name, got)
			}
		}
	}
}

func TestFieldsOfABill(t *testing.T) {
	t.Parallel()
	s := newEnv(t)
	good := bill("1", "T1")
	with := func(member string) string { return strings.Replace(good, "{", "{"+member+",", 1) }
	for i, test := range []struct{ name, body, code string }{
		{"an email without a domain", with(`"virtualAccountEmail":"toru@"`), "4002701"},
		{"a phone number that is too short", with(`"virtualAccountPhone":"62812"`), "4002701"},
		{"a channel that is not DOKU's", strings.Replace(good, "BANK_PERMATA", "PERMATA", 1), "4002701"},
		{"no channel", strings.Replace(good, `"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA"`, "", 1), "4002702"},
		{"no name", strings.Replace(good, `"Toru"`, `""`, 1), "4002702"},
		{"a trxId that is too long", bill("1", strings.Repeat("T", 65)), "4002701"},
		{"a number that is not prefix and customer", strings.Replace(good, "    88081", "    88082", 1), "4002701"},
		{"another merchant's prefix", strings.ReplaceAll(good, "    8808", "    8809"), "4002701"},
		{"a prefix without its padding", strings.ReplaceAll(good, "    8808", "8808"), "4002701"},
		{"an amount with one decimal", strings.Replace(good, "10000.00", "10000.0", 1), "4002701"},
		{"another currency", strings.Replace(good, "IDR", "USD", 1), "4002701"},
		{"a date that is past", with(`"expiredDate":"2024-03-26T11:00:00+07:00"`), "4002701"},
		{"a date without an offset", with(`"expiredDate":"2025-03-26T11:00:00"`), "4002701"},
		{"a free text in one language", with(`"freeTexts":[{"english":"a"}]`), "4002701"},
		{"all of them as they should be", with(`"virtualAccountEmail":"toru.y@example.co.id","virtualAccountPhone":"6281828384858",` +
			`"expiredDate":"2024-03-27T11:00:00+07:00","freeTexts":[{"english":"a","indonesia":"b"}]`), "2002700"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := s.call(t, test.body, fmt.Sprint(i), nil); got != test.code {
				t.Errorf("response code %s, expected %s", got, test.code)
			}
		})
	}
}

func TestExternalIDIsUniqueWithinAWIBDay(t *testing.T) {
	t.Parallel()
	s := newEnv(t)
	s.advance(11*time.Hour + 59*time.Minute) // 23:59 WIB
	for i, want := range []string{"2002700", "4092700"} {
		if got := s.call(t, bill(fmt.Sprint(i), fmt.Sprint("T", i)), "77", nil); got != want {
			t.Errorf("call %d: response code %s, expected %s", i, got, want)
		}
	}
	s.advance(2 * time.Minute)
	if got := s.call(t, bill("5", "T5"), "77", nil); got != "2002700" {
		t.Errorf("the next day: response code %s", got)
	}
}

func TestNotificationIsRetriedByDOKUsRule(t *testing.T) {
	t.Parallel()
	s := newEnv(t)
	if got := s.call(t, bill("1", "T1"), "1", nil); got != "2002700" {
		t.Fatal(got)
	}
	s.answerWith(http.StatusServiceUnavailable)
	if _, err := s.Pay(t.Context(), "    88081", "10000.00"); err != nil {
		t.Fatal(err)
	}
	for i, wait := range []time.Duration{30 * time.Minute, 5*time.Hour + 30*time.Minute, 6 * time.Hour} {
		s.advance(wait - time.Second)
		if sent := s.run(t); sent != 0 {
			t.Errorf("retry %d came early", i+1)
		}
		s.advance(time.Second)
		if sent := s.run(t); sent != 1 {
			t.Errorf("retry %d did not come", i+1)
		}
	}
	if s.Due() != 0 || len(s.ids) != 4 || s.ids[0] != s.ids[3] {
		t.Errorf("%d still due, external ids %v", s.Due(), s.ids)
	}
}

func (st *testEnv) run(t *testing.T) int {
	t.Helper()
	answers, err := st.RunDue(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return len(answers)
}

func TestTheBankKeepsTheRules(t *testing.T) {
	t.Parallel()
	s := newEnv(t)
	if got := s.call(t, bill("1", "T1"), "1", nil); got != "2002700" {
		t.Fatal(got)
	}
	for _, test := range []struct {
		name, number, amount string
		err                  error
	}{
		{"another amount", "    88081", "10000.01", ErrAmount},
		{"not an amount", "    88081", "ten", ErrAmount},
		{"an unknown number of another merchant", "99991", "10000.00", ErrNotFound},
		{"the right amount", "    88081", "10000.00", nil},
		{"a second time", "    88081", "10000.00", ErrPaid},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := s.Pay(t.Context(), test.number, test.amount); !errors.Is(err, test.err) {
				t.Errorf("error %v, expected %v", err, test.err)
			}
		})
	}
}

func TestTheWireContractKnowsTheSimulatorsNotifications(t *testing.T) {
	t.Parallel()
	s := newEnv(t)
	if got := s.call(t, bill("1", "T1"), "1", nil); got != "2002700" {
		t.Fatal(got)
	}
	receipt, err := s.Pay(t.Context(), "    88081", "10000.00")
	if err != nil {
		t.Fatal(err)
	}
	body, _, err := snap.AppendCanonical(nil, s.body)
	if err != nil {
		t.Fatal(err)
	}
	id, order := snap.PaymentID(snap.ServiceVAPayment, body), snap.OrderedBy(snap.ServiceVAPayment, body)
	if id != receipt.PaymentRequestID || order != "    88081" {
		t.Errorf("found %q and %q in %s", id, order, body)
	}
	if ref := snap.ReferenceOf(body); ref.VirtualAccountNo != "88081" || ref.TrxID != "T1" {
		t.Errorf("found %+v in %s", ref, body)
	}
}
