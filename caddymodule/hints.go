package caddymodule

import "github.com/caddy-doku/caddy-doku/internal/tokens"

// What an operator can do, by the reason in the log: said as `hint` beside it.

// outboundHints are for calls of the app's that were not made.
var outboundHints = map[string]string{
	"account":                "the app's X-PARTNER-ID, and the argument of doku_sign, must name one and the same account; `caddy-doku doku status` lists them",
	"body_too_large":         "raise max_body of doku_sign, if the app means to send so much",
	"body_unreadable":        "the app hung up while sending; look for its timeouts and crashes",
	"body_not_json":          "the app's body must be one JSON value in UTF-8; the error has the offset",
	"body_unsafe":            "the app must send amounts as strings and every key once; the error has the JSON paths",
	"external_id":            "the app must send one X-EXTERNAL-ID of 1 to 36 digits, or none",
	"idempotency_key":        "the app must send one idempotency key of 1 to 255 visible ASCII characters, or none",
	"idempotency_key_reused": "the app gave two calls one key; each order or payment needs a key of its own",
	"in_flight":              "an earlier call with this key takes longer than timeout of doku_sign; nothing is lost: have the app ask for the status or repeat",
	"store":                  "see that the store (Redis) is reachable and takes writes; what becomes of calls with a key meanwhile, on_store_error says",
	"token":                  "see the log line `no B2B token` and `caddy-doku doku status`; then `caddy-doku doku token refresh`",
	"unreachable":            "check that this machine reaches DOKU: DNS, firewall, proxy, TLS",
	"cancelled":              "the app hung up before anything was sent; look for its timeouts and crashes",
	"outcome_unknown":        "DOKU may have done it: ask for the status before anything else; do not create again without the same idempotency key",
}

// answeredHints are for calls of the app's that DOKU has answered, by outcome, if that
// is not the app's matter.
var answeredHints = map[string]string{
	outcomeUnauthorized: "compare client_id, secret_key and environment with DOKU's dashboard; set this machine's clock by NTP",
	outcomeDOKUFailed:   "DOKU cannot do it now, and the app has its answer: if it goes on, ask DOKU",
}

// inboundHints are for calls of DOKU's, or of somebody who says so, that were not
// accepted.
var inboundHints = map[string]string{ //nolint:gosec // no credentials, but what is said of them
	"method":             "DOKU only posts; somebody else is calling, or a proxy in front changes the method",
	"header_missing":     "DOKU sends all SNAP headers; somebody else is calling, or something in front removes headers",
	"header_repeated":    "something in front adds SNAP headers a second time, or somebody else is calling",
	"header_format":      "DOKU's headers are shorter and well formed; somebody else is calling, or something in front changes them",
	"timestamp_format":   "DOKU's time is ISO 8601 with an offset; somebody else is calling, or something in front changes headers",
	"timestamp_old":      "set this machine's clock by NTP; otherwise the call was held up for long, or recorded and sent again by somebody",
	"timestamp_future":   "set this machine's clock by NTP",
	"client_unknown":     "compare client_id, inbound_client_key and inbound_partner_id with DOKU's dashboard",
	"token_missing":      "if DOKU has no token URL of yours, set one in its dashboard, or `token none` in doku_verify",
	"token_invalid":      "all sidecars of an account need the same secret_key; if somebody else issues DOKU's tokens, `token any` in doku_verify",
	"token_expired":      "DOKU renews its token after 900 s; set this machine's clock by NTP",
	"signature_format":   "the call is signed in another form: see the option signature of doku_verify; or somebody else is calling",
	"signature":          "compare secret_key and doku_public_key with DOKU's dashboard, and public_prefix with the URL set there; else it is a forgery",
	"partner_service":    "if the partnerServiceId is yours, add it to partner_service_id of the account; else DOKU has called the wrong merchant",
	"service_unknown":    "write the service in doku_verify, such as `service 25` for payment notifications",
	"body_format":        "the call is DOKU's, but its body is no JSON object; ask DOKU",
	"body_too_large":     "raise max_body of doku_verify, if DOKU means to send so much",
	"body_unreadable":    "the body ended early or came too slowly: see body_timeout, and what is in front of the sidecar",
	"grant_type_missing": "a token request must say grantType client_credentials; somebody else is calling",
	"grant_type":         "a token request must say grantType client_credentials; somebody else is calling",
	"conflict":           "DOKU, or somebody with its signature, gave two calls one external id; compare both, and ask DOKU",
	"in_flight":          "the app takes longer than timeout of doku_verify for the first of these calls; DOKU tries again",
	"store":              "see that the store (Redis) is reachable and takes writes; DOKU tries again",
	"issuing":            "no token could be made for DOKU: see the error",
	"app_timeout":        "the app takes longer than timeout of doku_verify; DOKU tries again",
	"app_unreachable":    "see that the app runs, and listens where reverse_proxy says; DOKU tries again",
	"app_missing":        "write a reverse_proxy to the app behind doku_verify, for the same path",
	"kept":               "the app is down or not well; it gets the notification as soon as it takes it: `caddy-doku doku inbox list`",
	"not_kept":           "see that the inbox's file or Redis takes writes: disk, max_size, permissions; DOKU tries again",
	"inbox":              "see that the inbox's file or Redis takes writes: disk, max_size, permissions; DOKU tries again",
	"other":              "see the error",
}

// checkHint is for a check of readiness that failed.
func checkHint(check string, err error) string {
	switch check {
	case checkToken:
		return tokens.Hint(err)
	case checkStore:
		return "see that the store (Redis) is reachable and takes writes"
	case checkInbox:
		return "see that the inbox's file or store is there and takes writes: disk, permissions, Redis"
	}
	return "see the error"
}
