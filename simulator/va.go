package simulator

import (
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"time"
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

// number returns the number of a VA without padding: its key in the accounts.
func number(virtualAccountNo string) string { return strings.TrimSpace(virtualAccountNo) }

// create adds a VA. Without a customer number, or with 0, DOKU chooses one (DGPC);
// otherwise the merchant has chosen it (MGPC).
func (s *Simulator) create(m map[string]any) reply {
	t, expires, refused := s.readVA(m, "27")
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
	t, expires, refused := s.readVA(m, "28")
	if refused != nil {
		return *refused
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	va, refused := s.find(m, "28")
	if refused != nil {
		return *refused
	}
	switch status := object(object(m, "additionalInfo"), "virtualAccountConfig")["status"]; status {
	case nil, "", "ACTIVE", "INACTIVE":
		va.inactive = status == "INACTIVE"
	default:
		return *malformed("28", "additionalInfo.virtualAccountConfig.status")
	}
	va.data, va.terms, va.expires, va.trxID = m, t, expires, text(m, "trxId")
	answer := success("28")
	answer["virtualAccountData"] = m
	return reply{status: http.StatusOK, body: answer}
}

func (s *Simulator) remove(m map[string]any) reply {
	if refused := s.readTexts(m, "31", append(slices.Clip(numbering), member{name: "trxId", longest: 64})); refused != nil {
		return *refused
	}
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
	if refused := s.readTexts(m, "26", append(slices.Clip(numbering),
		member{name: "inquiryRequestId", longest: 128}, member{name: "paymentRequestId", longest: 128})); refused != nil {
		return *refused
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
