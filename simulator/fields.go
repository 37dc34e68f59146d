package simulator

import (
	"fmt"
	"math/big"
	"net/http"
	"regexp"
	"time"
	"unicode/utf8"
)

var (
	partnerService = regexp.MustCompile(`^ {0,7}[0-9]{1,8}$`)
	digitsUpTo20   = regexp.MustCompile(`^[0-9]{1,20}$`)
	amountForm     = regexp.MustCompile(`^(0|[1-9][0-9]{0,15})(\.[0-9]{2})?$`)
	amountStrict   = regexp.MustCompile(`^(0|(0|[1-9][0-9]{0,15})\.[0-9]{2})$`)
	nameStrict     = regexp.MustCompile(`^[a-zA-Z0-9.\\\-/+,=_:'@% ]*$`)
	phoneForm      = regexp.MustCompile(`^.{9,30}$`)
	emailForm      = regexp.MustCompile(`^[^@\s]+@[^@\s]+\.[^@\s.]+$`)
)

// channels are the names of the banks' virtual accounts in additionalInfo.channel.
var channels = map[string]bool{
	"VIRTUAL_ACCOUNT_BCA": true, "VIRTUAL_ACCOUNT_BANK_MANDIRI": true, "VIRTUAL_ACCOUNT_BRI": true, "VIRTUAL_ACCOUNT_BNI": true,
	"VIRTUAL_ACCOUNT_BANK_DANAMON": true, "VIRTUAL_ACCOUNT_BANK_PERMATA": true, "VIRTUAL_ACCOUNT_MAYBANK": true,
	"VIRTUAL_ACCOUNT_BNC": true, "VIRTUAL_ACCOUNT_BTN": true, "VIRTUAL_ACCOUNT_BSI": true, "VIRTUAL_ACCOUNT_BANK_CIMB": true,
	"VIRTUAL_ACCOUNT_SINARMAS": true, "VIRTUAL_ACCOUNT_SINARMAS_FULL": true, "VIRTUAL_ACCOUNT_DOKU": true,
	"VIRTUAL_ACCOUNT_BSS": true, "VIRTUAL_ACCOUNT_QNB": true,
}

// member is a member of a body that is a text.
type member struct {
	name         string
	mandatory    bool
	longest      int            // in characters
	form, strict *regexp.Regexp // nil: any; strict counts only with [Behaviour.Strict]
}

// Members are checked in the order of DOKU's tables: first whether one is missing, then
// their forms.
var (
	numbering = []member{
		{name: "partnerServiceId", longest: 8, form: partnerService},
		{name: "customerNo", longest: 20, form: digitsUpTo20},
		{name: "virtualAccountNo", mandatory: true, longest: 28},
	}
	vaMembers = []member{
		{name: "partnerServiceId", mandatory: true, longest: 8, form: partnerService},
		{name: "customerNo", longest: 20, form: digitsUpTo20},
		{name: "virtualAccountNo", longest: 28},
		{name: "virtualAccountName", mandatory: true, longest: 255, strict: nameStrict},
		{name: "virtualAccountEmail", longest: 255, form: emailForm},
		{name: "virtualAccountPhone", longest: 30, form: phoneForm},
		{name: "trxId", mandatory: true, longest: 64},
	}
)

func missing(service, name string) *reply {
	return new(refuse(http.StatusBadRequest, service, "02", "Invalid Mandatory Field {"+name+"}", name+" is missing"))
}

func malformed(service, name string) *reply {
	return new(refuse(http.StatusBadRequest, service, "01", "Invalid Field Format {"+name+"}", fmt.Sprintf("%s has a wrong form", name)))
}

// left reports whether a member is left out. DOKU's own SDKs also send null and empty texts.
func (b Behaviour) left(m map[string]any, name string) bool {
	value, given := m[name]
	return !given || !b.Strict && (value == nil || value == "")
}

// readTexts checks the members of a body that are texts, and that the parts of a VA's
// number belong together.
func (s *Simulator) readTexts(m map[string]any, service string, members []member) *reply {
	b := s.behaviour()
	for _, x := range members {
		if value := m[x.name]; x.mandatory && (value == nil || value == "") {
			return missing(service, x.name)
		}
	}
	for _, x := range members {
		if b.left(m, x.name) {
			continue
		}
		value, isText := m[x.name].(string)
		if !isText || value == "" || utf8.RuneCountInString(value) > x.longest || x.form != nil && !x.form.MatchString(value) ||
			b.Strict && x.strict != nil && !x.strict.MatchString(value) {
			return malformed(service, x.name)
		}
	}
	prefix, customer := text(m, "partnerServiceId"), text(m, "customerNo")
	if prefix != "" && len(prefix) != 8 {
		return malformed(service, "partnerServiceId")
	}
	if service != "27" && prefix != "" && customer != "" && text(m, "virtualAccountNo") != prefix+customer { // create may choose the number
		return malformed(service, "virtualAccountNo")
	}
	return nil
}

