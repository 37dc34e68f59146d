// Package simulator plays DOKU, for tests and experiments:
//
//   - [Simulator] is a [net/http.Handler], the API that merchants call: tokens, and
//     virtual accounts to create, update, delete and ask for their status;
//   - [Simulator.Pay] plays a customer at the bank: DOKU calls the merchant's inquiry and
//     notification URLs; [Simulator.RunDue] repeats notifications that failed;
//   - [Simulator.Call] sends any other call to the merchant, also a forged one;
//   - [Simulator.SetFault] makes DOKU fail; [Simulator.Exchanges] has what was sent.
//
// It refuses what DOKU's documents rule out, and takes what DOKU's own SDKs send though the
// documents differ; [Behaviour] makes it stricter, or another DOKU that the documents allow.
// Where nothing is known, a comment says what it does. Checks have one order, so that the
// same call always gets the same answer.
//
// It shares no code with the packages that sign and verify: it is written from DOKU's
// pages, so that a mistake on one side shows. A Simulator has no global state; use one per
// test.
package simulator

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/caddy-doku/caddy-doku/simulator/internal/dialect"
)

// Config is the configuration of a [Simulator].
type Config struct {
	Merchant Merchant
	Now      func() time.Time // default: time.Now
	Client   *http.Client     // for calls to the merchant; default: a timeout of 30 s, no redirects
	Observe  func(Exchange)   // called after each exchange, in both directions and concurrently; may be nil

	TokenLife time.Duration // of the B2B tokens that DOKU issues; default: 900 s

	Behaviour Behaviour
}

// Merchant is the merchant as registered with DOKU. Only the URLs may be empty, until DOKU
// calls them.
type Merchant struct {
	ClientID         string
	SecretKey        string
	PublicKey        *rsa.PublicKey  // verifies the merchant's token requests
	DOKUKey          *rsa.PrivateKey // signs DOKU's token requests
	PartnerServiceID string          // prefix of the merchant's numbers, 8 characters, padded with spaces on the left
	TokenURL         string          // the merchant's URLs, as in DOKU's dashboard
	InquiryURL       string
	NotificationURL  string
}

// Exchange is one request with its answer, as on the wire.
type Exchange struct {
	Inbound bool // from the merchant to DOKU; if not, from DOKU to the merchant
	Method  string
	Target  string
	Header  http.Header
	Body    []byte
	Status  int
	Answer  []byte
	Reason  string // why the call failed, for people; not part of the answer

	// Fragile lists the languages whose JSON libraries re-encode the body differently. If
	// DOKU re-encoded bodies in one of them, their hash would differ from the signed one;
	// see [Behaviour.Dialect]. Only calls to DOKU have it.
	Fragile []string
}

// Simulator is DOKU. It is safe for concurrent use.
type Simulator struct {
	cfg Config

	mu          sync.Mutex
	token       string // the latest one issued; no other is valid
	tokenEnds   time.Time
	tokens      int                        // issued so far
	externalIDs map[string]string          // call by WIB day and X-EXTERNAL-ID
	accounts    map[string]*virtualAccount // by number without padding
	serial      int
	bearer      string // the merchant's token for DOKU
	bearerEnds  time.Time
	due         []retry
	faults      map[string]*Fault
	pending     map[string]int // calls being answered, by path
	exchanges   []Exchange
}

// Fault replaces or disturbs DOKU's answers; see [Simulator.SetFault].
type Fault struct {
	Status int // 0 drops the connection without an answer
	Header http.Header
	Body   string
	Times  int // for how many calls; 0 means all

	Delay  time.Duration // before the answer or the drop
	Drip   time.Duration // between the bytes of the answer's body
	Cut    int           // drops the connection after so many bytes of the body; 0 means never
	Normal bool          // sends the usual answer instead of Status, Header and Body
}

const (
	bodyLargest = 1 << 20
	tokenLife   = 900 * time.Second
	tokenPath   = "/authorization/v1/access-token/b2b"
)

