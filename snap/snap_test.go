package snap

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

// vector is one of testdata/vectors.json.
type vector struct {
	Name, Kind, Secret, Method, Endpoint, Token, Timestamp, Body, BodySha256, StringToSign, Signature, Input, Output, ClientID string
}

func vectors(t *testing.T) []vector {
	t.Helper()
	data := doktest.Data(t, "vectors.json")
	var all []vector
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestVectors(t *testing.T) {
	t.Parallel()
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			switch v.Kind {
			case "symmetric":
				digest := Digest([]byte(v.Body))
				if got := hex.EncodeToString(digest[:]); got != v.BodySha256 {
					t.Errorf("digest %s, expected %s", got, v.BodySha256)
				}
				message := AppendStringToSign(nil, v.Method, v.Endpoint, v.Token, digest, v.Timestamp)
				if string(message) != v.StringToSign {
					t.Errorf("string to sign %s, expected %s", message, v.StringToSign)
				}
				if got := NewSecret([]byte(v.Secret)).Signature(message); got != v.Signature {
					t.Errorf("signature %s, expected %s", got, v.Signature)
				}
			case "asymmetric":
				if got := TokenStringToSign(v.ClientID, v.Timestamp); got != v.StringToSign {
					t.Errorf("string to sign %s, expected %s", got, v.StringToSign)
				}
			case "minify":
				minified, err := AppendMinified(nil, []byte(v.Input))
				if err != nil || string(minified) != v.Output {
					t.Errorf("minified %s (%v), expected %s", minified, err, v.Output)
				}
			case "nonsnap": // another signature, which is not part of this product
			default:
				t.Errorf("unknown kind %q", v.Kind)
			}
		})
	}
}

func TestTimestamps(t *testing.T) {
	t.Parallel()
	at := time.Date(2024, 3, 26, 9, 1, 41, 999, time.UTC)
	if got := Timestamp(at); got != "2024-03-26T16:01:41+07:00" {
		t.Errorf("Timestamp = %s", got)
	}
	if got := Day(time.Date(2024, 3, 26, 17, 0, 0, 0, time.UTC)); got != "2024-03-27" {
		t.Errorf("the WIB day at 17:00 UTC is %s", got)
	}
}

