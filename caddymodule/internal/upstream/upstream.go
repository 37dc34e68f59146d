// Package upstream tells addresses of apps that cannot be right, and handlers that lead to
// no app.
package upstream

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/routes"
)

const example = "expected the app's address, such as 127.0.0.1:3000"

var (
	hostForm = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?$`)
	digits   = regexp.MustCompile(`^[0-9]+$`)
	numbers  = regexp.MustCompile(`^[0-9.]+$`)
	variable = regexp.MustCompile(`\{env\.([^{}]*)\}`)
)

// CheckWritten returns an error for an address as a Caddyfile has it, which
// reverse_proxy would take for something else than was meant.
func CheckWritten(text string) error {
	network, _, hasPath := strings.Cut(text, "/")
	scheme, rest, hasScheme := strings.Cut(text, "://")
	switch {
	case strings.TrimSpace(text) == "":
		return fmt.Errorf("%s, found an empty text; is a variable not set?", example)
	case strings.TrimSpace(text) != text || strings.ContainsAny(strings.TrimRight(text, ",; "), ",;\" \t"):
		return fmt.Errorf("%s, found '%s'; several addresses are separated by a blank, without quotes", example, text)
	case strings.HasSuffix(text, ",") || strings.HasSuffix(text, ";"):
		return fmt.Errorf("%s, found '%s'; take the last character away", example, text)
	case strings.Contains(text, "{"):
		return nil // checked once it is known
	case hasScheme:
		return checkURL(text, scheme, rest)
	case digits.MatchString(text):
		return fmt.Errorf("%s, found '%s'; write 127.0.0.1:%[2]s", example, text)
	case strings.Count(text, ":") > 1 && !strings.HasPrefix(text, "[") && !hasPath:
		return fmt.Errorf("%s, found '%s'; an IPv6 address stands in brackets: [::1]:3000", example, text)
	case hasPath && !slices.Contains([]string{"unix", "unix+h2c", "tcp", "tcp4", "tcp6", "fd"}, network):
		return fmt.Errorf("expected the app's address without a path, such as 127.0.0.1:3000, found '%s'; "+
			"the app gets the path that DOKU calls, and a `rewrite` in a block `deliver` changes it", text)
	}
	return nil
}

// checkURL returns an error for an address with a scheme.
func checkURL(text, scheme, rest string) error {
	host, path, _ := strings.Cut(rest, "/")
	switch {
	case strings.Contains(host, "@"):
		return fmt.Errorf("%s, found one with a user; an app that wants a password gets it by `header_up` in a block `deliver`", example)
	case host == "" || strings.HasPrefix(host, ":"):
		return fmt.Errorf("%s, found '%s', which names no host", example, text)
	case path != "" || strings.HasSuffix(rest, "/"):
		return fmt.Errorf("expected the app's address without a path, found '%s'; write %s://%s: the app gets the path that DOKU "+
			"calls, and a `rewrite` in a block `deliver` changes it", text, scheme, host)
	}
	return nil
}

// check returns an error for an address that a proxy dials and that can be no app's.
func check(dial string) error {
	if strings.TrimSpace(dial) == "" {
		return fmt.Errorf("%s, found an empty text", example)
	}
	address, err := caddy.ParseNetworkAddress(dial)
	if err != nil {
		return fmt.Errorf("%s, found %q: %w", example, dial, err)
	}
	if address.IsUnixNetwork() {
		return checkSocket(address.Host)
	}
	if address.IsFdNetwork() {
		return nil
	}
	host := strings.ToLower(strings.TrimSuffix(address.Host, "."))
	_, notIP := netip.ParseAddr(host)
	switch {
	case digits.MatchString(host):
		return fmt.Errorf("%s, found %q; write 127.0.0.1:%s", example, dial, host)
	case address.StartPort == 0 || address.StartPort > 65535 || address.PortRangeSize() != 1:
		return fmt.Errorf("%s, found %q, which names no port", example, dial)
	case host == "doku.com" || strings.HasSuffix(host, ".doku.com"):
		return fmt.Errorf("%s, found %q, which is DOKU itself: DOKU's calls must go to your app", example, dial)
	case host != "" && notIP != nil && (!hostForm.MatchString(host) || strings.Contains(host, "..") || numbers.MatchString(host)):
		return fmt.Errorf("%s, found %q, whose host is neither a name nor an IP address", example, dial)
	}
	return nil
}

// checkSocket returns an error for the path of a unix socket that can be none. One that is
// not there is no error: the app may start later.
func checkSocket(path string) error {
	if strings.HasPrefix(path, "@") && len(path) > 1 {
		return nil
	}
	info, err := os.Stat(path)
	switch {
	case path == "" || strings.HasSuffix(path, "/"):
		return fmt.Errorf("expected the app's socket, such as unix//run/app.sock, found the path %q", path)
	case err == nil && info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("expected the app's socket, such as unix//run/app.sock: %q is no socket", path)
	}
	return nil
}

// Resolve returns an address with the variables in it replaced. It reports false if it
// still has a placeholder, whose value a request gives. A variable that is not set, or
// empty, is an error.
func Resolve(dial string) (resolved string, known bool, err error) {
	for _, found := range variable.FindAllStringSubmatch(dial, -1) {
		if strings.TrimSpace(os.Getenv(found[1])) == "" {
			return "", false, fmt.Errorf("%s, found %q: the variable %s is not set, or empty", example, dial, found[1])
		}
	}
	resolved = variable.ReplaceAllStringFunc(dial, func(placeholder string) string {
		return os.Getenv(variable.FindStringSubmatch(placeholder)[1])
	})
	return resolved, !strings.Contains(resolved, "{"), nil
}

// CheckProxy returns an error for a proxy without addresses, or with one that can be no app's.
// Variables are looked up only if resolve is set.
func CheckProxy(proxy *reverseproxy.Handler, resolve bool) error {
	if len(proxy.Upstreams) == 0 && proxy.DynamicUpstreamsRaw == nil && proxy.DynamicUpstreams == nil {
		return fmt.Errorf("reverse_proxy: %s, found none", example)
	}
	seen := make(map[string]bool)
	for _, upstream := range proxy.Upstreams {
		dial, known := upstream.Dial, !strings.Contains(upstream.Dial, "{")
		if resolve {
			var err error
			if dial, known, err = Resolve(dial); err != nil {
				return err
			}
		}
		if !known {
			continue
		}
		if err := check(dial); err != nil {
			return err
		}
		if seen[dial] {
			return fmt.Errorf("expected each of the app's addresses once, found %q twice", dial)
		}
		seen[dial] = true
	}
	return nil
}

// noApp are the handlers that pass no call to an app.
var noApp = map[string]bool{
	"acme_server": true, "authentication": true, "copy_response": true, "copy_response_headers": true, "encode": true, "error": true,
	"file_server": true, "headers": true, "intercept": true, "log_append": true, "map": true, "metrics": true, "push": true,
	"request_body": true, "rewrite": true, routes.Static: true, "subroute": true, "templates": true, "timeouts": true, "tracing": true, "vars": true,
}

func mayReach(h routes.Handler) bool { return !noApp[h.Name] && !strings.HasPrefix(h.Name, "doku_") }

var errNoApp = errors.New("expected a reverse_proxy (or php_fastcgi) to the app, found nothing that passes a call to it")

// CheckRoutes returns an error if handlers bring no call to an app, or answer in its place.
func CheckRoutes(list caddyhttp.RouteList, resolve bool) error {
	walker := routes.New(&caddyhttp.Server{Routes: list}, nil)
	places := walker.Places(mayReach)
	if len(places) == 0 {
		return errNoApp
	}
	if answerer := firstAnswer(walker, list); answerer != "" {
		return fmt.Errorf("%s answers every call before the app: remove it, or give it a matcher", answerer)
	}
	for _, place := range places {
		if proxy, ok := place.Value.(*reverseproxy.Handler); ok {
			if err := CheckProxy(proxy, resolve); err != nil {
				return err
			}
		}
	}
	return nil
}

// firstAnswer returns the name of a handler that answers everything, if it comes before
// all that reach an app, or "".
func firstAnswer(walker *routes.Walker, list caddyhttp.RouteList) string {
	for i := range list {
		for _, h := range walker.Handlers(&list[i]) {
			nested := walker.Nested(h)
			switch {
			case nested != nil && len(routes.New(&caddyhttp.Server{Routes: nested}, nil).Places(mayReach)) > 0:
				return firstIn(walker, nested, &list[i])
			case mayReach(h):
				return ""
			case !routes.HasMatcher(&list[i]) && h.Name == routes.Static:
				return "respond"
			case !routes.HasMatcher(&list[i]) && h.Name == "error":
				return "error"
			}
		}
	}
	return ""
}

// firstIn is [firstAnswer] within a route, unless that matches some calls only.
func firstIn(walker *routes.Walker, nested caddyhttp.RouteList, within *caddyhttp.Route) string {
	if routes.HasMatcher(within) {
		return ""
	}
	return firstAnswer(walker, nested)
}
