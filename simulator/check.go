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
	"net/http"
	"regexp"
	"strings"
	"time"
)

// clockTolerance is the simulator's choice; DOKU's is not documented.
const clockTolerance = 15 * time.Minute

var (
	numeric = regexp.MustCompile(`^[0-9]{1,36}$`)
	channel = regexp.MustCompile(`^[A-Za-z0-9]{1,5}$`)
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

// checkTime returns the reason to refuse a timestamp, or "".
func (s *Simulator) checkTime(text string) string {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return fmt.Sprintf("X-TIMESTAMP %q is not ISO 8601 with seconds and offset", text)
	}
	if d := s.cfg.Now().Sub(t).Abs(); d > clockTolerance {
		return fmt.Sprintf("X-TIMESTAMP %s is %s off", text, d)
	}
	return ""
}

// checkTokenRequest checks the asymmetric signature: SHA256withRSA over
// client_ID + "|" + X-TIMESTAMP, base64.
func (s *Simulator) checkTokenRequest(h http.Header, body []byte) *reply {
	headers := map[string]string{}
	for _, name := range []string{"X-CLIENT-KEY", "X-TIMESTAMP", "X-SIGNATURE"} {
		value, wrong := single(h, name)
		if wrong != "" {
			return new(refuse(http.StatusBadRequest, "73", "02", "Invalid Mandatory Field "+name, wrong))
		}
		headers[name] = value
	}
	var fields struct {
		GrantType string `json:"grantType"`
	}
	if err := json.Unmarshal(body, &fields); err != nil || fields.GrantType != "client_credentials" {
		return new(refuse(http.StatusBadRequest, "73", "02", "Invalid Mandatory Field grantType", "grantType is not client_credentials"))
	}
	if wrong := s.checkTime(headers["X-TIMESTAMP"]); wrong != "" {
		return new(refuse(http.StatusBadRequest, "73", "01", "Invalid Field Format X-TIMESTAMP", wrong))
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

// check checks the six headers of every other call, strictly.
func (s *Simulator) check(r *http.Request, body []byte, service string) *reply {
	headers := map[string]string{}
	for _, name := range []string{"X-TIMESTAMP", "X-SIGNATURE", "X-PARTNER-ID", "X-EXTERNAL-ID", "CHANNEL-ID", "Authorization"} {
		value, wrong := single(r.Header, name)
		if wrong != "" {
			return new(refuse(http.StatusBadRequest, service, "02", "Invalid Mandatory Field "+name, wrong))
		}
		headers[name] = value
	}
	if wrong := s.checkTime(headers["X-TIMESTAMP"]); wrong != "" {
		return new(refuse(http.StatusBadRequest, service, "01", "Invalid Field Format X-TIMESTAMP", wrong))
	}
	for name, form := range map[string]*regexp.Regexp{"X-EXTERNAL-ID": numeric, "CHANNEL-ID": channel} {
		if !form.MatchString(headers[name]) {
			return new(refuse(http.StatusBadRequest, service, "01", "Invalid Field Format "+name, fmt.Sprintf("%s is %q", name, headers[name])))
		}
	}
	if headers["X-PARTNER-ID"] != s.cfg.Merchant.ClientID {
		return new(refuse(http.StatusUnauthorized, service, "00", "Unauthorized. [Unknown client]", "X-PARTNER-ID "+headers["X-PARTNER-ID"]))
	}
	token, isBearer := strings.CutPrefix(headers["Authorization"], "Bearer ")
	s.mu.Lock()
	valid := isBearer && token != "" && token == s.token && s.cfg.Now().Before(s.tokenEnds)
	s.mu.Unlock()
	if !valid {
		return new(refuse(http.StatusUnauthorized, service, "01", "Invalid Token (B2B)", "not the latest token, or it has expired"))
	}
	toSign := toSign(r.Method, r.RequestURI, token, body, headers["X-TIMESTAMP"])
	raw, err := base64.StdEncoding.Strict().DecodeString(headers["X-SIGNATURE"])
	if err != nil || !hmac.Equal(raw, s.mac(toSign)) {
		return new(refuse(http.StatusUnauthorized, service, "00", "Unauthorized. [Signature]", "the string to sign here is "+toSign))
	}
	if service == "26" {
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
