// Package environment knows where DOKU is.
package environment

import (
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/directive"
)

// baseURLs has DOKU's environments.
var baseURLs = map[string]string{
	"sandbox":    "https://api-sandbox.doku.com",
	"production": "https://api.doku.com",
}

// URL returns the base URL of an environment: sandbox, production, or a URL itself.
func URL(environment string) (*url.URL, error) {
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

// Read reads the option environment. What is wrong with a text without placeholders is an
// error with its place.
func Read(d *caddyfile.Dispenser, into *string) error {
	name := d.Val()
	if err := directive.Setting(d, into); err != nil || strings.Contains(*into, "{") {
		return err
	}
	if _, err := URL(*into); err != nil {
		return d.WrapErr(fmt.Errorf("%s: %w", name, err))
	}
	return nil
}
