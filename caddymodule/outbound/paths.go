package outbound

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
)

// pathKind says how a call to a path is signed, if it is not signed like most.
type pathKind uint8

const (
	snapPath        pathKind = iota
	directDebitPath          // the CHANNEL-ID is DH unless the app or the configuration says otherwise
	b2bTokenPath             // the sidecar's own matter
	b2b2cTokenPath           // RSA over client id and time (DOKU, "Get Token B2B2C")
	notSNAPPath              // DOKU's older APIs, with HMAC-SHA256 over other components
)

// The CHANNEL-ID of calls without one.
const (
	defaultChannelID     = "H2H"
	directDebitChannelID = "DH" // DOKU, pages of direct debit and e-wallets; its SDKs
)

// notSNAP has the paths that DOKU's documents and software sign with the header Signature
// ("Signature Component, Non-SNAP"). A "*" at the start of a segment or at the end stands
// for any text.
var notSNAP = []string{
	"/checkout/*",                        // DOKU Checkout: documents, WooCommerce plug-in (/checkout/v1/payment)
	"/orders/v1/status/*",                // "Check Status, Non-SNAP"; SNAP's own is /orders/v1.0/…
	"/*-virtual-account/v2/payment-code", // "Signature Component from Request Header"; jokul-php, jokul-java
	"/credit-card/v1/payment-page",       // jokul-php
	"/shopeepay-emoney/v2/order",         // jokul-php
	"/ovo-emoney/v1/payment",             // jokul-php
	"/dokuwallet-emoney/v1/payment",      // jokul-php
}

// kindOf returns the kind of a clean path.
func kindOf(clean string) pathKind {
	switch {
	case strings.HasSuffix(clean, "/access-token/b2b2c"):
		return b2b2cTokenPath
	case mayBeTokenPath(clean):
		return b2bTokenPath
	case strings.HasPrefix(clean, "/direct-debit/"):
		return directDebitPath
	}
	for _, pattern := range notSNAP {
		if matches(pattern, clean) {
			return notSNAPPath
		}
	}
	return snapPath
}

// mayBeTokenPath reports whether some server may read a clean path as that of DOKU's B2B
// token: one that drops characters nobody sees, ends a name at a mark, or adds an extension.
func mayBeTokenPath(clean string) bool {
	const folder, name = "access-token/", "b2b"
	_, last, found := strings.Cut(clean, folder)
	if !found {
		if !strings.ContainsFunc(clean, isHidden) {
			return false
		}
		if _, last, found = strings.Cut(visible(clean), folder); !found {
			return false
		}
	}
	last = visible(last)
	if !strings.HasPrefix(last, name) {
		return false
	}
	rest := last[len(name):] // "2c" is another service, "%3f" an escape that nobody has taken off
	return rest == "" || !isAlphanumeric(rest[0])
}

func isAlphanumeric(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// visible returns a path without the characters that nobody sees.
func visible(path string) string {
	return strings.Map(func(r rune) rune {
		if isHidden(r) {
			return -1
		}
		return r
	}, path)
}

func isHidden(r rune) bool {
	return r == utf8.RuneError || unicode.IsControl(r) || unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Mn, r)
}

// isNotSNAP reports whether the configuration says that a clean path is not SNAP.
func (s *Sign) isNotSNAP(clean string) bool {
	for _, pattern := range s.NotSNAP {
		if matches(pattern, clean) {
			return true
		}
	}
	return false
}

// matches reports whether a clean path is one of a pattern of [notSNAP].
func matches(pattern, clean string) bool {
	if rest, ok := strings.CutPrefix(pattern, "/*"); ok { // any start of the first segment
		segment, after, _ := strings.Cut(clean[1:], "/")
		name, wantAfter, _ := strings.Cut(rest, "/")
		return strings.HasSuffix(segment, name) && after == wantAfter
	}
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(clean, prefix) || clean == strings.TrimSuffix(prefix, "/")
	}
	return clean == pattern
}

// checkPatterns checks the option not_snap.
func checkPatterns(patterns []string) error {
	for _, pattern := range patterns {
		body := strings.TrimSuffix(pattern, "*")
		if !strings.HasPrefix(pattern, "/") || strings.Contains(body, "*") || pattern == "/*" || pattern == "/" ||
			httpio.CleanPath(body) != strings.TrimSuffix(body, "/") {
			return fmt.Errorf("not_snap: expected a path such as /kyc/v1/*, in lower case, with one * at most, at the end; found %q", pattern)
		}
	}
	return nil
}