func TestEveryFormOfATimeIsReadRightly(t *testing.T) {
	t.Parallel()
	at := time.Date(2024, 3, 26, 9, 1, 41, 0, time.UTC)
	half := at.Add(time.Second / 2)
	minute := at.Truncate(time.Minute)
	midnight := time.Date(2024, 3, 27, 0, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2024-03-26T16:01:41+07:00":           at,
		"2024-03-26T09:01:41Z":                at,
		"2024-03-26T09:01:41.000Z":            at,
		"2024-03-26T16:01:41.5+07:00":         half,
		"2024-03-26T16:01:41,5+07:00":         half,
		"2024-03-26T16:01:41.500000000+07:00": half,
		"2024-03-26T16:01:41.50000000000+07":  half,
		"2024-03-26T16:01:41+0700":            at,
		"2024-03-26T16:01:41+07":              at,
		"2024-03-26T16:01:41+07:00:00":        at,
		"2024-03-26T16:01:41+070000":          at,
		"2024-03-26T14:31:41+05:30":           at,
		"2024-03-26T14:31:41+0530":            at,
		"2024-03-26T01:01:41-08":              at,
		"2024-03-26T01:01:41-08:00":           at,
		"2024-03-26T05:31:41-0330":            at,
		"2024-03-26T05:31:41\u22120330":       at,
		"2024-03-26T09:01:41-00:00":           at,
		"2024-03-26T09:01:41+00":              at,
		"2024-03-26T09:01:41-00":              at,
		"2024-03-27T08:01:41+23:00":           at,
		"2024-03-26T09:02:11+00:00:30":        at,
		"2024-03-26t09:01:41z":                at,
		"20240326T160141+0700":                at,
		"20240326T160141.5+07":                half,
		"20240326T090141Z":                    at,
		"20240326T16:01:41+07:00":             at,
		"2024-03-26T160141+07:00":             at,
		"2024-03-26T16:01+07:00":              minute,
		"20240326T1601+07":                    minute,
		"2024-03-26T16:01.5+07:00":            minute.Add(30 * time.Second),
		"2024-03-26T16+07:00":                 at.Truncate(time.Hour),
		"2024-03-26T16,5+07:00":               at.Truncate(time.Hour).Add(30 * time.Minute),
		"2024-03-26T24:00:00Z":                midnight,
		"2024-03-26T24:00:00.0Z":              midnight,
		"2024-03-26T24Z":                      midnight,
		"2024-03-27T07:00:00+07:00":           midnight,
		"2024-03-26T23:59:60Z":                midnight,
		"2024-03-27T06:59:60+07:00":           midnight,
		"2024-02-29T00:00:00Z":                time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC),
	} {
		if got, err := ParseTimestamp(text); err != nil || !got.Equal(want) {
			t.Errorf("ParseTimestamp(%q) = %v, %v, expected %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "1711443701", "yesterday", "2024-03-26", "2024-03-26T", "2024-03-26T16:01:41", "2024-03-26 16:01:41+07:00",
		"2024-03-26T16:01:41+07:00\x00x", "2024-03-26T16:01:41+07:00 ", " 2024-03-26T16:01:41+07:00", "2024-03-26T16:01:41 07:00",
		"2024-13-26T16:01:41+07:00", "2024-00-26T16:01:41Z", "2024-02-30T00:00:00Z", "2023-02-29T00:00:00Z", "2024-03-00T00:00:00Z",
		"2024-03-26T25:00:00Z", "2024-03-26T24:00:01Z", "2024-03-26T24:00:00.1Z", "2024-03-26T16:60:00Z", "2024-03-26T16:01:61Z",
		"2024-03-26T16:01:60Z", "2024-03-26T23:59:60+07:00", "2024-03-26T16:01:41+24:00", "2024-03-26T16:01:41+07:60",
		"2024-03-26T16:01:41+7", "2024-03-26T16:01:41+7:00", "2024-03-26T16:01:41+070", "2024-03-26T16:01:41+07:", "2024-03-26T16:01:41+",
		"2024-03-26T16:01:41.Z", "2024-03-26T16:01:4Z", "2024-03-26T16:01:41+5.5:30", "2024-03-26T08:59:47-03:-30", "2024-3-26T16:01:41Z",
		"24-03-26T16:01:41Z", "+002024-03-26T16:01:41Z", "2024-0326T16:01:41Z", "202403-26T16:01:41Z", "2024-086T16:01:41Z",
		"2024-W13-2T16:01:41Z", "2024-03-26T16:01:41ZZ", "2024-03-26T16:01:41Z+07", "２024-03-26T16:01:41Z", "2024-03-26T16:01:41WIB",
		"Tue, 26 Mar 2024 09:01:41 GMT", "2024-03-26T16:01:41" + strings.Repeat("+07:00", 10),
		"2024-03-26T16:01:41." + strings.Repeat("0", 64) + "Z",
	} {
		if got, err := ParseTimestamp(text); !errors.Is(err, errTimestamp) {
			t.Errorf("ParseTimestamp(%q) = %v, %v", text, got, err)
		}
	}
}

func TestTheTextOfASecondOrDayIsNotThatOfAnother(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 1))
	instants := []time.Time{{}, time.Unix(-1, 0), time.Unix(0, 0)}
	for _, day := range []int{28, 29, 30} {
		midnight := time.Date(2024, 2, day, 17, 0, 0, 0, time.UTC) // WIB's
		instants = append(instants, midnight.Add(-1), midnight, midnight.Add(1))
	}
	for range 1000 {
		at := instants[random.IntN(len(instants))].Add(time.Duration(random.IntN(3)) * time.Second / 2)
		if got, want := Timestamp(at), at.In(WIB).Format(time.RFC3339); got != want {
			t.Fatalf("timestamp %s, expected %s", got, want)
		}
		if got, want := Day(at), at.In(WIB).Format(time.DateOnly); got != want {
			t.Fatalf("day %s, expected %s", got, want)
		}
	}
}

func TestHeaderKeysAreThoseOfNetHTTP(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		HeaderTimestamp, HeaderSignature, HeaderPartnerID, HeaderExternalID, HeaderChannelID, HeaderClientKey, HeaderAuthorization,
	} {
		if got := HeaderKey(name); got != http.CanonicalHeaderKey(name) {
			t.Errorf("%s: found %s", name, got)
		}
	}
}

func TestRequestTarget(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"/v1.1/transfer-va/payment":    "/v1.1/transfer-va/payment",
		"/a%2Fb//c/./d/?x=%20&y":       "/a%2Fb//c/./d/?x=%20&y",
		"http://host:80/a?b=c":         "/a?b=c",
		"http://host":                  "/",
		"http://host?x=1":              "/?x=1",
		"":                             "/",
		"//double/slash":               "//double/slash",
		"/a?u=http://elsewhere/path":   "/a?u=http://elsewhere/path",
		"https://h/p?u=http://other/q": "/p?u=http://other/q",
	} {
		if got := RequestTarget(in); got != want {
			t.Errorf("RequestTarget(%q) = %q, expected %q", in, got, want)
		}
	}
}