// readVA checks a body of create or update.
func (s *Simulator) readVA(m map[string]any, service string) (terms, time.Time, *reply) {
	b := s.behaviour()
	if refused := s.readTexts(m, service, vaMembers); refused != nil {
		return terms{}, time.Time{}, refused
	}
	if service == "28" && text(m, "virtualAccountNo") == "" {
		return terms{}, time.Time{}, missing(service, "virtualAccountNo")
	}
	if text(m, "partnerServiceId") != s.cfg.Merchant.PartnerServiceID {
		return terms{}, time.Time{}, malformed(service, "partnerServiceId")
	}
	t, absent, wrong := b.readTerms(m)
	if absent != "" {
		return t, time.Time{}, missing(service, absent)
	}
	if wrong != "" {
		return t, time.Time{}, malformed(service, wrong)
	}
	switch channel := text(object(m, "additionalInfo"), "channel"); {
	case channel == "":
		return t, time.Time{}, missing(service, "additionalInfo.channel")
	case !channels[channel]:
		return t, time.Time{}, malformed(service, "additionalInfo.channel")
	}
	for _, name := range []string{"freeText", "freeTexts"} { // DOKU's pages have the former, its software the latter
		if !b.left(m, name) && !freeTexts(m[name]) {
			return t, time.Time{}, malformed(service, name)
		}
	}
	var expires time.Time
	if !b.left(m, "expiredDate") {
		var ok bool
		if expires, ok = b.readDate(m["expiredDate"]); !ok || !expires.After(s.cfg.Now()) {
			return t, expires, malformed(service, "expiredDate")
		}
	}
	return t, expires, nil
}

// readDate reads a date. The offset of DOKU's PHP and Python SDKs has no colon.
func (b Behaviour) readDate(v any) (time.Time, bool) {
	value, _ := v.(string)
	if t, err := time.Parse(time.RFC3339, value); err == nil {
		return t, timestamp.MatchString(value)
	}
	t, err := time.Parse("2006-01-02T15:04:05-0700", value)
	return t, err == nil && !b.Strict
}

// freeTexts reports whether v is a list of texts in both languages, of 1 to 64 characters
// each.
func freeTexts(v any) bool {
	list, ok := v.([]any)
	for _, item := range list {
		both, _ := item.(map[string]any)
		for _, language := range []string{"english", "indonesia"} {
			if n := utf8.RuneCountInString(text(both, language)); n < 1 || n > 64 {
				return false
			}
		}
	}
	return ok
}

// object returns the object called name in m, or an empty one.
func object(m map[string]any, name string) map[string]any {
	o, _ := m[name].(map[string]any)
	return o
}

func text(m map[string]any, name string) string {
	t, _ := m[name].(string)
	return t
}

// amount reads an amount string.
func amount(value string) (*big.Rat, bool) {
	if !amountForm.MatchString(value) {
		return nil, false
	}
	return new(big.Rat).SetString(value)
}

// amount reads an amount that the documents allow.
func (b Behaviour) amount(value any) (*big.Rat, bool) {
	text, _ := value.(string)
	if b.Strict && !amountStrict.MatchString(text) {
		return nil, false
	}
	return amount(text)
}

// readTerms reads and checks amount, limits and type of a VA. The rules are
// those of DOKU's Permata page: closed has an amount; open has the amount 0;
// limits go with O and V only; V has both.
func (b Behaviour) readTerms(m map[string]any) (t terms, absent, wrong string) {
	info, total := object(m, "additionalInfo"), object(m, "totalAmount")
	config := object(info, "virtualAccountConfig")
	for _, inner := range []struct {
		of         map[string]any
		name, path string
	}{
		{m, "totalAmount", "totalAmount"},
		{m, "additionalInfo", "additionalInfo"},
		{info, "virtualAccountConfig", "additionalInfo.virtualAccountConfig"},
	} {
		if _, isObject := inner.of[inner.name].(map[string]any); !isObject && !b.left(inner.of, inner.name) {
			return t, "", inner.path
		}
	}
	if _, isBool := config["reusableStatus"].(bool); !isBool && !b.left(config, "reusableStatus") {
		return t, "", "additionalInfo.virtualAccountConfig.reusableStatus"
	}
	switch {
	case b.left(total, "value"):
		return t, "totalAmount.value", ""
	case total["currency"] != "IDR":
		return t, "", "totalAmount.currency"
	}
	kind := m["virtualAccountTrxType"]
	if kind == nil && !b.Strict {
		kind = m["virtualAccounTrxType"] // DOKU's Go SDK spells it so
	}
	t.trxType, _ = kind.(string)
	var ok bool
	if t.total, ok = b.amount(total["value"]); !ok {
		return t, "", "totalAmount.value"
	}
	for _, limit := range []struct {
		name  string
		value **big.Rat
	}{{"minAmount", &t.min}, {"maxAmount", &t.max}} {
		if b.left(config, limit.name) {
			continue
		}
		if *limit.value, ok = b.amount(config[limit.name]); !ok || t.trxType == "C" {
			return t, "", "additionalInfo.virtualAccountConfig." + limit.name
		}
	}
	absent, wrong = t.check(kind == nil || kind == "")
	return t, absent, wrong
}

// check checks whether type and amounts fit together.
func (t terms) check(noType bool) (absent, wrong string) {
	switch {
	case t.max != nil && (t.max.Sign() <= 0 || t.min != nil && t.min.Cmp(t.max) >= 0):
		return "", "additionalInfo.virtualAccountConfig.maxAmount"
	case noType:
		return "virtualAccountTrxType", ""
	case t.trxType == "C" && t.total.Sign() <= 0, t.trxType == "O" && t.total.Sign() != 0:
		return "", "totalAmount.value"
	case t.trxType == "V" && (t.min == nil || t.max == nil):
		return "additionalInfo.virtualAccountConfig.minAmount", ""
	case t.trxType != "C" && t.trxType != "O" && t.trxType != "V":
		return "", "virtualAccountTrxType"
	}
	return "", ""
}
