package snap

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

// Case is a case code: the result of a call as an HTTP status, and two digits that
// distinguish the cases of one status.
type Case struct {
	Status  int    // HTTP status
	Number  int    // 0 to 99
	Message string // the standard's wording; some cases take a detail in brackets
}

// The cases that the sidecar answers with. The wording is the standard's
// ("HTTP Status and Case Code" on DOKU's pages); callers must look at
// the code only.
var (
	Successful         = Case{http.StatusOK, 0, "Successful"}
	BadRequest         = Case{http.StatusBadRequest, 0, "Bad Request"}
	InvalidFieldFormat = Case{http.StatusBadRequest, 1, "Invalid Field Format"}
	InvalidMandatory   = Case{http.StatusBadRequest, 2, "Invalid Mandatory Field"}
	Unauthorized       = Case{http.StatusUnauthorized, 0, "Unauthorized. [Signature]"}
	UnknownClient      = Case{http.StatusUnauthorized, 0, "Unauthorized. [Unknown client]"}
	InvalidToken       = Case{http.StatusUnauthorized, 1, "Invalid Token (B2B)"}
	NotAllowed         = Case{http.StatusForbidden, 1, "Feature Not Allowed"}
	NotFound           = Case{http.StatusNotFound, 0, "Not Found"}
	MethodNotAllowed   = Case{http.StatusMethodNotAllowed, 0, "Requested Function Is Not Supported"}
	Conflict           = Case{http.StatusConflict, 0, "Conflict"}
	BodyTooLarge       = Case{http.StatusRequestEntityTooLarge, 0, "Request Entity Too Large"}
	Unprocessable      = Case{http.StatusUnprocessableEntity, 0, "Unprocessable Request"}
	GeneralError       = Case{http.StatusInternalServerError, 0, "General Error"}
	ExternalError      = Case{http.StatusInternalServerError, 2, "External Server Error"}
	Unavailable        = Case{http.StatusServiceUnavailable, 0, "Service Unavailable"}
	Timeout            = Case{http.StatusGatewayTimeout, 0, "Timeout"}
)

// With returns c with detail after its message, such as the name of the field in "Invalid Mandatory Field X-TIMESTAMP".
func (c Case) With(detail string) Case {
	c.Message += " " + detail
	return c
}

// Code returns the seven-digit response code of c for service: HTTP status,
// service code, case number, such as "4012501".
func (c Case) Code(service Service) string {
	return fmt.Sprintf("%03d%s%02d", c.Status, service, c.Number)
}

// Answer is the body of a SNAP response that carries nothing but its outcome.
type Answer struct {
	ResponseCode    string `json:"responseCode"`
	ResponseMessage string `json:"responseMessage"`
}

// Answer returns the body of an answer with the case c of service.
func (c Case) Answer(service Service) []byte {
	body, err := json.Marshal(Answer{c.Code(service), c.Message})
	if err != nil {
		panic(err) // two strings always encode
	}
	return body
}

// ResponseCode is a response code as read from a body: DOKU's documents show
// it as a string, and in places as a number.
type ResponseCode string

// UnmarshalJSON accepts a JSON string or a number.
func (c *ResponseCode) UnmarshalJSON(data []byte) error {
	var n json.Number
	if err := json.Unmarshal(data, &n); err == nil {
		*c = ResponseCode(n)
		return nil
	}
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("response code: expected a string or a number: %w", err)
	}
	*c = ResponseCode(s)
	return nil
}

// CodeOf returns the responseCode of the JSON object body as it is written, or "" if there
// is none.
func CodeOf(body []byte) ResponseCode {
	var fields struct {
		Code ResponseCode `json:"responseCode"`
	}
	if json.Unmarshal(body, &fields) != nil {
		return ""
	}
	return fields.Code
}

// Case returns the HTTP status and case number in c, and false if c is not
// seven digits.
func (c ResponseCode) Case() (status, number int, ok bool) {
	if len(c) != 7 {
		return 0, 0, false
	}
	n, err := strconv.ParseUint(string(c), 10, 32)
	if err != nil {
		return 0, 0, false
	}
	return int(n / 10000), int(n % 100), true
}

// Service returns the service code in c, or "" if c is not seven characters.
func (c ResponseCode) Service() Service {
	if len(c) != 7 {
		return ""
	}
	return Service(c[3:5])
}

// Retryable reports whether an answer with this HTTP status says only that the other
// side cannot do it now: 5xx, 408, 425 and 429. The same request may succeed later.
//
// Two more statuses may change on a repeat, for some callers: 401, after a change of
// secrets or tokens, and 409, when the first of two calls has ended. Each caller that
// counts them says so.
func Retryable(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return status >= 500
}