func TestServiceOf(t *testing.T) {
	t.Parallel()
	tests := []struct {
		method, path string
		service      Service
		ok           bool
	}{
		{"POST", "/authorization/v1/access-token/b2b", "73", true},
		{"POST", "/authorization/v1/access-token/b2b2c", "74", true},
		{"POST", "/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va", "27", true},
		{"POST", "/virtual-accounts/bi-snap-va/v1/transfer-va/create-va", "27", true},
		{"POST", "/bi-snap-va/v1/transfer-va/create-va", "27", true},
		{"POST", "/virtual-accounts/bi-snap-va/bnc/v1/transfe-va/create-va", "27", true},
		{"PUT", "/virtual-accounts/bi-snap-va/v1.1/transfer-va/update-va", "28", true},
		{"POST", "/virtual-accounts/bi-snap-va/v1.1/transfer-va/update-va", "28", false},
		{"DELETE", "/virtual-accounts/bi-snap-va/v1.1/transfer-va/delete-va", "31", true},
		{"POST", "/orders/v1.0/transfer-va/status", "26", true},
		{"POST", "/v1.0/transfer-va/status", "26", true},
		{"POST", "/v1.1/transfer-va/inquiry", "24", true},
		{"POST", "/v1/transfer-va/payment", "25", true},
		{"POST", "/shop/doku/v1.1/transfer-va/payment?src=doku", "25", true},
		{"POST", "/v1.1/transfer-va/payment/", "25", true},
		{"POST", "/v1.0/debit/notify", "56", true},
		{"POST", "/direct-debit/core/v1/registration-account-binding", "07", true},
		{"POST", "/direct-debit/core/v1/registration-account-unbinding", "09", true},
		{"POST", "/direct-debit/core/v1/registration-card-bind", "01", true},
		{"POST", "/direct-debit/core/v1/registration-card-unbind", "05", true},
		{"POST", "/direct-debit/core/v1/balance-inquiry", "11", true},
		{"POST", "/direct-debit/core/v1/debit/payment-host-to-host", "54", true},
		{"POST", "/direct-debit/core/v1/debit/refund", "58", true},
		{"POST", "/orders/v1.0/debit/status", "55", true},
		{"POST", "/direct-debit/ovo/v1.0/otp-verification", "04", true},
		{"POST", "/snap-adapter/b2b/v1.0/qr/qr-mpm-generate", "47", true},
		{"POST", "/snap-adapter/b2b/v1.0/qr/qr-mpm-query", "51", true},
		{"POST", "/snap-adapter/b2b/v1.0/qr/qr-mpm-refund", "78", true},
		{"POST", "/snap/v1.1/emoney/bank-account-inquiry", "42", true},
		{"POST", "/snap/v1.1/emoney/transfer-bank", "43", true},
		{"POST", "/snap/v1.1/qr/qr-mpm-status", "53", true},
		{"POST", "/v1.1/transfer-va/%70ayment", "25", true},
		{"POST", "/v1.1/transfer%2dva/%70%61yment", "25", true},
		{"POST", "/v1.1/transfer-va/payment%3Bx=1", "00", false},
		{"POST", "/v1.1%2Ftransfer-va%2Fpayment", "00", false},
		{"POST", "/v1.1/transfer-va/paymen%7", "00", false},
		{"POST", "/v1.1/transfer-va/Payment", "00", false},
		{"POST", "/", "00", false},
		{"POST", "", "00", false},
		{"GET", "/health", "00", false},
	}
	for _, test := range tests {
		if service, ok := ServiceOf(test.method, test.path); service != test.service || ok != test.ok {
			t.Errorf("ServiceOf(%s, %s) = %s, %v; expected %s, %v", test.method, test.path, service, ok, test.service, test.ok)
		}
	}
}

func TestResponseCodes(t *testing.T) {
	t.Parallel()
	got := string(InvalidMandatory.With("X-TIMESTAMP").Answer(ServiceVAPayment))
	if got != `{"responseCode":"4002502","responseMessage":"Invalid Mandatory Field X-TIMESTAMP"}` {
		t.Error(got)
	}
	if InvalidMandatory.Message != "Invalid Mandatory Field" {
		t.Error("With has changed the case itself")
	}
	for text, want := range map[string]ResponseCode{`"4012701"`: "4012701", `2005300`: "2005300"} {
		var code ResponseCode
		if err := json.Unmarshal([]byte(text), &code); err != nil || code != want {
			t.Errorf("%s became %q, %v", text, code, err)
		}
	}
	if status, number, ok := ResponseCode("4012703").Case(); status != http.StatusUnauthorized || number != 3 || !ok {
		t.Errorf("Case() = %d, %d, %v", status, number, ok)
	}
	if _, _, ok := ResponseCode("500700").Case(); ok {
		t.Error("six digits were taken for a response code")
	}
	for code, want := range map[ResponseCode]Service{"4012703": ServiceVACreate, "500700": "", "": ""} {
		if got := code.Service(); got != want {
			t.Errorf("the service of %q is %q, expected %q", code, got, want)
		}
	}
}

func TestSecretDoesNotPrint(t *testing.T) {
	t.Parallel()
	secret := NewSecret([]byte("SK-hush"))
	text, err := json.Marshal(secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{
		secret.String(), fmt.Sprintf("%+v", secret), fmt.Sprintf("%#v", secret), string(text), secret.LogValue().String(),
	} {
		if out != "[redacted]" && out != `"[redacted]"` {
			t.Errorf("a secret printed as %s", out)
		}
	}
}
