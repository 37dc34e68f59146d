package outbound

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
)

// allowedMethods are the methods of SNAP, for the header Allow.
const allowedMethods = "GET, POST, PUT, PATCH, DELETE"

// admit rejects a request that cannot be the app's call to a SNAP service: one that a
// browser makes for a web page, one with another method, one for another host, and one
// whose target is not to be signed.
func (s *Sign) admit(c *call, w http.ResponseWriter, r *http.Request) error {
	if marks := browserMarks(r.Header); marks != nil {
		return reject(reasons.Browser,
			"[a web page called, which must not act in your name; nothing was sent. If it was your app, it hands on the headers of "+
				"a visitor's browser: let it send only its own]",
			fmt.Errorf("expected a call of the app, found headers that only a browser sends: %s", strings.Join(marks, ", ")))
	}
	switch r.Method {
	case http.MethodPost, http.MethodGet, http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		w.Header().Set("Allow", allowedMethods)
		return reject(reasons.Method, "[expected "+allowedMethods+"; nothing was sent]",
			fmt.Errorf("expected %s, found %.20q", allowedMethods, r.Method))
	}
	if err := s.checkHost(r); err != nil {
		return err
	}
	return s.checkTarget(c, r)
}

// browserMarks returns the headers that only a browser sends, or nil.
//
// A page cannot choose headers whose names begin with Sec- (Fetch, "forbidden request-header"),
// and HTTP clients do not send them, but for one: Node's own fetch sends Sec-Fetch-Mode. A
// browser's Origin is null or a scheme, "://" and a host; SNAP's own header ORIGIN is a bare
// domain.
func browserMarks(h http.Header) (marks []string) {
	for name, values := range h {
		if isBrowserMark(name, values) {
			marks = append(marks, name)
		}
	}
	slices.Sort(marks)
	return marks
}

func isBrowserMark(name string, values []string) bool {
	switch name[0] {
	case 'S':
		return strings.HasPrefix(name, "Sec-") && name != "Sec-Fetch-Mode"
	case 'A':
		return strings.HasPrefix(name, "Access-Control-Request-")
	case 'U':
		return name == "Upgrade-Insecure-Requests"
	case 'P':
		return name == "Ping-To" || name == "Ping-From"
	case 'O':
		return name == "Origin" && slices.ContainsFunc(values, func(origin string) bool {
			return strings.EqualFold(origin, "null") || strings.Contains(origin, "://")
		})
	}
	return false
}

// checkHost rejects a request to a loopback address under another name. A web page reaches
// loopback under a name of its own if the owner of the name gives it the address 127.0.0.1
// (DNS rebinding); to the browser, the sidecar is then part of the page's own site.
func (s *Sign) checkHost(r *http.Request) error {
	if !isLoopback(r) {
		return nil
	}
	name, ok := hostName(r.Host)
	if ok && (isLocalName(name) || slices.Contains(s.allowed, name)) {
		return nil
	}
	detail, line := "[expected a Host such as localhost or 127.0.0.1; nothing was sent]", ""
	if ok {
		line = "allow_hosts " + name
		detail = fmt.Sprintf("[expected a Host such as localhost or 127.0.0.1, found %s; nothing was sent. If your app calls the sidecar by "+
			"this name, write in doku_sign: %s]", name, line)
	}
	err := fmt.Errorf("expected localhost, a name below it, 127.0.0.0/8, [::1] or one of allow_hosts as Host, found %.100q", r.Host)
	if line != "" {
		err = fmt.Errorf("%w; to permit it, write in doku_sign: %s", err, line)
	}
	return reject(reasons.Host, detail, err)
}

// isLoopback reports whether the request came in at a loopback address, whatever the
// listener's address is.
func isLoopback(r *http.Request) bool {
	switch address := r.Context().Value(http.LocalAddrContextKey).(type) {
	case *net.TCPAddr:
		return address.IP.IsLoopback()
	case *net.UDPAddr:
		return address.IP.IsLoopback()
	}
	return false
}