// New returns a simulator that knows one merchant. The error says which part of cfg is
// missing or wrong.
func New(cfg Config) (*Simulator, error) {
	m := cfg.Merchant
	if m.ClientID == "" || m.SecretKey == "" || m.PublicKey == nil || m.DOKUKey == nil {
		return nil, errors.New("simulator: the merchant needs client id, secret key, public key and DOKU's private key")
	}
	if len(m.PartnerServiceID) != 8 {
		return nil, fmt.Errorf("simulator: expected a partner service id of 8 characters, found %q", m.PartnerServiceID)
	}
	if err := cfg.Behaviour.validate(); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now //nolint:forbidigo // the default of an injected clock
	}
	if cfg.TokenLife == 0 {
		cfg.TokenLife = tokenLife
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{
			Timeout:       30 * time.Second,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return &Simulator{
		cfg:         cfg,
		externalIDs: make(map[string]string),
		accounts:    make(map[string]*virtualAccount),
		faults:      make(map[string]*Fault),
		pending:     make(map[string]int),
	}, nil
}

// SetMerchantURLs sets the URLs at which DOKU calls the merchant. Tests often know them only
// after the simulator has started.
func (s *Simulator) SetMerchantURLs(token, inquiry, notification string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg.Merchant.TokenURL, s.cfg.Merchant.InquiryURL, s.cfg.Merchant.NotificationURL = token, inquiry, notification
}

// SetFault applies f to the next calls to path. It replaces an earlier fault of that path;
// nil removes it.
func (s *Simulator) SetFault(path string, f *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f == nil {
		delete(s.faults, path)
		return
	}
	copied := *f
	s.faults[path] = &copied
}

// Pending returns the number of calls to path that have no complete answer yet, for example
// because of a fault's delay.
func (s *Simulator) Pending(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending[path]
}

func (s *Simulator) count(path string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending[path] += n
}

// ExpireToken makes the merchant's current B2B token invalid.
func (s *Simulator) ExpireToken() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = ""
}

// Tokens returns the number of B2B tokens issued so far.
func (s *Simulator) Tokens() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tokens
}

// Exchanges returns all exchanges so far, in the order in which they ended. The caller must
// not change headers and bodies.
func (s *Simulator) Exchanges() []Exchange {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Exchange(nil), s.exchanges...)
}

func (s *Simulator) record(e Exchange) {
	s.mu.Lock()
	s.exchanges = append(s.exchanges, e)
	s.mu.Unlock()
	if s.cfg.Observe != nil {
		s.cfg.Observe(e)
	}
}

// fault returns the fault of path, or nil, and counts one call for it.
func (s *Simulator) fault(path string) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.faults[path]
	if f == nil {
		return nil
	}
	if f.Times > 0 {
		if f.Times--; f.Times == 0 {
			delete(s.faults, path)
		}
	}
	copied := *f
	return &copied
}

// reply is an answer. Its body is the JSON object body, or raw if body is nil.
type reply struct {
	status int
	body   map[string]any
	raw    string
	reason string
}

// refuse returns a reply with an error; reason is for the record only.
func refuse(status int, service, number, message, reason string) reply {
	return reply{status: status, reason: reason, body: map[string]any{
		"responseCode": fmt.Sprintf("%d%s%s", status, service, number), "responseMessage": message,
	}}
}

func success(service string) map[string]any {
	return map[string]any{"responseCode": "200" + service + "00", "responseMessage": "Successful"}
}

// ServeHTTP answers a call to DOKU's API.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.count(r.URL.Path, 1)
	defer s.count(r.URL.Path, -1)
	e := Exchange{Inbound: true, Method: r.Method, Target: r.RequestURI, Header: r.Header.Clone()}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLargest))
	e.Body, e.Fragile = body, dialect.Differing(body)
	f := s.fault(r.URL.Path)
	if f == nil {
		f = &Fault{Normal: true}
	}
	if !pause(r.Context(), f.Delay) {
		e.Reason = "the caller closed the connection"
		s.record(e)
		return
	}
	var answer reply
	switch {
	case err != nil:
		answer = refuse(http.StatusBadRequest, "00", "00", "Bad Request", err.Error())
	case f.Normal:
		answer = s.route(r, body)
	case f.Status == 0:
		e.Reason = "fault: connection dropped"
		s.record(e)
		panic(http.ErrAbortHandler)
	default:
		answer = reply{status: f.Status, raw: f.Body, reason: "fault"}
		maps.Copy(w.Header(), f.Header)
	}
	e.Status, e.Answer, e.Reason = answer.status, []byte(answer.raw), answer.reason
	if answer.body != nil {
		s.behaviour().render(answer.body)
		if e.Answer, err = encode(answer.body); err != nil {
			panic(err) // maps of strings, numbers and decoded JSON always encode
		}
		w.Header().Set("Content-Type", "application/json")
	}
	w.Header().Set("X-TIMESTAMP", s.timestamp())
	if w.Header().Get("Date") == "" {
		w.Header().Set("Date", s.cfg.Now().UTC().Format(http.TimeFormat))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(e.Answer)))
	s.record(e)
	w.WriteHeader(answer.status)
	s.write(r.Context(), w, e.Answer, f)
}

