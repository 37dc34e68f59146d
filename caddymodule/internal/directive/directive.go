// Package directive reads the options of Caddyfile directives. Its errors name the
// option, what it expects, and what it found, with file and line.
package directive

import (
	"fmt"
	"slices"
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
	return text(d, into, "")
}

// orEnv is the end of an error about a setting that takes {env.NAME}.
const orEnv = " write {env.NAME}"

// Setting is [Text] for a text that takes the placeholder {env.NAME}.
func Setting(d *caddyfile.Dispenser, into *string) error { return text(d, into, orEnv) }

func text(d *caddyfile.Dispenser, into *string, hint string) error {
	name := d.Val()
	if *into != "" {
		return d.Errf("%s is already specified", name)
	}
	if !d.NextArg() || d.Val() == "" {
		return empty(d, name, hint)
	}
	if d.CountRemainingArgs() > 0 {
		return d.ArgErr()
	}
	*into = d.Val()
	return nil
}

// empty returns the error of an option without a value, as it is left if a variable is
// not set.
func empty(d *caddyfile.Dispenser, name, hint string) error {
	return d.Errf("%s is empty; is {$…} set?%s", name, hint)
}

// Texts reads one or more arguments. The subdirective may stand more than once.
func Texts(d *caddyfile.Dispenser, into *[]string) error {
	return texts(d, into, "")
}

// Settings is [Texts] for texts that take the placeholder {env.NAME}.
func Settings(d *caddyfile.Dispenser, into *[]string) error { return texts(d, into, orEnv) }

func texts(d *caddyfile.Dispenser, into *[]string, hint string) error {
	name, args := d.Val(), d.RemainingArgs()
	if len(args) == 0 || slices.Contains(args, "") {
		return empty(d, name, hint)
	}
	*into = append(*into, args...)
	return nil
}

// OnOff reads on or off.
func OnOff(d *caddyfile.Dispenser, into *bool) error {
	name, value := d.Val(), ""
	if err := Text(d, &value); err != nil {
		return err
	}
	if value != "on" && value != "off" {
		return d.Errf("%s: expected on or off, found '%s'", name, value)
	}
	*into = value == "on"
	return nil
}

// Number reads a number from 1 to largest.
func Number(d *caddyfile.Dispenser, into *int, largest int) error {
	name, value := d.Val(), ""
	if err := Text(d, &value); err != nil {
		return err
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > largest {
		return d.Errf("%s: expected a number from 1 to %d, found '%s'", name, largest, value)
	}
	*into = n
	return nil
}

// Size reads a size such as 1MiB, of at most largest bytes.
func Size(d *caddyfile.Dispenser, into *int64, largest uint64) error {
	name, value := d.Val(), ""
	if err := Text(d, &value); err != nil {
		return err
	}
	n, err := humanize.ParseBytes(value)
	if err != nil || n == 0 || n > largest {
		return d.Errf("%s: expected a size such as 1MiB, at most %dGiB, found '%s'", name, largest>>30, value)
	}
	*into = int64(n) //nolint:gosec // at most largest
	return nil
}

// Duration reads a positive duration such as 20s.
func Duration(d *caddyfile.Dispenser, into *caddy.Duration) error {
	name, value := d.Val(), ""
	if err := Text(d, &value); err != nil {
		return err
	}
	parsed, err := caddy.ParseDuration(value)
	if err != nil || parsed <= 0 {
		return d.Errf("%s: expected a duration such as 20s, found '%s'", name, value)
	}
	*into = caddy.Duration(parsed)
	return nil
}

// UnknownError says that a directive does not have a subdirective.
type UnknownError struct {
	Name    string
	Allowed []string
}

func (e *UnknownError) Error() string {
	return fmt.Sprintf("unrecognized subdirective '%s'; expected one of: %s", e.Name, strings.Join(e.Allowed, ", "))
}

// Unknown returns the error of a subdirective that is none of allowed, an [UnknownError].
func Unknown(d *caddyfile.Dispenser, allowed ...string) error {
	return d.WrapErr(&UnknownError{d.Val(), allowed})
}
