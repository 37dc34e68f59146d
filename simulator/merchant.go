package simulator

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Reasons for the bank to refuse a payment. Test for them with [errors.Is].
var (
	ErrNotFound = errors.New("no such virtual account")
	ErrAmount   = errors.New("the virtual account does not accept this amount")
	ErrExpired  = errors.New("the virtual account has expired or is inactive")
	ErrPaid     = errors.New("the virtual account is paid already")
	ErrMerchant = errors.New("the merchant's answer is wrong")
)

// Receipt is the result of a payment.
type Receipt struct {
	PaymentRequestID string
	Inquired         bool   // DOKU asked the merchant for the bill first (DIPC)
	Notification     Answer // to the first attempt
}

// Answer is the merchant's answer to a DOKU call.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// OK reports whether the call succeeded for DOKU, which looks at the HTTP status only: any
// 2xx.
func (a Answer) OK() bool { return 200 <= a.Status && a.Status < 300 }

// retry is a notification that the merchant has not acknowledged.
type retry struct {
	first      time.Time
	next       int // index into retryAfter
	externalID string
	body       []byte
}

// retryAfter are the times of DOKU's retries, counted from the first attempt
// ("Retry Notification").
var retryAfter = []time.Duration{30 * time.Minute, 6 * time.Hour, 12 * time.Hour}

// Pay plays a customer who pays value, such as "10000.00", at the bank. If DOKU does not
// hold the virtual account and its number has the merchant's prefix, DOKU asks the merchant
// for the bill (DIPC). Then DOKU notifies the merchant, and keeps a notification that the
// merchant does not answer with 2xx; see [Simulator.RunDue]. The error is nil for any HTTP
// status of that answer.
func (s *Simulator) Pay(ctx context.Context, virtualAccountNo, value string) (Receipt, error) {
	paid, ok := amount(value)
	if !ok {
		return Receipt{}, fmt.Errorf("%w: %q is not an amount such as 10000.00", ErrAmount, value)
	}
	receipt := Receipt{PaymentRequestID: "SIM" + rand.Text()}
	s.mu.Lock()
	va := s.accounts[number(virtualAccountNo)]
	var body map[string]any
	var err error
	if va != nil {
		body, err = va.charge(s.cfg.Now(), paid, value, receipt.PaymentRequestID)
	}
	s.mu.Unlock()
	if va == nil {
		receipt.Inquired = true
		receipt.PaymentRequestID = "DIPC" + receipt.PaymentRequestID
		body, err = s.inquire(ctx, virtualAccountNo, receipt.PaymentRequestID, paid)
	}
	if err != nil {
		return receipt, err
	}
	body["paymentRequestId"] = receipt.PaymentRequestID
	body["paidAmount"] = map[string]any{"value": value, "currency": "IDR"}
	text, err := encode(body)
	if err != nil {
		return receipt, err
	}
	r := retry{first: s.cfg.Now(), externalID: "VA" + rand.Text(), body: text}
	receipt.Notification, err = s.notify(ctx, r)
	return receipt, err
}

// charge books a payment on a VA that DOKU holds and returns the members of the
// notification that are the VA's.
func (va *virtualAccount) charge(now time.Time, paid *big.Rat, value, requestID string) (map[string]any, error) {
	switch {
	case va.inactive || !va.expires.IsZero() && !now.Before(va.expires):
		return nil, ErrExpired
	case len(va.paid) > 0 && !va.reusable:
		return nil, ErrPaid
	case !va.terms.accept(paid):
		return nil, ErrAmount
	}
	va.paid = append(va.paid, payment{requestID, value})
	body := map[string]any{}
	for _, name := range []string{
		"partnerServiceId", "customerNo", "virtualAccountNo", "virtualAccountName", "virtualAccountEmail", "virtualAccountPhone",
		"trxId", "virtualAccountTrxType",
	} {
		if v, given := va.data[name]; given {
			body[name] = v
		}
	}
	body["additionalInfo"] = map[string]any{"channel": text(object(va.data, "additionalInfo"), "channel")}
	return body, nil
}

