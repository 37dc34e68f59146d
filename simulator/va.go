package simulator

import (
	"fmt"
	"math/big"
	"net/http"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// virtualAccount is a VA that DOKU holds.
type virtualAccount struct {
	data     map[string]any // as created, with what DOKU added
	terms    terms
	trxID    string
	reusable bool
	inactive bool
	expires  time.Time // zero: never
	paid     []payment
}

// terms are the amounts that a VA accepts.
type terms struct {
	trxType  string // C closed, O open, V variable
	total    *big.Rat
	min, max *big.Rat // nil: no limit
}

type payment struct {
	requestID string
	amount    string
}

var (
	partnerService = regexp.MustCompile(`^ {0,7}[0-9]{1,8}$`)
	digitsUpTo20   = regexp.MustCompile(`^[0-9]{1,20}$`)
	amountForm     = regexp.MustCompile(`^(0|[1-9][0-9]{0,15})(\.[0-9]{2})?$`)
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

// readTerms reads and checks amount, limits and type of a VA. The rules are
// those of DOKU's Permata page: closed has an amount; open has the amount 0;
// limits go with O and V only; V has both.
func readTerms(m map[string]any) (t terms, mandatory, format string) {
	t.trxType = text(m, "virtualAccountTrxType")
	total := object(m, "totalAmount")
	config := object(object(m, "additionalInfo"), "virtualAccountConfig")
	switch {
	case total["value"] == nil:
		return t, "totalAmount.value", ""
	case text(total, "currency") != "IDR":
		return t, "", "totalAmount.currency"
	}
	var ok bool
	if t.total, ok = amount(text(total, "value")); !ok {
		return t, "", "totalAmount.value"
	}
	for name, limit := range map[string]**big.Rat{"minAmount": &t.min, "maxAmount": &t.max} {
		if config[name] == nil {
			continue
		}
		if *limit, ok = amount(text(config, name)); !ok || t.trxType == "C" {
			return t, "", "additionalInfo.virtualAccountConfig." + name
		}
	}
	if t.max != nil && (t.max.Sign() <= 0 || t.min != nil && t.min.Cmp(t.max) >= 0) {
		return t, "", "additionalInfo.virtualAccountConfig.maxAmount"
	}
	switch t.trxType {
	case "":
		return t, "virtualAccountTrxType", ""
	case "C":
		if t.total.Sign() <= 0 {
			return t, "", "totalAmount.value"
		}
	case "O":
		if t.total.Sign() != 0 {
			return t, "", "totalAmount.value"
		}
	case "V":
		if t.min == nil || t.max == nil {
			return t, "additionalInfo.virtualAccountConfig.minAmount", ""
		}
	default:
		return t, "", "virtualAccountTrxType"
	}
	return t, "", ""
}

// accept reports whether value is an amount that the VA accepts.
func (t terms) accept(value *big.Rat) bool {
	switch {
	case value.Sign() <= 0:
		return false
	case t.trxType == "C":
		return value.Cmp(t.total) == 0
	}
	return (t.min == nil || value.Cmp(t.min) >= 0) && (t.max == nil || value.Cmp(t.max) <= 0)
}

// validate checks the fields that create and update share. DOKU does not document which
// characters a name may have, so it accepts any text of 1 to 255 characters.
func (s *Simulator) validate(m map[string]any, service string) (terms, time.Time, *reply) {
	mandatory := func(name string) *reply {
		return new(refuse(http.StatusBadRequest, service, "02", "Invalid Mandatory Field {"+name+"}", name+" is missing"))
	}
	format := func(name string) *reply {
		return new(refuse(http.StatusBadRequest, service, "01", "Invalid Field Format {"+name+"}",
			fmt.Sprintf("%s has a wrong form", name)))
	}
	for _, name := range []string{"partnerServiceId", "virtualAccountName", "trxId"} {
		if text(m, name) == "" {
			return terms{}, time.Time{}, mandatory(name)
		}
	}
	if id := text(m, "partnerServiceId"); len(id) != 8 || !partnerService.MatchString(id) || id != s.cfg.Merchant.PartnerServiceID {
		return terms{}, time.Time{}, format("partnerServiceId")
	}
	for name, longest := range map[string]int{"virtualAccountName": 255, "trxId": 64, "virtualAccountEmail": 255} {
		if utf8.RuneCountInString(text(m, name)) > longest {
			return terms{}, time.Time{}, format(name)
		}
	}
	if phone, given := m["virtualAccountPhone"].(string); given && !phoneForm.MatchString(phone) {
		return terms{}, time.Time{}, format("virtualAccountPhone")
	}
	if email, given := m["virtualAccountEmail"].(string); given && !emailForm.MatchString(email) {
		return terms{}, time.Time{}, format("virtualAccountEmail")
	}
	switch channel := text(object(m, "additionalInfo"), "channel"); {
	case channel == "":
		return terms{}, time.Time{}, mandatory("additionalInfo.channel")
	case !channels[channel]:
		return terms{}, time.Time{}, format("additionalInfo.channel")
	}
	for _, name := range []string{"freeText", "freeTexts"} { // DOKU's pages have the former, its software the latter
		if m[name] != nil && !freeTexts(m[name]) {
			return terms{}, time.Time{}, format(name)
		}
	}
	t, missing, wrong := readTerms(m)
	if missing != "" {
		return t, time.Time{}, mandatory(missing)
	}
	if wrong != "" {
		return t, time.Time{}, format(wrong)
	}
	var expires time.Time
	if date, given := m["expiredDate"].(string); given {
		var err error
		if expires, err = time.Parse(time.RFC3339, date); err != nil || !expires.After(s.cfg.Now()) {
			return t, expires, format("expiredDate")
		}
	}
	return t, expires, nil
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

// number returns the number of a VA without padding: its key in the accounts.
func number(virtualAccountNo string) string { return strings.TrimSpace(virtualAccountNo) }

// create adds a VA. Without a customer number, or with 0, DOKU chooses one (DGPC);
// otherwise the merchant has chosen it (MGPC).
func (s *Simulator) create(m map[string]any) reply {
	t, expires, refused := s.validate(m, "27")
	if refused != nil {
		return *refused
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	prefix, customer := text(m, "partnerServiceId"), text(m, "customerNo")
	if customer == "" || customer == "0" {
		s.serial++
		customer = fmt.Sprintf("%012d", 700000000000+s.serial)
		m["customerNo"], m["virtualAccountNo"] = customer, prefix+customer
	}
	if !digitsUpTo20.MatchString(customer) {
		return refuse(http.StatusBadRequest, "27", "01", "Invalid Field Format {customerNo}", "expected 1 to 20 digits")
	}
	if text(m, "virtualAccountNo") != prefix+customer {
		return refuse(http.StatusBadRequest, "27", "01", "Invalid Field Format {virtualAccountNo}",
			"expected partnerServiceId and customerNo together")
	}
	for _, other := range s.accounts {
		if other.trxID == text(m, "trxId") {
			// The code is the simulator's choice.
			return refuse(http.StatusConflict, "27", "01", "Duplicate trxId", "trxId "+other.trxID+" has a VA already")
		}
	}
	key := number(prefix + customer)
	if s.accounts[key] != nil {
		return refuse(http.StatusConflict, "27", "01", "Duplicate virtualAccountNo", "the VA is there already") // the simulator's choice of code
	}
	info := object(m, "additionalInfo")
	info["howToPayPage"] = "https://app.doku.com/how-to-pay/virtual-account/simulated/" + key
	info["howToPayApi"] = "https://api.doku.com/pay-instruction/simulated/" + key
	reusable, _ := object(info, "virtualAccountConfig")["reusableStatus"].(bool)
	s.accounts[key] = &virtualAccount{data: m, terms: t, trxID: text(m, "trxId"), reusable: reusable, expires: expires}
	answer := success("27")
	answer["virtualAccountData"] = m
	return reply{status: http.StatusOK, body: answer}
}

func (s *Simulator) find(m map[string]any, service string) (*virtualAccount, *reply) {
	va := s.accounts[number(text(m, "virtualAccountNo"))]
	if va == nil {
		return nil, new(refuse(http.StatusNotFound, service, "12", "Invalid Bill/Virtual Account [Not Found]", "no such VA"))
	}
	return va, nil
}

func (s *Simulator) update(m map[string]any) reply {
	t, expires, refused := s.validate(m, "28")
	if refused != nil {
		return *refused
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	va, refused := s.find(m, "28")
	if refused != nil {
		return *refused
	}
	config := object(object(m, "additionalInfo"), "virtualAccountConfig")
	switch status := text(config, "status"); status {
	case "", "ACTIVE", "INACTIVE":
		va.inactive = status == "INACTIVE"
	default:
		return refuse(http.StatusBadRequest, "28", "01", "Invalid Field Format {additionalInfo.virtualAccountConfig.status}", status)
	}
	va.data, va.terms, va.expires, va.trxID = m, t, expires, text(m, "trxId")
	answer := success("28")
	answer["virtualAccountData"] = m
	return reply{status: http.StatusOK, body: answer}
}

func (s *Simulator) remove(m map[string]any) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	va, refused := s.find(m, "31")
	if refused != nil {
		return *refused
	}
	if text(m, "trxId") != va.trxID {
		return refuse(http.StatusNotFound, "31", "18", "Inconsistent Request", "trxId is not that of the VA")
	}
	delete(s.accounts, number(text(m, "virtualAccountNo")))
	answer := success("31")
	answer["virtualAccountData"] = m
	return reply{status: http.StatusOK, body: answer}
}

func (s *Simulator) status(m map[string]any) reply {
	for _, name := range []string{"inquiryRequestId", "paymentRequestId"} {
		if len(text(m, name)) > 128 {
			return refuse(http.StatusBadRequest, "26", "01", "Invalid Field Format {"+name+"}", "expected at most 128 characters")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	va, refused := s.find(m, "26")
	if refused != nil {
		return *refused
	}
	reason := map[string]any{"english": "Pending", "indonesia": "Belum Terbayar"}
	data := map[string]any{
		"partnerServiceId": m["partnerServiceId"], "customerNo": m["customerNo"], "virtualAccountNo": m["virtualAccountNo"],
		"trxId": va.trxID, "paymentFlagReason": reason,
	}
	if n := len(va.paid); n > 0 {
		reason["english"], reason["indonesia"] = "Paid", "Terbayar"
		data["paymentRequestId"] = va.paid[n-1].requestID
		data["paidAmount"] = map[string]any{"value": va.paid[n-1].amount, "currency": "IDR"}
	}
	answer := success("26")
	answer["virtualAccountData"] = data
	answer["additionalInfo"] = map[string]any{"trxId": va.trxID}
	return reply{status: http.StatusOK, body: answer}
}
