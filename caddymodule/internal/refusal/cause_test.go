package refusal

import (
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/moduletest"
)

const rightBill = `{"partnerServiceId":"    8808","customerNo":"1001","virtualAccountNo":"    88081001","virtualAccountName":"Siti",` +
	`"trxId":"INV-1",` +
	`"totalAmount":{"value":"25000.00","currency":"IDR"},"virtualAccountTrxType":"C","expiredDate":"2026-12-31T23:55:00+07:00",` +
	`"additionalInfo":{"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA"}}`

func TestLikelyCausesOfARefusal(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, method, path string
		status             int
		old, changed       string // in rightBill
		want               string // empty: none
	}{
		{name: "nothing to be seen"},
		{name: "an amount as a number", old: `"25000.00"`, changed: `25000.00`, want: "totalAmount.value must be a string"},
		{name: "an amount with a comma", old: `"25000.00"`, changed: `"25.000,00"`, want: "totalAmount.value must be digits"},
		{name: "an amount with one decimal", old: `"25000.00"`, changed: `"25000.0"`, want: "totalAmount.value must be digits"},
		{name: "no amount", old: `"value":"25000.00",`, changed: ``, want: "totalAmount.value is missing"},
		{name: "another currency", old: `"IDR"`, changed: `"USD"`, want: "totalAmount.currency must be IDR"},
		{
			name: "no blanks before the prefix", old: `"partnerServiceId":"    8808"`, changed: `"partnerServiceId":"8808"`,
			want: "padded with blanks on the left; it has 4",
		},
		{
			name: "the prefix as a number", old: `"partnerServiceId":"    8808"`, changed: `"partnerServiceId":8808`,
			want: "partnerServiceId must be a string",
		},
		{
			name: "a number without the blanks", old: `"    88081001"`, changed: `"88081001"`,
			want: "virtualAccountNo must be partnerServiceId and customerNo",
		},
		{name: "the customer as a number", old: `"1001"`, changed: `1001`, want: "customerNo must be a string"},
		{
			name: "a channel misspelt", old: `BANK_PERMATA`, changed: `PERMATA`,
			want: `"VIRTUAL_ACCOUNT_PERMATA", which is none of DOKU's channels`,
		},
		{name: "no channel", old: `"channel":`, changed: `"chanel":`, want: "additionalInfo.channel is missing"},
		{name: "no trxId", old: `"trxId":"INV-1",`, changed: ``, want: "trxId is missing"},
		{name: "another type", old: `"virtualAccountTrxType":"C"`, changed: `"virtualAccountTrxType":"1"`, want: "virtualAccountTrxType must be"},
		{name: "an expiry without an offset", old: `23:55:00+07:00`, changed: `23:55:00`, want: "expiredDate must be a time with an offset"},
		{name: "an expiry as a number", old: `"2026-12-31T23:55:00+07:00"`, changed: `1798736100`, want: "expiredDate must be a time"},
		{
			name: "an update that is posted", path: "/virtual-accounts/bi-snap-va/v1.1/transfer-va/update-va",
			want: "the method of this path is PUT, the app has sent POST",
		},
		{
			name: "a delete that is posted", path: "/virtual-accounts/bi-snap-va/v1.1/transfer-va/delete-va",
			want: "the method of this path is DELETE, the app has sent POST",
		},
		{
			name: "a path misspelt", path: "/virtual-accounts/bi-snap-va/v1.1/transfer-va/creat-va", status: 404,
			want: "none of DOKU's that the sidecar knows",
		},
		{name: "another path that DOKU knows", path: "/some/path", status: 400},
		{name: "another service", path: "/direct-debit/core/v1/debit/refund", old: `"25000.00"`, changed: `1`},
	} {
		if test.method == "" {
			test.method = "POST"
		}
		if test.path == "" {
			test.path = moduletest.CreatePath
		}
		if test.status == 0 {
			test.status = 400
		}
		body := rightBill
		if test.old != "" {
			if body = strings.Replace(rightBill, test.old, test.changed, 1); body == rightBill {
				t.Fatalf("%s: nothing was changed", test.name)
			}
		}
		found := strings.Join(LikelyCauses(test.method, test.path, test.status, []byte(body)), "; ")
		if test.want == "" && found != "" || !strings.Contains(found, test.want) {
			t.Errorf("%s: found %q, expected %q", test.name, found, test.want)
		}
		if strings.Contains(found, "Siti") || strings.Contains(found, "88081001") {
			t.Errorf("%s: personal data in %s", test.name, found)
		}
	}
	if found := LikelyCauses("POST", moduletest.CreatePath, 400, nil); len(found) != 1 || found[0] != "the call has no body" {
		t.Errorf("without a body: found %q", found)
	}
}

func TestWhatDOKUSaysMayStandInTheLog(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"Unauthorized. [Signature]": "Unauthorized. [Signature]",
		"Invalid Field Format additionalInfo.virtualAccountConfig.reusableStatus": "Invalid Field Format additionalInfo.virtualAccountConfig.reusableStatus",
		"token eyJhbGciOiJSUzI1NiJ9abcdef":                                        "token …",
		"VA     8808 1234 5678 paid 25000.00":                                     "VA … paid 25000.00",
		"mail a.b+c@toko.example now":                                             "mail … now",
		"two\r\nlines\u009b31m\u202e\x00\xff":                                     "two lines 31m",
		"":                                                                        "",
	} {
		if got := Shown(text, Longest); got != want {
			t.Errorf("%q: found %q, expected %q", text, got, want)
		}
	}
	if got := Shown(strings.Repeat("é ", 500), 10); got != "é é é é é …" {
		t.Errorf("found %q", got)
	}
}
