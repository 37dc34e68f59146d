// A merchant's app in Go: standard library only, and nothing of SNAP in it.
//
// The sidecar beside it does the signing and the checking.
//
//	go run . create http://127.0.0.1:9180 INV-1 1001   # make a VA
//	go run . update http://127.0.0.1:9180 INV-1 1001   # change its amount
//	go run . status http://127.0.0.1:9180 INV-1 1001   # is it paid?
//	go run . delete http://127.0.0.1:9180 INV-1 1001
//	PORT=3000 go run . serve                           # answer DOKU's calls
//
// The URL is where doku_sign listens. Without the last argument, DOKU makes the
// number. PARTNER_SERVICE_ID is your prefix, padded with spaces to 8 characters.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	channel     = "VIRTUAL_ACCOUNT_BANK_PERMATA"
	name        = "José & Putri <VIP>" // on purpose: what JSON encoders write in different ways
	largestBody = 1 << 20
)

func main() {
	args := append(slices.Clone(os.Args[1:]), "", "", "", "")
	command, base := args[0], args[1]
	var err error
	ok := false
	switch {
	case command == "serve":
		err = serve(cmp.Or(os.Getenv("PORT"), "3000"))
	case calls[command].path != "" && base != "":
		trxID := cmp.Or(args[2], os.Getenv("TRX_ID"), fmt.Sprintf("INV-%d", time.Now().UnixNano()))
		ok, err = call(command, base, trxID, cmp.Or(args[3], os.Getenv("CUSTOMER_NO"), "0"))
	default:
		err = errors.New("expected: serve, or create|update|status|delete URL [trxId [customerNo]]")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if !ok {
		os.Exit(1)
	}
}

// ---- The app calls DOKU ----------------------------------------------------

var calls = map[string]struct{ method, path string }{
	"create": {http.MethodPost, "/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va"},
	"update": {http.MethodPut, "/virtual-accounts/bi-snap-va/v1.1/transfer-va/update-va"},
	"delete": {http.MethodDelete, "/virtual-accounts/bi-snap-va/v1.1/transfer-va/delete-va"},
	"status": {http.MethodPost, "/orders/v1.0/transfer-va/status"},
}

type number struct {
	PartnerServiceID string `json:"partnerServiceId"`
	CustomerNo       string `json:"customerNo"`
	VirtualAccountNo string `json:"virtualAccountNo"`
}

type amount struct {
	Value    string `json:"value"`
	Currency string `json:"currency"`
}

type config struct {
	ReusableStatus bool   `json:"reusableStatus"`
	Status         string `json:"status,omitempty"`
}

type info struct {
	Channel   string  `json:"channel,omitempty"`
	ReturnURL string  `json:"returnUrl,omitempty"`
	Note      string  `json:"note,omitempty"`
	Config    *config `json:"virtualAccountConfig,omitempty"`
}

type virtualAccount struct {
	number
	Name           string  `json:"virtualAccountName,omitempty"`
	TrxID          string  `json:"trxId,omitempty"`
	TotalAmount    *amount `json:"totalAmount,omitempty"`
	AdditionalInfo info    `json:"additionalInfo"`
	TrxType        string  `json:"virtualAccountTrxType,omitempty"`
}

func requestBody(command, trxID, customerNo string) virtualAccount {
	prefix := cmp.Or(os.Getenv("PARTNER_SERVICE_ID"), "    8808")
	va := virtualAccount{number: number{prefix, customerNo, prefix + customerNo}}
	switch command {
	case "status":
		return va
	case "delete":
		va.TrxID, va.AdditionalInfo.Channel = trxID, channel
		return va
	}
	va.Name, va.TrxID, va.TrxType = name, trxID, "C"
	va.TotalAmount = &amount{"150000.00", "IDR"}
	va.AdditionalInfo = info{channel, "https://toko.example/bayar?invoice=" + trxID + "&promo='hemat'", "Terima kasih 🙏", &config{}}
	if command == "update" {
		va.TotalAmount.Value, va.AdditionalInfo.Config.Status = "175000.00", "ACTIVE"
	}
	return va
}

// call posts plain JSON, prints the answer as one line, and says if it was HTTP 200.
func call(command, base, trxID, customerNo string) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	body, err := json.Marshal(requestBody(command, trxID, customerNo))
	if err != nil {
		return false, err
	}
	req, err := http.NewRequestWithContext(ctx, calls[command].method, base+calls[command].path, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, largestBody))
	if err != nil {
		return false, err
	}
	var answer any = string(text)
	if json.Valid(text) {
		answer = json.RawMessage(text)
	}
	line := map[string]any{"status": resp.StatusCode, "body": answer, "headers": lowerCase(resp.Header)}
	return resp.StatusCode == http.StatusOK, json.NewEncoder(os.Stdout).Encode(line)
}

