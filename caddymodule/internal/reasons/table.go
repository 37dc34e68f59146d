package reasons

import "github.com/caddy-doku/caddy-doku/snap"

// The names. They are label values of metrics and fields of log lines, which
// dashboards and alerts rely on: none may change.
const (
	// Outbound: DOKU has answered.

	Succeeded    = "succeeded"
	Declined     = "declined"
	Unauthorized = "unauthorized"
	DOKUFailed   = "doku_failed"

	// Outbound: the sidecar has answered, or the app has gone.

	Unreachable          = "unreachable"
	OutcomeUnknown       = "outcome_unknown"
	Cancelled            = "cancelled"
	Token                = "token"
	Account              = "account"
	BodyNotJSON          = "body_not_json"
	BodyUnsafe           = "body_unsafe"
	ExternalID           = "external_id"
	IdempotencyKey       = "idempotency_key"
	IdempotencyKeyReused = "idempotency_key_reused"
	Browser              = "browser"
	Host                 = "host"
	Target               = "target"
	TokenPath            = "token_path"
	NotSNAP              = "not_snap"

	// Inbound: the app, or the sidecar for it, has answered.

	Accepted       = "accepted"
	Issued         = "issued"
	AppRefused     = "app_refused"
	AppUndecided   = "app_undecided"
	AppTimeout     = "app_timeout"
	AppUnreachable = "app_unreachable"
	AppMissing     = "app_missing"
	Kept           = "kept"
	NotKept        = "not_kept"
	Inbox          = "inbox"
	Conflict       = "conflict"
	Issuing        = "issuing"

	// Inbound: not accepted. The verifier has more; see verifier.Reasons.

	Method         = "method"
	ServiceUnknown = "service_unknown"
	HeaderMissing  = "header_missing"
	HeaderRepeated = "header_repeated"
	Busy           = "busy"
	Signature      = "signature"
	TokenInvalid   = "token_invalid"
	ClientUnknown  = "client_unknown"
	BodyFormat     = "body_format"

	// Both directions.

	Replayed       = "replayed"
	InFlight       = "in_flight"
	Store          = "store"
	BodyTooLarge   = "body_too_large"
	BodyUnreadable = "body_unreadable"
	Other          = "other"
)

// With `enforce report`, an inbound outcome is Reported followed by a name of the
// table, or by Verified.
const (
	Reported = "reported_"
	Verified = "verified"
)

