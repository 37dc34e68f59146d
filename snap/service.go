package snap

import (
	"net/http"
	"strconv"
	"strings"
)

// Service is a SNAP service code: two digits that name an operation and stand
// in the middle of every response code.
type Service string

// The services that DOKU offers or calls.
const (
	ServiceUnknown         Service = "00" // not a SNAP service; for answers to paths that are not known
	ServiceCardBind        Service = "01"
	ServiceOTPVerification Service = "04"
	ServiceCardUnbind      Service = "05"
	ServiceAccountBind     Service = "07"
	ServiceAccountUnbind   Service = "09"
	ServiceBalance         Service = "11"
	ServiceVAInquiry       Service = "24" // DOKU asks the merchant for a bill
	ServiceVAPayment       Service = "25" // DOKU reports a payment to the merchant
	ServiceVAStatus        Service = "26"
	ServiceVACreate        Service = "27"
	ServiceVAUpdate        Service = "28"
	ServiceVADelete        Service = "31"
	ServiceAccountInquiry  Service = "42"
	ServiceTransfer        Service = "43"
	ServiceQRGenerate      Service = "47"
	ServiceQRQuery         Service = "51"
	ServiceTransferStatus  Service = "53"
	ServiceDebitPayment    Service = "54"
	ServiceDebitStatus     Service = "55"
	ServiceDebitNotify     Service = "56"
	ServiceDebitRefund     Service = "58"
	ServiceB2BToken        Service = "73"
	ServiceB2B2CToken      Service = "74"
	ServiceQRRefund        Service = "78"
)

// operations maps the end of a path, its last two segments or its last one, to
// the service and the method it is called with. Versions, bank names and
// prefixes in front differ between DOKU's pages and over time, so they are not
// looked at: /v1/transfer-va/payment, /v1.1/transfer-va/payment and a merchant's
// own prefix before it are the same service.
var operations = map[string]struct {
	service Service
	method  string
}{
	"access-token/b2b":   {ServiceB2BToken, http.MethodPost},
	"access-token/b2b2c": {ServiceB2B2CToken, http.MethodPost},

	"create-va":           {ServiceVACreate, http.MethodPost},
	"update-va":           {ServiceVAUpdate, http.MethodPut},
	"delete-va":           {ServiceVADelete, http.MethodDelete},
	"transfer-va/status":  {ServiceVAStatus, http.MethodPost},
	"transfer-va/inquiry": {ServiceVAInquiry, http.MethodPost},
	"transfer-va/payment": {ServiceVAPayment, http.MethodPost},

	"registration-card-bind":         {ServiceCardBind, http.MethodPost},
	"registration-card-unbind":       {ServiceCardUnbind, http.MethodPost},
	"registration-account-binding":   {ServiceAccountBind, http.MethodPost},
	"registration-account-unbinding": {ServiceAccountUnbind, http.MethodPost},
	"otp-verification":               {ServiceOTPVerification, http.MethodPost},
	"balance-inquiry":                {ServiceBalance, http.MethodPost},
	"debit/payment-host-to-host":     {ServiceDebitPayment, http.MethodPost},
	"debit/status":                   {ServiceDebitStatus, http.MethodPost},
	"debit/refund":                   {ServiceDebitRefund, http.MethodPost},
	"debit/notify":                   {ServiceDebitNotify, http.MethodPost},

	"qr-mpm-generate": {ServiceQRGenerate, http.MethodPost},
	"qr-mpm-query":    {ServiceQRQuery, http.MethodPost},
	"qr-mpm-refund":   {ServiceQRRefund, http.MethodPost},

	"bank-account-inquiry": {ServiceAccountInquiry, http.MethodPost},
	"transfer-bank":        {ServiceTransfer, http.MethodPost},
	"qr-mpm-status":        {ServiceTransferStatus, http.MethodPost},
}

// ServiceOf returns the service that target, a path with or without a query,
// belongs to, and whether method is the one that it is called with. A path
// that ends in no known operation gives [ServiceUnknown] and false.
func ServiceOf(method, target string) (Service, bool) {
	path, _, _ := strings.Cut(target, "?")
	path = unescapeUnreserved(strings.TrimSuffix(path, "/"))
	last := strings.LastIndexByte(path, '/')
	op, found := operations[path[last+1:]]
	if !found && last > 0 {
		before := strings.LastIndexByte(path[:last], '/')
		op, found = operations[path[before+1:]]
	}
	if !found {
		return ServiceUnknown, false
	}
	return op.service, method == op.method
}

// unescapeUnreserved returns a path in which no unreserved character is escaped: both
// spellings are the same path (RFC 3986 §6.2.2.2).
func unescapeUnreserved(path string) string {
	if !strings.Contains(path, "%") {
		return path
	}
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && i+2 < len(path) {
			if c, err := strconv.ParseUint(path[i+1:i+3], 16, 8); err == nil && isUnreserved(byte(c)) {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(path[i])
	}
	return b.String()
}

func isUnreserved(c byte) bool {
	return isDigit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || strings.IndexByte("-._~", c) >= 0
}

// MethodOf returns the method that a service is called with, or "" if it is not known.
func MethodOf(service Service) string {
	for _, op := range operations {
		if op.service == service {
			return op.method
		}
	}
	return ""
}

// Valid reports whether s is two digits.
func (s Service) Valid() bool {
	return len(s) == 2 && isDigit(s[0]) && isDigit(s[1])
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