// write sends the body of an answer, at once unless f has a drip or cut.
func (s *Simulator) write(ctx context.Context, w http.ResponseWriter, body []byte, f *Fault) {
	if f.Cut > 0 && f.Cut < len(body) {
		_, _ = w.Write(body[:f.Cut]) // the caller may be gone
		panic(http.ErrAbortHandler)
	}
	if f.Drip == 0 {
		_, _ = w.Write(body)
		return
	}
	for i := range body {
		if _, err := w.Write(body[i : i+1]); err != nil || http.NewResponseController(w).Flush() != nil || !pause(ctx, f.Drip) {
			return
		}
	}
}

// pause waits for d and reports whether ctx is still valid.
func pause(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return true
	}
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// operations are those of the API, by the exact path: DOKU's pages have several forms, and no
// other is known.
var operations = []struct {
	path, method, service string
	old                   bool // only on older pages, or in examples
	run                   func(*Simulator, map[string]any) reply
}{
	{"/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va", http.MethodPost, "27", false, (*Simulator).create},
	{"/virtual-accounts/bi-snap-va/v1.1/transfer-va/update-va", http.MethodPut, "28", false, (*Simulator).update},
	{"/virtual-accounts/bi-snap-va/v1.1/transfer-va/delete-va", http.MethodDelete, "31", false, (*Simulator).remove},
	{"/orders/v1.0/transfer-va/status", http.MethodPost, "26", false, (*Simulator).status},

	{"/virtual-accounts/bi-snap-va/v1/transfer-va/create-va", http.MethodPost, "27", true, (*Simulator).create},
	{"/virtual-accounts/bi-snap-va/v1/transfer-va/update-va", http.MethodPut, "28", true, (*Simulator).update},
	{"/virtual-accounts/bi-snap-va/v1/transfer-va/delete-va", http.MethodDelete, "31", true, (*Simulator).remove},
	{"/bi-snap-va/v1/transfer-va/create-va", http.MethodPost, "27", true, (*Simulator).create},
	{"/bi-snap-va/v1/transfer-va/update-va", http.MethodPut, "28", true, (*Simulator).update},
	{"/bi-snap-va/v1/transfer-va/delete-va", http.MethodDelete, "31", true, (*Simulator).remove},
	{"/virtual-accounts/bi-snap-va/bnc/v1/transfe-va/create-va", http.MethodPost, "27", true, (*Simulator).create}, // sic
	{"/v1.0/transfer-va/status", http.MethodPost, "26", true, (*Simulator).status},
}

func (s *Simulator) route(r *http.Request, body []byte) reply {
	path := r.URL.EscapedPath()
	if path == tokenPath {
		if r.Method != http.MethodPost {
			return refuse(http.StatusMethodNotAllowed, "73", "00", "Requested Function Is Not Supported", "method "+r.Method)
		}
		return s.issueToken(r.Header, body)
	}
	for _, op := range operations {
		if path != op.path || op.old && s.behaviour().Strict {
			continue
		}
		if r.Method != op.method {
			return refuse(http.StatusMethodNotAllowed, op.service, "00", "Requested Function Is Not Supported",
				"expected "+op.method+", found "+r.Method)
		}
		if refused := s.check(r, body, op.service); refused != nil {
			return *refused
		}
		var fields map[string]any
		if err := json.Unmarshal(body, &fields); err != nil || fields == nil {
			return refuse(http.StatusBadRequest, op.service, "00", "Bad Request", fmt.Sprint("body: expected a JSON object: ", err))
		}
		return op.run(s, fields)
	}
	return refuse(http.StatusNotFound, "00", "00", "Not Found", "no such path: "+path)
}

// issueToken answers "Get Token B2B". A new token invalidates the one before: DOKU says
// that it processes only the latest.
func (s *Simulator) issueToken(h http.Header, body []byte) reply {
	if refused := s.checkTokenRequest(h, body); refused != nil {
		return *refused
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token, s.tokenEnds = "sim."+rand.Text()+rand.Text(), s.cfg.Now().Add(s.cfg.TokenLife)
	s.tokens++
	answer := success("73")
	answer["accessToken"] = s.token
	answer["tokenType"] = "Bearer"
	answer["expiresIn"] = int(s.cfg.TokenLife.Seconds())
	answer["additionalInfo"] = ""
	return reply{status: http.StatusOK, body: answer}
}

// wib is the zone of DOKU's days.
var wib = time.FixedZone("WIB", 7*3600)

func (s *Simulator) timestamp() string {
	return s.cfg.Now().In(wib).Format("2006-01-02T15:04:05-07:00")
}