// inquire asks the merchant for the bill behind a number (service 24).
func (s *Simulator) inquire(ctx context.Context, virtualAccountNo, requestID string, paid *big.Rat) (map[string]any, error) {
	prefix := s.cfg.Merchant.PartnerServiceID
	customer, ok := strings.CutPrefix(number(virtualAccountNo), strings.TrimSpace(prefix))
	if !ok || !digitsUpTo20.MatchString(customer) {
		return nil, ErrNotFound
	}
	asked := map[string]any{
		"partnerServiceId": prefix, "customerNo": customer, "virtualAccountNo": prefix + customer,
		"trxDateInit": s.timestamp(), "channelCode": "6011", "language": "ID", "inquiryRequestId": requestID,
		"additionalInfo": map[string]any{"channel": "VIRTUAL_ACCOUNT_BANK_PERMATA"},
	}
	body, err := encode(asked)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	to := s.cfg.Merchant.InquiryURL
	s.mu.Unlock()
	answer, err := s.Call(ctx, Outgoing{URL: to, Body: body, ExternalID: "VIRTUAL_ACCOUNT" + rand.Text()})
	if err != nil {
		return nil, err
	}
	var read struct {
		ResponseCode string         `json:"responseCode"`
		Data         map[string]any `json:"virtualAccountData"`
	}
	if err := json.Unmarshal(answer.Body, &read); err != nil || !answer.OK() || read.ResponseCode != "2002400" {
		return nil, fmt.Errorf("%w: inquiry: expected HTTP 2xx and response code 2002400, found HTTP %d and %q",
			ErrMerchant, answer.Status, read.ResponseCode)
	}
	for _, name := range []string{"partnerServiceId", "customerNo", "virtualAccountNo", "inquiryRequestId"} {
		if read.Data[name] != asked[name] {
			return nil, fmt.Errorf("%w: inquiry: expected the same %s as in the request, %q, found %v",
				ErrMerchant, name, asked[name], read.Data[name])
		}
	}
	t, absent, wrong := s.behaviour().readTerms(read.Data)
	if absent+wrong != "" {
		return nil, fmt.Errorf("%w: inquiry: %s is missing or wrong", ErrMerchant, absent+wrong)
	}
	if !t.accept(paid) {
		return nil, ErrAmount
	}
	data := read.Data
	trxID := text(object(data, "additionalInfo"), "trxId")
	if trxID == "" {
		return nil, fmt.Errorf("%w: inquiry: additionalInfo.trxId is missing", ErrMerchant)
	}
	return map[string]any{
		"partnerServiceId": prefix, "customerNo": customer, "virtualAccountNo": prefix + customer,
		"virtualAccountName": data["virtualAccountName"], "trxId": trxID, "virtualAccountTrxType": t.trxType,
		"additionalInfo": map[string]any{"channel": "VIRTUAL_ACCOUNT_BANK_PERMATA"},
	}, nil
}

// notify sends a notification. If the merchant does not acknowledge it, notify schedules
// the next attempt. Retries keep the X-EXTERNAL-ID; DOKU does not document whether its do.
func (s *Simulator) notify(ctx context.Context, r retry) (Answer, error) {
	s.mu.Lock()
	to := s.cfg.Merchant.NotificationURL
	s.mu.Unlock()
	answer, err := s.Call(ctx, Outgoing{URL: to, Body: r.body, ExternalID: r.externalID})
	if (err != nil || !answer.OK()) && r.next < len(retryAfter) {
		s.mu.Lock()
		s.due = append(s.due, r)
		s.mu.Unlock()
	}
	return answer, err
}

// RunDue repeats the notifications whose next attempt is due by [Config].Now: 30 minutes, 6
// hours and 12 hours after the first attempt. It returns the merchant's answers. The error
// joins those of all attempts without an answer.
func (s *Simulator) RunDue(ctx context.Context) ([]Answer, error) {
	now := s.cfg.Now()
	s.mu.Lock()
	var ready, later []retry
	for _, r := range s.due {
		if now.Before(r.first.Add(retryAfter[r.next])) {
			later = append(later, r)
		} else {
			ready = append(ready, r)
		}
	}
	s.due = later
	s.mu.Unlock()
	var answers []Answer
	var errs []error
	for _, r := range ready {
		r.next++
		answer, err := s.notify(ctx, r)
		answers, errs = append(answers, answer), append(errs, err)
	}
	return answers, errors.Join(errs...)
}

