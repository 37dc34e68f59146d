package snap

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// notification is what the sidecar must know of a service by which DOKU reports
// payments. A new one needs a row here, and one in [ServiceOf]'s table.
type notification struct {
	// paymentID returns the id of the payment, or "" if the body has none. A repeat of a
	// notification has the same one, whatever its external id (DOKU, "Retry Notification",
	// does not say whether a retry keeps that).
	paymentID func(canonical []byte) string

	// orderedBy is the member that the order of notifications is kept within.
	orderedBy string

	// acknowledge returns the body of the answer that accepts the notification.
	acknowledge func(body []byte) []byte
}

// The notifications that DOKU documents, with their paths and bodies ("HTTP Notification
// Sample for SNAP"). DOKU repeats each until the merchant answers 2xx: after 30 minutes,
// 6 hours and 12 hours ("Retry Notification"). It looks at the HTTP status only. DOKU does
// not say which member identifies a payment, or within which member order matters: those
// are inferred from the bodies.
var notifications = map[Service]notification{
	// The payment of a virtual account. All banks send the same body, says DOKU. The
	// acknowledgement has the form of its sample.
	ServiceVAPayment: {
		paymentID:   func(body []byte) string { return idField(body, "paymentRequestId") },
		orderedBy:   "virtualAccountNo",
		acknowledge: acknowledgeVAPayment,
	},
	// Direct debit and e-wallets. One transaction has one notification for each status. The
	// approvalCode in DOKU's sample of an answer is left out: the notification has none.
	ServiceDebitNotify: {
		paymentID: func(body []byte) string {
			id := idField(body, "originalExternalId")
			if id == "" {
				return ""
			}
			return id + "/" + idField(body, "latestTransactionStatus")
		},
		orderedBy:   "originalExternalId",
		acknowledge: func([]byte) []byte { return Successful.Answer(ServiceDebitNotify) },
	},
}

// Notification reports whether DOKU calls this service to report a payment, and so
// repeats the call until the merchant answers 2xx.
func (s Service) Notification() bool {
	_, found := notifications[s]
	return found
}

// Inbound says what DOKU calls the merchant for with this service, or returns "" if DOKU
// never does.
func (s Service) Inbound() string {
	switch s {
	case ServiceVAInquiry:
		return "inquiries about a virtual account"
	case ServiceVAPayment:
		return "notifications of a virtual account's payment"
	case ServiceDebitNotify:
		return "notifications of direct debit and e-wallets"
	}
	return ""
}

// CheckInbound returns an error unless s is a service that DOKU calls the merchant for.
func (s Service) CheckInbound() error {
	if s.Inbound() != "" {
		return nil
	}
	var allowed []string
	for _, served := range []Service{ServiceVAInquiry, ServiceVAPayment, ServiceDebitNotify} {
		allowed = append(allowed, string(served)+" ("+served.Inbound()+")")
	}
	why := "is none that DOKU calls you for"
	if method := MethodOf(s); method != "" {
		why = "is one that you call at DOKU"
	}
	return fmt.Errorf("expected %s, found %.20q, which %s", strings.Join(allowed, ", "), string(s), why)
}

// PaymentID returns the id of the payment that a notification is about: the same for
// each repeat, and for no other payment. It may be a JSON text or any other JSON value. It
// is "" if the body has none, or the service is no notification. canonical is the body in canonical form; see [AppendCanonical].
func PaymentID(service Service, canonical []byte) string {
	row, found := notifications[service]
	if !found {
		return ""
	}
	return row.paymentID(canonical)
}

// OrderedBy returns what the order of notifications is kept within: notifications with
// the same text are about one virtual account or transaction. It is "" under the same
// conditions as [PaymentID]. It is a function of its own, because each reads the whole
// body, and not every caller needs both.
func OrderedBy(service Service, canonical []byte) string {
	row, found := notifications[service]
	if !found {
		return ""
	}
	return idField(canonical, row.orderedBy)
}

// Acknowledge returns the body of the answer that accepts a notification with this
// body: with virtualAccountData for a virtual account's payment, and otherwise, or if
// the body is no JSON object, with nothing but the outcome.
func Acknowledge(service Service, body []byte) []byte {
	if row, found := notifications[service]; found {
		return row.acknowledge(body)
	}
	return Successful.Answer(service)
}

