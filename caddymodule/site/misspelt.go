package site

import (
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/directive"
)

// Caddy does not say what an unknown directive may be. It asks the directives that are
// registered, so the words that are one slip away from ours are, with an error.
func init() {
	known := make(map[string]bool)
	for _, name := range directive.Names {
		known[name] = true
	}
	for _, name := range directive.Names {
		for _, slip := range slips(name) {
			if known[slip] {
				continue
			}
			known[slip] = true
			httpcaddyfile.RegisterDirective(slip, func(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
				h.Next()
				return nil, h.Errf("unrecognized directive: %s; did you mean %s?", slip, name)
			})
		}
	}
}

// slips returns the words that one slip makes of a name: a letter too many, too few, wrong,
// or swapped with the next one; or another sign in place of the underscore.
func slips(name string) (all []string) {
	const letters = "abcdefghijklmnopqrstuvwxyz_-"
	for i := range len(name) + 1 {
		before, after := name[:i], name[i:]
		for letter := range strings.SplitSeq(letters, "") {
			all = append(all, before+letter+after)
			if after != "" {
				all = append(all, before+letter+after[1:])
			}
		}
		if after != "" {
			all = append(all, before+after[1:])
		}
		if len(after) > 1 {
			all = append(all, before+string(after[1])+string(after[0])+after[2:])
		}
	}
	return append(all, strings.ToUpper(name), strings.ReplaceAll(name, "_", "."))
}