// Due returns the number of notifications that wait for their next attempt.
func (s *Simulator) Due() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.due)
}

// Outgoing is a DOKU call to the merchant.
type Outgoing struct {
	URL        string
	Body       []byte
	ExternalID string // default: a random one

	Bearer    string // default: a token that the merchant issues
	Timestamp string // default: now

	// The default is an HMAC with a token. Tokenless signs with an empty token and sends no
	// Authorization. Asymmetric signs with DOKU's RSA key, as DOKU did in the past.
	Tokenless, Asymmetric bool

	// For tests of forged calls. Sent is the body on the wire, in place of the signed Body.
	// Mutate changes the request after it is signed. Both may be nil.
	Sent   []byte
	Mutate func(*http.Request)
}

// Call signs out and sends it to the merchant. It asks the merchant for a token first if it
// needs a new one. The error is nil for any HTTP status of the answer.
func (s *Simulator) Call(ctx context.Context, out Outgoing) (Answer, error) {
	var err error
	if out.Bearer == "" && !out.Tokenless && !out.Asymmetric {
		if out.Bearer, err = s.merchantToken(ctx); err != nil {
			return Answer{}, err
		}
	}
	if out.ExternalID == "" {
		out.ExternalID = rand.Text()
	}
	if out.Timestamp == "" {
		out.Timestamp = s.timestamp()
	}
	u, err := url.Parse(out.URL)
	if err != nil {
		return Answer{}, fmt.Errorf("merchant's URL: %w", err)
	}
	if out.Sent == nil {
		out.Sent = out.Body
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, out.URL, bytes.NewReader(out.Sent))
	if err != nil {
		return Answer{}, fmt.Errorf("calling the merchant: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-TIMESTAMP", out.Timestamp)
	req.Header.Set("X-PARTNER-ID", s.cfg.Merchant.ClientID)
	req.Header.Set("X-EXTERNAL-ID", out.ExternalID)
	if out.Bearer != "" {
		req.Header.Set("Authorization", "Bearer "+out.Bearer)
	}
	if out.Asymmetric {
		signature, err := s.signAsymmetric(http.MethodPost, u.RequestURI(), out.Body, out.Timestamp)
		if err != nil {
			return Answer{}, err
		}
		req.Header.Set("X-SIGNATURE", signature)
	} else {
		req.Header.Set("CHANNEL-ID", "VA004")
		req.Header.Set("X-SIGNATURE", base64.StdEncoding.EncodeToString(
			s.mac(toSign(http.MethodPost, u.RequestURI(), out.Bearer, out.Body, out.Timestamp))))
	}
	if out.Mutate != nil {
		out.Mutate(req)
	}
	return s.send(req, out.Sent)
}

// RequestToken asks the merchant for a token (service 73). mutate changes the request after
// it is signed; it may be nil.
func (s *Simulator) RequestToken(ctx context.Context, mutate func(*http.Request)) (Answer, error) {
	s.mu.Lock()
	to := s.cfg.Merchant.TokenURL
	s.mu.Unlock()
	body := []byte(`{"grantType":"client_credentials"}`)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return Answer{}, fmt.Errorf("asking the merchant for a token: %w", err)
	}
	timestamp := s.timestamp()
	signature, err := s.signTokenRequest(timestamp)
	if err != nil {
		return Answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-CLIENT-KEY", s.cfg.Merchant.ClientID)
	req.Header.Set("X-TIMESTAMP", timestamp)
	req.Header.Set("X-SIGNATURE", signature)
	if mutate != nil {
		mutate(req)
	}
	return s.send(req, body)
}

// merchantToken returns a valid token of the merchant. It asks for a new one if necessary.
func (s *Simulator) merchantToken(ctx context.Context) (string, error) {
	s.mu.Lock()
	token, valid := s.bearer, s.cfg.Now().Before(s.bearerEnds)
	s.mu.Unlock()
	if valid {
		return token, nil
	}
	answer, err := s.RequestToken(ctx, nil)
	if err != nil {
		return "", err
	}
	var read struct {
		AccessToken string `json:"accessToken"`
		ExpiresIn   any    `json:"expiresIn"` // a number or a string
	}
	if err := json.Unmarshal(answer.Body, &read); err != nil || !answer.OK() || read.AccessToken == "" {
		return "", fmt.Errorf("%w: token request answered HTTP %d: %.200s", ErrMerchant, answer.Status, answer.Body)
	}
	seconds, err := strconv.ParseFloat(fmt.Sprint(read.ExpiresIn), 64)
	if err != nil {
		return "", fmt.Errorf("%w: token request: expected expiresIn in seconds, found %v", ErrMerchant, read.ExpiresIn)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bearer, s.bearerEnds = read.AccessToken, s.cfg.Now().Add(time.Duration(seconds)*time.Second)
	return s.bearer, nil
}

// send sends a call and records the exchange.
func (s *Simulator) send(req *http.Request, body []byte) (Answer, error) {
	e := Exchange{Method: req.Method, Target: req.URL.RequestURI(), Header: req.Header.Clone(), Body: body}
	resp, err := s.cfg.Client.Do(req)
	if err != nil {
		e.Reason = err.Error()
		s.record(e)
		return Answer{}, fmt.Errorf("calling the merchant: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, bodyLargest))
	e.Status, e.Answer = resp.StatusCode, answer
	s.record(e)
	if err != nil {
		return Answer{}, fmt.Errorf("reading the merchant's answer: %w", err)
	}
	return Answer{resp.StatusCode, resp.Header, answer}, nil
}

// encode encodes a body without HTML escapes, as DOKU does.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

// Bank returns a handler for people with curl, who play the customer:
//
//	POST /pay {"virtualAccountNo":"…","amount":"10000.00"}
//	POST /retry
//
// It calls [Simulator.Pay] and [Simulator.RunDue]. It has no protection; serve it on a
// loopback address only.
func (s *Simulator) Bank() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /pay", func(w http.ResponseWriter, r *http.Request) {
		var asked struct {
			VirtualAccountNo string `json:"virtualAccountNo"`
			Amount           string `json:"amount"`
		}
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, bodyLargest)).Decode(&asked); err != nil {
			http.Error(w, `expected {"virtualAccountNo":"…","amount":"10000.00"}: `+err.Error(), http.StatusBadRequest)
			return
		}
		receipt, err := s.Pay(r.Context(), asked.VirtualAccountNo, asked.Amount)
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		fmt.Fprintf(w, "paid as %s; the merchant answered the notification with HTTP %d:\n%s\n",
			receipt.PaymentRequestID, receipt.Notification.Status, receipt.Notification.Body)
	})
	mux.HandleFunc("POST /retry", func(w http.ResponseWriter, r *http.Request) {
		answers, err := s.RunDue(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprintf(w, "%d notifications sent again, %d not due yet\n", len(answers), s.Due())
	})
	return mux
}

// Resend sends a waiting notification at once, as a manual resend in DOKU's Back Office does.
// If it fails, its next attempt is due as before. The error wraps [ErrNotFound] if no
// notification with this paymentRequestId waits.
func (s *Simulator) Resend(ctx context.Context, paymentRequestID string) (Answer, error) {
	s.mu.Lock()
	var found *retry
	for i, r := range s.due {
		if bytes.Contains(r.body, []byte(`"`+paymentRequestID+`"`)) {
			found = &r
			s.due = append(s.due[:i:i], s.due[i+1:]...)
			break
		}
	}
	s.mu.Unlock()
	if found == nil {
		return Answer{}, fmt.Errorf("%w: no notification of %s waits for a retry", ErrNotFound, paymentRequestID)
	}
	return s.notify(ctx, *found)
}
