package directive

// The directives, and the handlers of the same name.
const (
	App            = "doku_app"
	UntrustedTrace = "doku_untrusted_trace"
	Tracing        = "doku_tracing"
	Unhandled      = "doku_unhandled"
	Token          = "doku_token"
	Verify         = "doku_verify"
	Inbox          = "doku_inbox"
	Health         = "doku_health"
	Sign           = "doku_sign"
)

// Names are the names of all directives.
var Names = []string{App, Token, Verify, Inbox, Sign, Health, Tracing, Unhandled, UntrustedTrace}

// DefaultTokenPath is the path of DOKU's token requests, unless doku_app says otherwise.
const DefaultTokenPath = "/authorization/v1/access-token/b2b"
