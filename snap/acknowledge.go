package snap

import "encoding/json"

// paymentEcho is what the answer to a payment notification repeats of it, as
// DOKU's sample shows ("HTTP Notification Sample for SNAP").
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

// Acknowledge returns the body of the answer that accepts a notification, whose
// body is given: with virtualAccountData for service 25, and with nothing but its
// outcome otherwise, or if the body is no JSON object.
func Acknowledge(service Service, notification []byte) []byte {
	var fields map[string]json.RawMessage
	if service != ServiceVAPayment || json.Unmarshal(notification, &fields) != nil {
		return Successful.Answer(service)
	}
	// Not into the struct, which would take partnerserviceid for partnerServiceId.
	body, err := json.Marshal(struct {
		Answer
		VirtualAccountData paymentEcho `json:"virtualAccountData"`
	}{
		Answer{Successful.Code(service), Successful.Message},
		paymentEcho{
			PartnerServiceID: fields["partnerServiceId"], CustomerNo: fields["customerNo"],
			VirtualAccountNo: fields["virtualAccountNo"], VirtualAccountName: fields["virtualAccountName"],
			PaymentRequestID: fields["paymentRequestId"], PaidAmount: fields["paidAmount"],
			VirtualAccountTrxType: fields["virtualAccountTrxType"], AdditionalInfo: fields["additionalInfo"],
		},
	})
	if err != nil {
		return Successful.Answer(service)
	}
	return body
}