// paymentEcho has the members of a payment notification that its answer repeats, as DOKU's
// sample shows ("HTTP Notification Sample for SNAP").
type paymentEcho struct {
	PartnerServiceID      json.RawMessage `json:"partnerServiceId,omitempty"`
	CustomerNo            json.RawMessage `json:"customerNo,omitempty"`
	VirtualAccountNo      json.RawMessage `json:"virtualAccountNo,omitempty"`
	VirtualAccountName    json.RawMessage `json:"virtualAccountName,omitempty"`
	PaymentRequestID      json.RawMessage `json:"paymentRequestId,omitempty"`
	PaidAmount            json.RawMessage `json:"paidAmount,omitempty"`
	VirtualAccountTrxType json.RawMessage `json:"virtualAccountTrxType,omitempty"`
	AdditionalInfo        json.RawMessage `json:"additionalInfo,omitempty"`
}

func acknowledgeVAPayment(notification []byte) []byte {
	var fields map[string]json.RawMessage
	if json.Unmarshal(notification, &fields) != nil {
		return Successful.Answer(ServiceVAPayment)
	}
	// A map, because decoding into the struct would also accept partnerserviceid.
	body, err := json.Marshal(struct {
		Answer
		VirtualAccountData paymentEcho `json:"virtualAccountData"`
	}{
		Answer{Successful.Code(ServiceVAPayment), Successful.Message},
		paymentEcho{
			PartnerServiceID: fields["partnerServiceId"], CustomerNo: fields["customerNo"],
			VirtualAccountNo: fields["virtualAccountNo"], VirtualAccountName: fields["virtualAccountName"],
			PaymentRequestID: fields["paymentRequestId"], PaidAmount: fields["paidAmount"],
			VirtualAccountTrxType: fields["virtualAccountTrxType"], AdditionalInfo: fields["additionalInfo"],
		},
	})
	if err != nil {
		return Successful.Answer(ServiceVAPayment)
	}
	return body
}

// Reference is the virtual account that a call, in either direction, or its answer is
// about. Fields that the body does not have are empty.
type Reference struct {
	VirtualAccountNo string // without the padding in front: spaces in some of DOKU's pages, zeros in others
	CustomerNo       string // the part of the number behind the merchant's prefix
	TrxID            string
	Expires          time.Time // of the virtual account
}

// ReferenceOf returns the reference in body: its members at the top level, or else those
// in virtualAccountData, where answers keep them. The trxId may also be in additionalInfo
// of either. The reference is empty if body is not a JSON object.
func ReferenceOf(body []byte) Reference {
	type fields struct {
		Number   string `json:"virtualAccountNo"`
		Customer string `json:"customerNo"`
		TrxID    string `json:"trxId"`
		Expires  string `json:"expiredDate"`
		Info     struct {
			TrxID string `json:"trxId"`
		} `json:"additionalInfo"`
	}
	var read struct {
		fields
		Data fields `json:"virtualAccountData"`
	}
	_ = json.Unmarshal(body, &read)
	expires, _ := time.Parse(time.RFC3339, cmp.Or(read.Expires, read.Data.Expires))
	return Reference{
		VirtualAccountNo: strings.TrimLeft(cmp.Or(read.Number, read.Data.Number), " 0"),
		CustomerNo:       cmp.Or(read.Customer, read.Data.Customer),
		TrxID:            cmp.Or(read.TrxID, read.Data.TrxID, read.Info.TrxID, read.Data.Info.TrxID),
		Expires:          expires,
	}
}

// Or returns r, with the fields of other where r has none.
func (r Reference) Or(other Reference) Reference {
	r.VirtualAccountNo = cmp.Or(r.VirtualAccountNo, other.VirtualAccountNo)
	r.CustomerNo, r.TrxID = cmp.Or(r.CustomerNo, other.CustomerNo), cmp.Or(r.TrxID, other.TrxID)
	if r.Expires.IsZero() {
		r.Expires = other.Expires
	}
	return r
}
