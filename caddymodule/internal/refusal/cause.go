// Package refusal reads what DOKU says about a call that it refuses, and looks for the cause in the
// request of the app. It is for the log, and decides nothing but the result of an answer.
package refusal

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-doku/caddy-doku/snap"
)

// channels are DOKU's names of the channels for virtual accounts (its documents and its Go
// library).
var channels = []string{
	"VIRTUAL_ACCOUNT_BCA", "VIRTUAL_ACCOUNT_BANK_MANDIRI", "VIRTUAL_ACCOUNT_BRI", "VIRTUAL_ACCOUNT_BNI", "VIRTUAL_ACCOUNT_BANK_DANAMON",
	"VIRTUAL_ACCOUNT_BANK_PERMATA", "VIRTUAL_ACCOUNT_MAYBANK", "VIRTUAL_ACCOUNT_BNC", "VIRTUAL_ACCOUNT_BTN", "VIRTUAL_ACCOUNT_BSI",
	"VIRTUAL_ACCOUNT_BANK_SYARIAH_MANDIRI", "VIRTUAL_ACCOUNT_BANK_CIMB", "VIRTUAL_ACCOUNT_SINARMAS", "VIRTUAL_ACCOUNT_DOKU",
	"VIRTUAL_ACCOUNT_BSS", "VIRTUAL_ACCOUNT_QNB", "VIRTUAL_ACCOUNT_SINARMAS_FULL",
}

// fields are those of a virtual account that have a form which apps often miss.
type fields struct {
	PartnerServiceID any `json:"partnerServiceId"`
	CustomerNo       any `json:"customerNo"`
	VirtualAccountNo any `json:"virtualAccountNo"`
	TrxID            any `json:"trxId"`
	TrxType          any `json:"virtualAccountTrxType"`
	ExpiredDate      any `json:"expiredDate"`
	TotalAmount      any `json:"totalAmount"`
	AdditionalInfo   any `json:"additionalInfo"`
}

// LikelyCauses returns why DOKU may have refused a call: what in the app's request is not as
// DOKU's documents want it. It is read only after a refusal, and never decides anything.
func LikelyCauses(method, path string, status int, body []byte) []string {
	service, right := snap.ServiceOf(method, path)
	if service == snap.ServiceUnknown {
		if status == http.StatusNotFound || status == http.StatusMethodNotAllowed {
			return []string{fmt.Sprintf("the path %.200q is none of DOKU's that the sidecar knows: check its spelling", path)}
		}
		return nil
	}
	var causes []string
	if !right {
		causes = append(causes, fmt.Sprintf("the method of this path is %s, the app has sent %s", snap.MethodOf(service), method))
	}
	switch service {
	case snap.ServiceVACreate, snap.ServiceVAUpdate, snap.ServiceVADelete, snap.ServiceVAStatus:
	default:
		return causes
	}
	var f fields
	if len(body) == 0 {
		return append(causes, "the call has no body")
	}
	if json.Unmarshal(body, &f) != nil {
		return causes
	}
	causes = append(causes, f.numberCauses()...)
	if service != snap.ServiceVAStatus {
		causes = append(causes, f.billCauses(service)...)
	}
	return causes
}

// numberCauses looks at the three parts of a virtual account's number.
func (f fields) numberCauses() (causes []string) {
	const longest = 8
	prefix, isText := f.PartnerServiceID.(string)
	number, _ := f.VirtualAccountNo.(string)
	customer, _ := f.CustomerNo.(string)
	switch {
	case f.PartnerServiceID == nil:
		causes = append(causes, "partnerServiceId is missing")
	case !isText:
		causes = append(causes, "partnerServiceId must be a string")
	case len(prefix) != longest:
		causes = append(
			causes,
			fmt.Sprintf("partnerServiceId must have %d characters, padded with blanks on the left; it has %d", longest, len(prefix)),
		)
	}
	switch {
	case number != "" && isText && customer != "" && number != prefix+customer:
		causes = append(causes, "virtualAccountNo must be partnerServiceId and customerNo, with the blanks")
	case f.VirtualAccountNo != nil && number == "":
		causes = append(causes, "virtualAccountNo must be a string")
	}
	if f.CustomerNo != nil && customer == "" {
		causes = append(causes, "customerNo must be a string")
	}
	return causes
}

// billCauses looks at the rest of a virtual account.
func (f fields) billCauses(service snap.Service) (causes []string) {
	if trxID, _ := f.TrxID.(string); trxID == "" {
		causes = append(causes, "trxId is missing, or no string")
	}
	info, _ := f.AdditionalInfo.(map[string]any)
	switch channel, _ := info["channel"].(string); {
	case channel == "":
		causes = append(causes, "additionalInfo.channel is missing")
	case !slices.Contains(channels, channel):
		causes = append(
			causes,
			fmt.Sprintf("additionalInfo.channel is %q, which is none of DOKU's channels, such as VIRTUAL_ACCOUNT_BANK_PERMATA",
				Shown(channel, Longest)),
		)
	}
	if service == snap.ServiceVADelete {
		return causes
	}
	amount, _ := f.TotalAmount.(map[string]any)
	switch value := amount["value"].(type) {
	case string:
		if !isAmount(value) {
			causes = append(causes, `totalAmount.value must be digits with two decimals, such as "25000.00"`)
		}
	case nil:
		causes = append(causes, "totalAmount.value is missing")
	default:
		causes = append(causes, `totalAmount.value must be a string, such as "25000.00"`)
	}
	if amount["currency"] != "IDR" {
		causes = append(causes, "totalAmount.currency must be IDR")
	}
	if kind, _ := f.TrxType.(string); !slices.Contains([]string{"C", "O", "V", "P"}, kind) {
		causes = append(causes, "virtualAccountTrxType must be C, O or V")
	}
	if expires, isText := f.ExpiredDate.(string); f.ExpiredDate != nil {
		if _, err := snap.ParseTimestamp(expires); !isText || err != nil {
			causes = append(causes, "expiredDate must be a time with an offset, such as 2026-12-31T23:55:00+07:00")
		}
	}
	return causes
}

// isAmount reports whether a text is an amount of DOKU's: digits, or digits with two
// decimals.
func isAmount(text string) bool {
	whole, decimals, found := strings.Cut(text, ".")
	return whole != "" && strings.Trim(whole+decimals, "0123456789") == "" && (!found || len(decimals) == 2)
}