// hostName returns the name or IP address in a Host header, in lower case, without port and
// final dot, and whether it is one.
func hostName(host string) (string, bool) {
	name, port, _ := strings.Cut(host, ":")
	if strings.HasPrefix(host, "[") {
		end := strings.IndexByte(host, ']')
		if end < 0 {
			return "", false
		}
		var hasPort bool
		name = host[1:end]
		port, hasPort = strings.CutPrefix(host[end+1:], ":")
		if _, err := netip.ParseAddr(name); err != nil || !hasPort && port != "" {
			return "", false
		}
		name = "[" + name + "]"
	}
	if strings.Trim(port, "0123456789") != "" {
		return "", false
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return name, isHostName(name)
}

// isHostName reports whether name is a domain name, an IPv4 address or an IPv6 address in
// brackets.
func isHostName(name string) bool {
	if inner, ok := strings.CutPrefix(name, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		_, err := netip.ParseAddr(inner)
		return ok && err == nil
	}
	const longest = 253
	return name != "" && len(name) <= longest && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-._") == "" &&
		!strings.HasPrefix(name, ".") && !strings.Contains(name, "..")
}

// isLocalName reports whether a name always means this machine. Nobody can give it another
// address, or serve a page under it from elsewhere.
func isLocalName(name string) bool {
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil && ip.Unmap().IsLoopback()
}

// readHosts returns the names of allow_hosts in the form in which they are compared.
func readHosts(hosts []string) ([]string, error) {
	var (
		allowed []string
		repl    = caddy.NewReplacer()
	)
	for _, host := range hosts {
		text, err := repl.ReplaceOrErr(host, true, true)
		if err != nil {
			return nil, fmt.Errorf("allow_hosts: %w", err)
		}
		name, ok := hostName(text)
		if !ok || name != strings.ToLower(strings.TrimSuffix(text, ".")) {
			return nil, fmt.Errorf("allow_hosts: expected a name such as host.docker.internal, without scheme, port and path, found %q", host)
		}
		allowed = append(allowed, name)
	}
	return allowed, nil
}

// errTokenPath says why DOKU's token path is not called for the app.
var errTokenPath = errors.New("the app asks DOKU for a B2B token, which the sidecar does itself: only the latest token works")

// checkTarget rejects a target that no URL may have, DOKU's token path, and paths that are
// signed in another way. It also finds out how the call is signed.
func (s *Sign) checkTarget(c *call, r *http.Request) error {
	if i := strings.IndexFunc(r.RequestURI, notInURL); i >= 0 {
		return reject(reasons.Target, fmt.Sprintf("[the URL has the byte %q at offset %d, which no URL may have: write it as %%%02X; "+
			"nothing was sent]", r.RequestURI[i:i+1], i, r.RequestURI[i]),
			fmt.Errorf("the app's URL has the byte %q at offset %d; expected it percent-encoded", r.RequestURI[i:i+1], i))
	}
	path := httpio.CleanPath(r.URL.Path)
	switch kind := kindOf(path); {
	case kind == b2bTokenPath:
		return reject(reasons.TokenPath, "[the sidecar gets the B2B token itself: leave this call out, and make the next one without a token; "+
			"nothing was sent]", errTokenPath)
	case kind == notSNAPPath, s.isNotSNAP(path):
		return reject(reasons.NotSNAP, "[this path of DOKU is not SNAP and is signed in another way: call DOKU itself; nothing was sent]",
			fmt.Errorf("%.100q is not a SNAP path: DOKU expects Client-Id, Request-Id, Request-Timestamp and Signature", path))
	case hasOtherSignature(r.Header):
		return reject(reasons.NotSNAP, "[the call has the Signature of an API of DOKU that is not SNAP: call DOKU itself; nothing was sent]",
			errors.New("expected a SNAP call, found the header Signature with HMACSHA256, for an API of DOKU that is not SNAP"))
	default:
		c.path = kind
	}
	return nil
}

// hasOtherSignature reports whether a call has a signature of DOKU's APIs that are not SNAP,
// in whatever spelling.
func hasOtherSignature(h http.Header) bool {
	for _, text := range h["Signature"] {
		name, _, found := strings.Cut(text, "=")
		if found && strings.EqualFold(strings.Trim(name, " \t\"'"), "HMACSHA256") {
			return true
		}
	}
	return false
}

// notInURL reports whether no URL may have a character (RFC 3986, 2). The brackets may stand
// in a host only, but are frequent in queries, and are sent as they are.
func notInURL(r rune) bool {
	return r <= ' ' || r >= 0x7f || urlForbids[r]
}

var urlForbids = [0x7f]bool{'"': true, '#': true, '<': true, '>': true, '\\': true, '^': true, '`': true, '{': true, '|': true, '}': true}
