package integration

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

func TestPathsThatAreNotCalledForTheApp(t *testing.T) {
	t.Parallel()
	env := start(t, options{sign: "not_snap /kyc/v1/* /loans"})
	tests := []struct{ target, reason string }{
		{tokenPath, "token_path"},
		{tokenPath + "/", "token_path"},
		{tokenPath + "?x=1", "token_path"},
		{"/Authorization/V1/Access-Token/B2B", "token_path"},
		{"/authorization/v1/access-token/%62%32b", "token_path"},
		{"/authorization/v1/access-token%2Fb2b", "token_path"},
		{"/authorization/v1/access-token/%2562%252%36b", ""}, // "%26b", however often it is read
		{"/authorization/v1/access-token/%25622b", "token_path"},
		{"//authorization//v1//access-token//b2b//", "token_path"},
		{"/x/../authorization/v1/./access-token/b2b", "token_path"},
		{"/authorization/v1/access-token/b2b;v=1", "token_path"},
		{"/authorization/v2/access-token/b2b", "token_path"},
		{tokenPath + "%00", "token_path"},
		{tokenPath + "%00.php", "token_path"},
		{tokenPath + "%E2%80%8B", "token_path"}, // a zero-width space
		{"/authorization/v1/access%C2%AD-token/b2b", "token_path"},
		{"/authorization/v1/access-token/b%E2%80%8B2b", "token_path"},
		{tokenPath + "%3Fx", "token_path"},
		{tokenPath + "%23x", "token_path"},
		{tokenPath + ".", "token_path"},
		{tokenPath + "..", "token_path"},
		{tokenPath + ".json", "token_path"},
		{tokenPath + ",x", "token_path"},
		{tokenPath + "x", ""},
		{"/authorization/v1/access-token/xb2b", ""},

		{"/checkout/v1/payment", "not_snap"},
		{"/Checkout//v1/payment?x=1", "not_snap"},
		{"/orders/v1/status/INV-1", "not_snap"},
		{"/doku-virtual-account/v2/payment-code", "not_snap"},
		{"/permata-virtual-account/v2/payment-code", "not_snap"},
		{"/credit-card/v1/payment-page", "not_snap"},
		{"/shopeepay-emoney/v2/order", "not_snap"},
		{"/ovo-emoney/v1/payment", "not_snap"},
		{"/dokuwallet-emoney/v1/payment", "not_snap"},
		{"/kyc/v1/customers", "not_snap"},
		{"/kyc/v1", "not_snap"},
		{"/loans", "not_snap"},

		{"/loans/1", ""},
		{"/orders/v1.0/transfer-va/status", ""},
		{"/orders/v1.0/debit/status", ""},
		{"/virtual-accounts/bi-snap-va/v1/transfer-va/create-va", ""},
		{"/snap-adapter/b2b/v1.0/qr/qr-mpm-generate", ""},
		{"/never/heard/of", ""},
		{"/checkouts/v1/payment", ""},
	}
	for _, test := range tests {
		before := env.sent()
		got := env.raw(t, "POST "+test.target, nil, "{}")
		if reason := got.header.Get("X-Doku-Error"); reason != test.reason || reason != "" && got.status != http.StatusForbidden {
			t.Errorf("%s: HTTP %d %q, expected %q", test.target, got.status, reason, test.reason)
		}
		if sent := env.sent() - before; (sent == 1) != (test.reason == "") {
			t.Errorf("%s: DOKU received %d calls", test.target, sent)
		}
	}
	for header, want := range map[string]string{
		"Signature: HMACSHA256=abc": "not_snap", "signature: hmacsha256=abc": "not_snap", "SIGNATURE: HmacSha256 = abc": "not_snap",
		"Signature:   HMACSHA256=abc": "not_snap", `Signature: "HMACSHA256=abc"`: "not_snap",
		"Signature: x\r\nSignature: hmacsha256=abc": "not_snap", "Signature: HMACSHA512=abc": "", "Signature: abc": "", "Signature: ": "",
	} {
		before := env.sent()
		got := env.raw(t, "POST /some/new/api", append([]string{"Client-Id: BRN-1"}, strings.Split(header, "\r\n")...), "{}")
		if reason := got.header.Get("X-Doku-Error"); reason != want || want != "" && got.status != http.StatusForbidden {
			t.Errorf("a call with %q: HTTP %d %q", header, got.status, reason)
		}
		if sent := env.sent() - before; (sent == 1) != (want == "") {
			t.Errorf("%q: DOKU received %d calls", header, sent)
		}
	}
	if n := env.doku.Tokens(); n > 1 {
		t.Errorf("DOKU issued %d tokens", n)
	}
	env.awaitLine(t, `"reason":"token_path"`, "the app must not ask for a B2B token")
	env.awaitLine(t, `"reason":"not_snap"`, "/checkout/v1/payment")
}

