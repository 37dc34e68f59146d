// Package directive reads the options of Caddyfile directives. Its errors name the
// option, what it expects, and what it found, with file and line.
package directive

import (
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
)

// MaxBodyLimit is the most that an option max_body may be, in bytes: a body is in
// memory as a whole.
const MaxBodyLimit = 1 << 30

// Block reads the rest of a directive, which has no arguments left, and calls option
// for each of its subdirectives.
func Block(d *caddyfile.Dispenser, option func() error) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := option(); err != nil {
			return err
		}
	}
	return nil
}

// Text reads the only argument of a subdirective that may stand once.
func Text(d *caddyfile.Dispenser, into *string) error {
	name := d.Val()
	if *into != "" {
		return d.Errf("%s is already specified", name)
	}
	if !d.AllArgs(into) {
		return d.ArgErr()
	}
	return nil
}

// Texts reads one or more arguments. The subdirective may stand more than once.
func Texts(d *caddyfile.Dispenser, into *[]string) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.ArgErr()
	}
	*into = append(*into, args...)
	return nil
}

// OnOff reads on or off.
func OnOff(d *caddyfile.Dispenser, into *bool) error {
	name, text := d.Val(), ""
	if err := Text(d, &text); err != nil {
		return err
	}
	if text != "on" && text != "off" {
		return d.Errf("%s: expected on or off, found '%s'", name, text)
	}
	*into = text == "on"
	return nil
}

// Number reads a number from 1 to largest.
func Number(d *caddyfile.Dispenser, into *int, largest int) error {
	name, text := d.Val(), ""
	if err := Text(d, &text); err != nil {
		return err
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > largest {
		return d.Errf("%s: expected a number from 1 to %d, found '%s'", name, largest, text)
	}
	*into = n
	return nil
}

// Size reads a size such as 1MiB, of at most largest bytes.
func Size(d *caddyfile.Dispenser, into *int64, largest uint64) error {
	name, text := d.Val(), ""
	if err := Text(d, &text); err != nil {
		return err
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n == 0 || n > largest {
		return d.Errf("%s: expected a size such as 1MiB, at most %dGiB, found '%s'", name, largest>>30, text)
	}
	*into = int64(n) //nolint:gosec // at most largest
	return nil
}

// Duration reads a positive duration such as 20s.
func Duration(d *caddyfile.Dispenser, into *caddy.Duration) error {
	name, text := d.Val(), ""
	if err := Text(d, &text); err != nil {
		return err
	}
	parsed, err := caddy.ParseDuration(text)
	if err != nil || parsed <= 0 {
		return d.Errf("%s: expected a duration such as 20s, found '%s'", name, text)
	}
	*into = caddy.Duration(parsed)
	return nil
}

// Unknown returns the error of a subdirective that is none of allowed.
func Unknown(d *caddyfile.Dispenser, allowed ...string) error {
	return d.Errf("unrecognized subdirective '%s'; expected one of: %s", d.Val(), strings.Join(allowed, ", "))
}