// Outbound has the outcomes of calls from the app to DOKU.
var Outbound = Table{
	{Name: Succeeded, Meaning: "DOKU answered 2xx"},
	{Name: Declined, Owner: "the app's", Meaning: "DOKU refuses the call (4xx); the app has DOKU's answer"},
	{
		Name: Unauthorized, Owner: "ours", Meaning: "DOKU does not accept signature, token, time or client id (401)",
		Hint: "compare client_id, secret_key and environment with DOKU's dashboard; " +
			"a changed file is used within seconds, a changed variable ({env.…}) after a restart; set this machine's clock by NTP",
	},
	{
		Name: DOKUFailed, Owner: "DOKU's", Meaning: "DOKU cannot do it now (5xx, 408, 425, 429)",
		Hint: "DOKU cannot do it now, and the app has its answer: if it goes on, ask DOKU",
	},
	{
		Name: Unreachable, Case: snap.Unavailable, Owner: "the network's", Meaning: "no connection to DOKU; nothing was sent",
		Hint: "check that this machine reaches DOKU: DNS, firewall, proxy, TLS",
	},
	{
		Name: OutcomeUnknown, Case: snap.Timeout, Owner: "DOKU's",
		Meaning: "sent, but no answer came, or the app hung up first: DOKU may have done it",
		Hint:    "DOKU may have done it: ask for the status before anything else; do not create again without the same idempotency key",
	},
	{
		Name: Cancelled, Owner: "the app's", Meaning: "the app hung up before anything was sent",
		Hint: "the app hung up before anything was sent; look for its timeouts and crashes",
	},
	{
		Name: Token, Case: snap.Unavailable, Owner: "DOKU's, or ours", Meaning: "no B2B token available; nothing was sent",
		Hint: "see the log line `no B2B token` and `caddy-doku doku status`; then `caddy-doku doku token refresh`",
	},
	{Name: Replayed, Meaning: "a repeat got the answer of the first call"},
	{
		Name: InFlight, Case: snap.Timeout, Owner: "the app's", Meaning: "a repeat waited for the first call, which did not end in time",
		Hint: "an earlier call with this key takes longer than timeout of doku_sign; nothing is lost: the app must ask for the status or repeat",
	},
	{
		Name: Store, Case: snap.Unavailable, Owner: "ours", Meaning: "the store is away; nothing was sent now",
		Hint: "see that the store (Redis) is reachable and takes writes; on_store_error decides about calls with a key meanwhile",
	},
	{
		Name: Account, Case: snap.InvalidFieldFormat, Owner: "the app's",
		Meaning: "there is no such account, or the app's X-PARTNER-ID is not its client id",
		Hint:    "the app's X-PARTNER-ID, and the argument of doku_sign, must name one and the same account; `caddy-doku doku status` lists them",
	},
	{
		Name: BodyTooLarge, Case: snap.BodyTooLarge, Owner: "the app's", Meaning: "more than `max_body`",
		Hint: "raise max_body of doku_sign, if the app must send so much",
	},
	{
		Name: BodyUnreadable, Case: snap.BadRequest, Owner: "the app's", Meaning: "its request ended early",
		Hint: "the app hung up while sending; look for its timeouts and crashes",
	},
	{
		Name: BodyNotJSON, Case: snap.BadRequest, Owner: "the app's", Meaning: "its body is not a JSON object in UTF-8",
		Hint: "the app's body must be one JSON object in UTF-8; the error has the offset",
	},
	{
		Name: BodyUnsafe, Case: snap.InvalidFieldFormat, Owner: "the app's", Meaning: "with `body strict`: DOKU may read it differently",
		Hint: "the app must send amounts as strings and every key once; the error has the JSON paths",
	},
	{
		Name: ExternalID, Case: snap.InvalidFieldFormat, Owner: "the app's",
		Meaning: "its X-EXTERNAL-ID is not 1 to 64 letters, digits and `-_.:+`",
		Hint:    "the app must send one X-EXTERNAL-ID of 1 to 36 digits, or none",
	},
	{
		Name: HeaderRepeated, Case: snap.InvalidFieldFormat, Owner: "the app's",
		Meaning: "CHANNEL-ID, X-IP-ADDRESS, X-DEVICE-ID or Authorization-Customer occurs twice; nothing was sent",
		Hint:    "the app must send each of these headers once; the error names the header",
	},
	{
		Name: IdempotencyKey, Case: snap.InvalidFieldFormat, Owner: "the app's", Meaning: "its key is not 1 to 255 visible ASCII characters",
		Hint: "the app must send one idempotency key of 1 to 255 visible ASCII characters, or none",
	},
	{
		Name: IdempotencyKeyReused, Case: snap.Unprocessable, Owner: "the app's", Meaning: "its key was used for another call before",
		Hint: "the app gave two calls one key; each order or payment needs a key of its own",
	},
	{
		Name: Browser, Case: snap.NotAllowed, Owner: "a web page's, or the app's",
		Meaning: "a browser called for a web page, or the app hands a visitor's headers on; nothing was sent",
		Hint: "a web page in a browser on this machine tried to act in your name; if it was the app, it hands on the headers of a visitor's " +
			"browser (the error names them): it must send only its own",
	},
	{
		Name: Host, Case: snap.NotAllowed, Owner: "a web page's, or ours",
		Meaning: "a call over loopback with a Host that does not always mean this machine; nothing was sent",
		Hint: "if the app calls the sidecar by this name, add it to allow_hosts of doku_sign: the error has the line; " +
			"otherwise it was a web page",
	},
	{
		Name: Method, Case: snap.MethodNotAllowed, Owner: "the app's", Meaning: "not GET, POST, PUT, PATCH or DELETE; nothing was sent",
		Hint: "SNAP has no such method; for CONNECT: the port is no proxy, so take it out of HTTPS_PROXY",
	},
	{
		Name: Target, Case: snap.BadRequest, Owner: "the app's", Meaning: "its URL has a byte that no URL may have; nothing was sent",
		Hint: "the app must percent-encode its URL; the error has the byte",
	},
	{
		Name: TokenPath, Case: snap.NotAllowed, Owner: "the app's",
		Meaning: "it asks DOKU for a B2B token, which the sidecar gets itself; nothing was sent",
		Hint:    "the app must not ask for a B2B token: take that call out of the app",
	},
	{
		Name: NotSNAP, Case: snap.NotAllowed, Owner: "the app's", Meaning: "the path is signed in another way than SNAP; nothing was sent",
		Hint: "the app must call this API of DOKU without the sidecar, which signs SNAP calls only",
	},
	{Name: Other, Owner: "ours", Meaning: "something other than DOKU answered: another handler in the sidecar's configuration"},
}