func TestACustomersTokenIsAskedForAsDOKUWantsIt(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	for _, path := range []string{"/authorization/v1/access-token/b2b2c", "/authorization/v1/access-token/b2b2%63/"} {
		const told = `{"responseCode":"2007400","responseMessage":"Successful","accessToken":"a-customer"}`
		env.doku.SetFault(strings.ReplaceAll(path, "%63", "c"), &simulator.Fault{Status: http.StatusOK, Body: told})
		got := env.raw(t, "POST "+path, []string{
			"Content-Type: application/json", "X-CLIENT-KEY: BRN-9", "X-TIMESTAMP: 2020-01-01T00:00:00Z", "X-SIGNATURE: x", "Authorization: Bearer x",
			"X-EXTERNAL-ID: 77", "CHANNEL-ID: DH",
		}, `{ "grantType": "authorization_code", "authCode": "abc", "additionalInfo": {} }`)
		if got.status != http.StatusOK || got.body != told {
			t.Fatalf("%s: HTTP %d %s", path, got.status, got.body)
		}
		e := env.received(t)
		if e.Target != path || string(e.Body) != `{"grantType":"authorization_code","authCode":"abc","additionalInfo":{}}` {
			t.Errorf("DOKU received %s %s", e.Target, e.Body)
		}
		for _, name := range []string{"Authorization", "X-Partner-Id", "X-External-Id", "Channel-Id"} {
			if values := e.Header.Values(name); len(values) > 0 {
				t.Errorf("DOKU received %s: %q", name, values)
			}
		}
		if id := e.Header.Get("X-Client-Key"); id != clientID {
			t.Errorf("X-CLIENT-KEY is %s", id)
		}
		signature, err := base64.StdEncoding.DecodeString(e.Header.Get("X-Signature"))
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256([]byte(clientID + "|" + e.Header.Get("X-Timestamp")))
		if err := rsa.VerifyPKCS1v15(&doktest.Key(t, doktest.MerchantKey).PublicKey, crypto.SHA256, digest[:], signature); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if n := env.doku.Tokens(); n != 0 {
		t.Errorf("DOKU issued %d B2B tokens, which these calls do not need", n)
	}
}

func TestACustomersTokenThatIsRefusedIsNotAskedForTwice(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	const path = "/authorization/v1/access-token/b2b2c"
	env.doku.SetFault(path, &simulator.Fault{Status: http.StatusUnauthorized, Body: `{"responseCode":"4017401"}`})
	env.call(t, http.MethodPost, path, `{"grantType":"authorization_code","authCode":"abc"}`).expect(t, http.StatusUnauthorized, "4017401")
	if n := env.sent(); n != 1 {
		t.Errorf("DOKU received %d calls", n)
	}
}

func TestTheChannelOfCallsWithoutOne(t *testing.T) {
	t.Parallel()
	const debit = "/direct-debit/core/v1/debit/payment-host-to-host"
	plain, set := start(t, options{}), start(t, options{sign: "channel_id SDK"})
	for _, test := range []struct {
		env            *testEnv
		path, own, got string
	}{
		{plain, createPath, "", "H2H"},
		{plain, debit, "", "DH"},
		{plain, debit, "APP", "APP"},
		{plain, "/direct-debits/x", "", "H2H"},
		{set, createPath, "", "SDK"},
		{set, debit, "", "SDK"},
	} {
		var header []string
		if test.own != "" {
			header = []string{"CHANNEL-ID", test.own}
		}
		test.env.call(t, http.MethodPost, test.path, "{}", header...)
		if got := test.env.received(t).Header.Get("Channel-Id"); got != test.got {
			t.Errorf("%s: CHANNEL-ID %q, expected %q", test.path, got, test.got)
		}
	}
}
