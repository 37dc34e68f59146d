package simulator

import (
	"bytes"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// Tolerances are the simulator's choice; see [Behaviour.Strict].
const (
	oldest, oldestStrict = 15 * time.Minute, 10 * time.Minute
	future               = 5 * time.Second
)

var (
	visible   = regexp.MustCompile(`^[[:graph:]]{1,128}$`)
	numeric   = regexp.MustCompile(`^[0-9]{1,36}$`)
	channel   = regexp.MustCompile(`^[A-Za-z0-9]{1,5}$`)
	anyText   = regexp.MustCompile(`^[[:print:]]{1,255}$`)
	timestamp = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$`)
)

// single returns the value of a header that a call must have exactly once, or a reason.
func single(h http.Header, name string) (string, string) {
	switch values := h.Values(name); {
	case len(values) == 0 || values[0] == "":
		return "", name + " is missing"
	case len(values) > 1:
		return "", fmt.Sprintf("%s is there %d times", name, len(values))
	default:
		return values[0], ""
	}
}

// headers are those that a call must have, in the order of DOKU's tables.
var (
	tokenHeaders = []string{"Content-Type", "X-CLIENT-KEY", "X-TIMESTAMP", "X-SIGNATURE"}
	callHeaders  = []string{
		"Content-Type", "X-TIMESTAMP", "X-SIGNATURE", "X-PARTNER-ID", "X-EXTERNAL-ID", "CHANNEL-ID", "Authorization",
	}
)

// optional reports whether a call may come without a header. DOKU's sample of a status call
// has no CHANNEL-ID, nor has its Java SDK.
func (b Behaviour) optional(header, service string) bool {
	return header == "CHANNEL-ID" && (!b.Strict || service == "26")
}

// readHeaders returns the headers of a call, or the refusal of the first that is missing
// or there twice, or else of the first in a wrong form.
func (s *Simulator) readHeaders(h http.Header, names []string, service string) (map[string]string, *reply) {
	b, headers := s.behaviour(), make(map[string]string)
	for _, name := range names {
		if len(h.Values(name)) <= 1 && h.Get(name) == "" && b.optional(name, service) {
			continue
		}
		value, wrong := single(h, name)
		if wrong != "" {
			return nil, new(refuse(http.StatusBadRequest, service, "02", "Invalid Mandatory Field "+name, wrong))
		}
		headers[name] = value
	}
	for _, name := range names {
		if value, given := headers[name]; given {
			if wrong := b.checkForm(name, value, s.cfg.Now()); wrong != "" {
				return nil, new(refuse(http.StatusBadRequest, service, "01", "Invalid Field Format "+name, wrong))
			}
		}
	}
	return headers, nil
}

// checkForm returns the reason to refuse the value of a header, or "".
func (b Behaviour) checkForm(name, value string, now time.Time) string {
	form := anyText
	switch name {
	case "Content-Type":
		return checkContentType(value)
	case "X-TIMESTAMP":
		return b.checkTime(value, now)
	case "X-EXTERNAL-ID":
		if form = visible; b.Strict {
			form = numeric
		}
	case "CHANNEL-ID":
		if b.Strict {
			form = channel
		}
	default:
		return "" // compared later
	}
	if form.MatchString(value) {
		return ""
	}
	return fmt.Sprintf("%s is %q", name, value)
}

// checkContentType returns the reason to refuse a Content-Type, or "". DOKU's pages have
// application/json.
func checkContentType(value string) string {
	kind, parameters, err := mime.ParseMediaType(value)
	charset := strings.ToLower(parameters["charset"])
	if err != nil || kind != "application/json" || charset != "" && charset != "utf-8" && charset != "utf8" {
		return fmt.Sprintf("expected application/json in UTF-8, found %q", value)
	}
	return ""
}

// checkTime returns the reason to refuse a timestamp, or "".
func (b Behaviour) checkTime(text string, now time.Time) string {
	found := timestamp.FindStringSubmatch(text)
	t, err := time.Parse(time.RFC3339, text)
	if found == nil || err != nil || b.Strict && found[1] != "" {
		return fmt.Sprintf("X-TIMESTAMP %q is not ISO 8601 with seconds and offset", text)
	}
	before, ahead := oldest, future
	if b.Strict {
		before, ahead = oldestStrict, 0
	}
	switch d := now.Sub(t); {
	case d > before:
		return fmt.Sprintf("X-TIMESTAMP %s is %s old", text, d)
	case -d > ahead:
		return fmt.Sprintf("X-TIMESTAMP %s is %s in the future", text, -d)
	}
	return ""
}

// checkTokenRequest checks the asymmetric signature: SHA256withRSA over
// client_ID + "|" + X-TIMESTAMP, base64.
func (s *Simulator) checkTokenRequest(h http.Header, body []byte) *reply {
	headers, refused := s.readHeaders(h, tokenHeaders, "73")
	if refused != nil {
		return refused
	}
	var fields struct {
		GrantType string `json:"grantType"`
	}
	if err := json.Unmarshal(body, &fields); err != nil {
		return new(refuse(http.StatusBadRequest, "73", "00", "Bad Request", "body: "+err.Error()))
	}
	if fields.GrantType != "client_credentials" {
		return new(refuse(http.StatusBadRequest, "73", "02", "Invalid Mandatory Field grantType", "grantType is not client_credentials"))
	}
	if headers["X-CLIENT-KEY"] != s.cfg.Merchant.ClientID {
		return new(refuse(http.StatusUnauthorized, "73", "00", "Unauthorized. [Unknown client]", "X-CLIENT-KEY "+headers["X-CLIENT-KEY"]))
	}
	sum := sha256.Sum256([]byte(headers["X-CLIENT-KEY"] + "|" + headers["X-TIMESTAMP"]))
	raw, err := base64.StdEncoding.Strict().DecodeString(headers["X-SIGNATURE"])
	if err == nil {
		err = rsa.VerifyPKCS1v15(s.cfg.Merchant.PublicKey, crypto.SHA256, sum[:], raw)
	}
	if err != nil {
		return new(refuse(http.StatusUnauthorized, "73", "00", "Unauthorized. [Signature]", err.Error()))
	}
	return nil
}

// check checks every other call: headers, client, token, signature, and whether the id is new.
func (s *Simulator) check(r *http.Request, body []byte, service string) *reply {
	b := s.behaviour()
	headers, refused := s.readHeaders(r.Header, callHeaders, service)
	if refused != nil {
		return refused
	}
	if headers["X-PARTNER-ID"] != s.cfg.Merchant.ClientID {
		return new(refuse(http.StatusUnauthorized, service, "00", "Unauthorized. [Unknown client]", "X-PARTNER-ID "+headers["X-PARTNER-ID"]))
	}
	scheme, token, _ := strings.Cut(headers["Authorization"], " ")
	token = strings.TrimLeft(token, " ")
	isBearer := strings.EqualFold(scheme, "Bearer") // any case: RFC 9110 §11.1
	s.mu.Lock()
	valid := isBearer && token != "" && token == s.token && s.cfg.Now().Before(s.tokenEnds)
	s.mu.Unlock()
	if !valid {
		return new(refuse(http.StatusUnauthorized, service, "01", "Invalid Token (B2B)", "not the latest token, or it has expired"))
	}
	toSign := toSign(r.Method, r.RequestURI, token, b.read(body), headers["X-TIMESTAMP"])
	raw, err := base64.StdEncoding.Strict().DecodeString(headers["X-SIGNATURE"])
	if err != nil || !hmac.Equal(raw, s.mac(toSign)) {
		return new(refuse(http.StatusUnauthorized, service, "00", "Unauthorized. [Signature]", "the string to sign here is "+toSign))
	}
	if service == "26" && !b.Strict {
		return nil // a repeated question is harmless; DOKU does not document whether it refuses one
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := s.cfg.Now().In(wib).Format(time.DateOnly) + " " + headers["X-EXTERNAL-ID"]
	if s.externalIDs[key] != "" {
		return new(refuse(http.StatusConflict, service, "00", "Conflict", "X-EXTERNAL-ID was used today for "+s.externalIDs[key]))
	}
	s.externalIDs[key] = r.Method + " " + r.RequestURI
	return nil
}

// toSign is HTTPMethod + ":" + EndpointUrl + ":" + AccessToken + ":" +
// Lowercase(HexEncode(SHA-256(minify(RequestBody)))) + ":" + TimeStamp.
func toSign(method, endpoint, token string, body []byte, timestamp string) string {
	sum := sha256.Sum256(minify(body))
	return strings.Join([]string{method, endpoint, token, strings.ToLower(hex.EncodeToString(sum[:])), timestamp}, ":")
}

// minify removes the white space between tokens; a body that is not JSON stays.
func minify(body []byte) []byte {
	var b bytes.Buffer
	if json.Compact(&b, body) != nil {
		return body
	}
	return b.Bytes()
}

func (s *Simulator) mac(text string) []byte {
	h := hmac.New(sha512.New, []byte(s.cfg.Merchant.SecretKey))
	h.Write([]byte(text))
	return h.Sum(nil)
}

// signAsymmetric is SHA256withRSA over HTTPMethod + ":" + EndpointUrl + ":" +
// Lowercase(HexEncode(SHA-256(minify(RequestBody)))) + ":" + TimeStamp.
func (s *Simulator) signAsymmetric(method, endpoint string, body []byte, timestamp string) (string, error) {
	hashed := sha256.Sum256(minify(body))
	sum := sha256.Sum256([]byte(strings.Join([]string{method, endpoint, hex.EncodeToString(hashed[:]), timestamp}, ":")))
	raw, err := rsa.SignPKCS1v15(rand.Reader, s.cfg.Merchant.DOKUKey, crypto.SHA256, sum[:])
	return base64.StdEncoding.EncodeToString(raw), err
}

// signTokenRequest signs DOKU's own token requests.
func (s *Simulator) signTokenRequest(timestamp string) (string, error) {
	sum := sha256.Sum256([]byte(s.cfg.Merchant.ClientID + "|" + timestamp))
	raw, err := rsa.SignPKCS1v15(rand.Reader, s.cfg.Merchant.DOKUKey, crypto.SHA256, sum[:])
	return base64.StdEncoding.EncodeToString(raw), err
}
