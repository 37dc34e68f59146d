package doku

import (
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/credential"
)

// baseURLs has DOKU's environments.
var baseURLs = map[string]string{
	"sandbox":    "https://api-sandbox.doku.com",
	"production": "https://api.doku.com",
}

func baseURL(environment string) (*url.URL, error) {
	if known := baseURLs[environment]; known != "" {
		environment = known
	}
	u, err := url.Parse(environment)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return nil, fmt.Errorf("expected sandbox, production or a base URL such as https://api.doku.com, found %q", environment)
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("expected a base URL without user, path and query, found %q", u.Redacted())
	}
	u.Path = ""
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("%q is not encrypted; expected https (http is only for a loopback address)", u)
	}
	return u, nil
}

// Resolve replaces the placeholders in a setting. An unknown or empty one is an error.
func Resolve(repl *caddy.Replacer, name, value string) (string, error) {
	return credential.Resolve(repl, name, value)
}