func lowerCase(header http.Header) map[string]string {
	lower := make(map[string]string, len(header))
	for name, values := range header {
		lower[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	return lower
}

// ---- DOKU calls the app, through the sidecar -------------------------------

type inquiry struct {
	number
	InquiryRequestID string `json:"inquiryRequestId"`
}

type payment struct {
	number
	Name             string `json:"virtualAccountName"`
	TrxID            string `json:"trxId"`
	PaymentRequestID string `json:"paymentRequestId"`
	PaidAmount       amount `json:"paidAmount"`
}

// object is a JSON object to answer with.
type object map[string]any

func refusal(status int, service, cause, message string) (int, object) {
	return status, object{"responseCode": fmt.Sprintf("%d%s%s", status, service, cause), "responseMessage": message}
}

// answerInquiry says what this customer owes. The number's parts go back as they came, spaces too.
func answerInquiry(body []byte) (int, object) {
	var asked inquiry
	if json.Unmarshal(body, &asked) != nil || asked.VirtualAccountNo == "" || asked.InquiryRequestID == "" {
		return refusal(http.StatusBadRequest, "24", "00", "Bad Request")
	}
	if strings.HasSuffix(asked.CustomerNo, "404") {
		return refusal(http.StatusNotFound, "24", "12", "Invalid Bill/Virtual Account [Not Found]")
	}
	return http.StatusOK, object{"responseCode": "2002400", "responseMessage": "Successful", "virtualAccountData": object{
		"partnerServiceId": asked.PartnerServiceID, "customerNo": asked.CustomerNo, "virtualAccountNo": asked.VirtualAccountNo,
		"inquiryRequestId": asked.InquiryRequestID, "virtualAccountName": name,
		"totalAmount": amount{"150000.00", "IDR"}, "virtualAccountTrxType": "C",
		"additionalInfo": object{"channel": channel, "trxId": "INV-" + asked.CustomerNo},
		"inquiryStatus":  "00", "inquiryReason": object{"english": "Success", "indonesia": "Sukses"},
	}}
}

// answerPayment says yes. A real app marks the invoice as paid first, once for each paymentRequestId.
func answerPayment(body []byte) (int, object) {
	var paid payment
	if json.Unmarshal(body, &paid) != nil || paid.PaymentRequestID == "" || paid.PaidAmount.Value == "" {
		return refusal(http.StatusBadRequest, "25", "00", "Bad Request")
	}
	return http.StatusOK, object{"responseCode": "2002500", "responseMessage": "Successful", "virtualAccountData": paid}
}

// seenCall is a call as the app saw it.
type seenCall struct {
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers"` // names in lower case
	Body    string            `json:"body"`
}

// app has, for tests, the calls seen and the status to answer with. A real app has neither.
type app struct {
	mu     sync.Mutex
	seen   []seenCall
	status int
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, largestBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	status, value := a.answer(r, body)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(value); err != nil {
		fmt.Fprintln(os.Stderr, "the caller has gone:", err)
	}
}

func (a *app) answer(r *http.Request, body []byte) (int, any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch r.RequestURI {
	case "/_calls":
		return http.StatusOK, slices.Clone(a.seen)
	case "/_mode":
		var mode struct {
			Status int `json:"status"`
		}
		if err := json.Unmarshal(body, &mode); err != nil {
			return http.StatusBadRequest, object{"error": err.Error()}
		}
		a.status = mode.Status
		return http.StatusOK, mode
	}
	a.seen = append(a.seen, seenCall{r.Method, r.RequestURI, lowerCase(r.Header), string(body)})
	service, handle := "24", answerInquiry
	switch {
	case r.Method == http.MethodPost && strings.HasSuffix(r.RequestURI, "/transfer-va/inquiry"):
	case r.Method == http.MethodPost && strings.HasSuffix(r.RequestURI, "/transfer-va/payment"):
		service, handle = "25", answerPayment
	default:
		return http.StatusNotFound, object{"error": "not found"}
	}
	if a.status != http.StatusOK {
		return refusal(a.status, service, "00", "General Error")
	}
	return handle(body)
}

func serve(port string) error {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	fmt.Println("listening", listener.Addr())
	server := &http.Server{Handler: &app{seen: []seenCall{}, status: http.StatusOK}, ReadHeaderTimeout: 5 * time.Second}
	return server.Serve(listener)
}