// Inbound has the outcomes of calls from DOKU, or from somebody who claims to be DOKU.
var Inbound = Table{
	{Name: Accepted, Meaning: "the app said yes or, with the policy `durable`, the inbox keeps the call"},
	{Name: Replayed, Meaning: "a repeat got the answer of the first call; the app was not asked"},
	{Name: Issued, Meaning: "DOKU got a token"},
	{
		Name: AppRefused, Owner: "the app's", Meaning: "it said no with a responseCode of 4xx or 5xx; DOKU gets that status",
	},
	{
		Name: AppUndecided, Case: snap.ExternalError, Owner: "the app's",
		Meaning: "its answer is neither a yes nor a no, such as an empty 200, a page, or a redirect; nothing is kept",
		Hint:    "the app must answer with a SNAP body; the error has the start of what it answered",
	},
	{
		Name: AppTimeout, Case: snap.Timeout, Owner: "the app's", Meaning: "it took longer than `timeout`",
		Hint: "the app takes longer than timeout of doku_verify",
	},
	{
		Name: AppUnreachable, Case: snap.ExternalError, Owner: "the app's", Meaning: "no connection, or one that broke",
		Hint: "see that the app runs, and listens where the Caddyfile says",
	},
	{
		Name: AppMissing, Case: snap.GeneralError, Owner: "ours", Meaning: "no `reverse_proxy` to the app behind `doku_verify`",
		Hint: "write a reverse_proxy to the app behind doku_verify, for the same path",
	},
	{
		Name: Kept, Case: snap.ExternalError, Owner: "the app's", Meaning: "the app did not accept it in time; the inbox keeps it",
		Hint: "see the error: the app is down, failing or slow, or an earlier notification of the same virtual account waits; " +
			"the inbox delivers this one until the app accepts it: `caddy-doku doku inbox list`",
	},
	{
		Name: NotKept, Case: snap.ExternalError, Owner: "the app's, and ours",
		Meaning: "… and the inbox could not keep it: only DOKU's own retry brings it again",
		Hint:    inboxHint,
	},
	{Name: Inbox, Case: snap.GeneralError, Owner: "ours", Meaning: "the inbox cannot be written", Hint: inboxHint},
	{
		Name: InFlight, Case: snap.Timeout, Owner: "the app's", Meaning: "a repeat waited for the first call, which did not end in time",
		Hint: "the app takes longer than timeout of doku_verify for the first of these calls",
	},
	{
		Name: Conflict, Case: snap.Conflict, Owner: "DOKU's",
		Meaning: "the same external id with another body: of an inquiry, or of the same payment",
		Hint:    "DOKU, or somebody who has seen a call and sends it again, gave two calls one external id; compare both, and ask DOKU",
	},
	{
		Name: Store, Case: snap.GeneralError, Owner: "ours", Meaning: "the store is away",
		Hint: "see that the store (Redis) is reachable and takes writes",
	},
	{
		Name: Issuing, Case: snap.GeneralError, Owner: "ours", Meaning: "the sidecar could not make a token",
		Hint: "the sidecar could not make a token for DOKU: see the error",
	},
	{
		Name: Signature, Case: snap.Unauthorized, Owner: "DOKU's, ours or a forger's", Meaning: "the signature does not match",
		Hint: "compare secret_key and doku_public_key with DOKU's dashboard, and public_prefix with the URL set there; otherwise it is a forgery",
	},
	{
		Name: "partner_service", Case: snap.Unauthorized, Owner: "DOKU's, or ours",
		Meaning: "signed with DOKU's RSA key, but the account does not have this partnerServiceId",
		Hint:    "if the partnerServiceId is yours, add it to partner_service_id of the account; otherwise DOKU called the wrong merchant",
	},
	{
		Name: ServiceUnknown, Case: snap.NotFound, Owner: "ours",
		Meaning: "the path does not tell the service; write `service 25` in `doku_verify`",
		Hint: "write the service, such as `service 25` for payment notifications; if the path is one of DOKU's own in other letters, " +
			"the URL at DOKU is spelt otherwise than the Caddyfile: correct it at DOKU",
	},
	{
		Name: "signature_format", Case: snap.Unauthorized, Owner: "an unknown caller's",
		Meaning: "X-SIGNATURE is not a signature", Outside: Signature,
		Hint: "the call is signed in another form: see the option signature of doku_verify; or somebody else is calling",
	},
	{
		Name: "token_missing", Case: snap.InvalidToken, Owner: "an unknown caller's", Meaning: "no bearer token",
		Hint: "if DOKU has no token URL of yours, set one in its dashboard, or `token none` in doku_verify",
	},
	{
		Name: TokenInvalid, Case: snap.InvalidToken, Owner: "DOKU's, ours or a forger's",
		Meaning: "the sidecar has not issued this token for this account",
		Hint: "if secret_key has just changed, DOKU gets a new token within 15 minutes; all sidecars of an account need the same secret_key; " +
			"only if somebody else issues DOKU's tokens, `token any` in doku_verify",
	},
	{
		Name: "token_expired", Case: snap.InvalidToken, Owner: "DOKU's", Meaning: "the token has expired", Outside: TokenInvalid,
		Hint: "DOKU renews its token after 900 s; set this machine's clock by NTP",
	},
	{
		Name: "timestamp_old", Case: snap.InvalidFieldFormat, Owner: "the clock's", Meaning: "more than 10 minutes ago",
		Hint: "set this machine's clock by NTP; otherwise the call was held up for long, or recorded and sent again by somebody",
	},
	{
		Name: "timestamp_future", Case: snap.InvalidFieldFormat, Owner: "the clock's", Meaning: "more than 2 minutes ahead",
		Hint: "set this machine's clock by NTP",
	},
	{
		Name: "timestamp_format", Case: snap.InvalidFieldFormat, Owner: "an unknown caller's", Meaning: "X-TIMESTAMP is not a time",
		Hint: "DOKU's time is ISO 8601 with an offset; somebody else is calling, or something in front changes headers",
	},
	{
		Name: ClientUnknown, Case: snap.UnknownClient, Owner: "DOKU's, ours or an unknown caller's",
		Meaning: "no account has this partner id or client key",
		Hint:    "compare client_id, inbound_client_key and inbound_partner_id with DOKU's dashboard",
	},
	{
		Name: HeaderMissing, Case: snap.InvalidMandatory, Owner: "an unknown caller's", Meaning: "a SNAP header is missing",
		Hint: "DOKU sends all SNAP headers; somebody else is calling, or something in front removes headers",
	},
	{
		Name: HeaderRepeated, Case: snap.InvalidFieldFormat, Owner: "an unknown caller's", Meaning: "a SNAP header occurs twice",
		Hint: "something in front adds SNAP headers a second time, or somebody else is calling",
	},
	{
		Name: "header_format", Case: snap.InvalidFieldFormat, Owner: "an unknown caller's", Meaning: "a SNAP header is malformed",
		Hint: "DOKU's headers are shorter and well formed; somebody else is calling, or something in front changes them",
	},
	{
		Name: Method, Case: snap.MethodNotAllowed, Owner: "an unknown caller's", Meaning: "not POST",
		Hint: "DOKU only posts; somebody else is calling, or a proxy in front changes the method",
	},
	{
		Name: BodyTooLarge, Case: snap.BodyTooLarge, Owner: "an unknown caller's", Meaning: "more than `max_body`",
		Hint: "raise max_body of doku_verify, if DOKU must send so much",
	},
	{
		Name: BodyUnreadable, Case: snap.BadRequest, Owner: "an unknown caller's", Meaning: "it ended early, or took longer than `body_timeout`",
		Hint: "the body ended early or came too slowly: see body_timeout, and what is in front of the sidecar",
	},
	{
		Name: Busy, Case: snap.Unavailable, Owner: "unknown callers'", Meaning: "too many bodies of calls that are not verified are under way",
		Hint: "somebody sends many bodies at once; limit the callers to DOKU's addresses, or raise unverified_calls and unverified_size " +
			"in the global option doku",
	},
	{
		Name: BodyFormat, Case: snap.BadRequest, Owner: "DOKU's", Meaning: "signed, but not JSON",
		Hint: "the call is DOKU's, but its body is not a JSON object; ask DOKU",
	},
	{
		Name: "grant_type_missing", Case: snap.InvalidMandatory, Owner: "an unknown caller's", Meaning: "a token request without grantType",
		Hint: grantTypeHint,
	},
	{
		Name: "grant_type", Case: snap.InvalidFieldFormat, Owner: "an unknown caller's",
		Meaning: "a token request with another grantType than client_credentials",
		Hint:    grantTypeHint,
	},
	{Name: Other, Case: snap.GeneralError, Owner: "ours", Meaning: "an unexpected error", Hint: "see the error"},
}

const (
	inboxHint     = "see that the inbox's file or Redis takes writes: disk, max_size, permissions"
	grantTypeHint = "a token request must say grantType client_credentials; somebody else is calling"
)
