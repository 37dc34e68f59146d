package site

import (
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/directive"
)

// behindApp are the directives that Caddy sorts behind doku_app. The check of the JSON
// finds all others too, but without their places.
var behindApp = []string{
	"basic_auth", "forward_auth", "request_header", "intercept", "invoke", "handle",
	"handle_path", "route", "abort", "error", "copy_response", "respond", "metrics", "reverse_proxy", "php_fastcgi", "file_server",
	"acme_server", directive.Token, directive.Verify, directive.Sign, directive.Inbox, directive.Health, directive.Unhandled,
}

// word is a token of a Caddyfile.
type word struct {
	text, file string
	line       int
}

// endsBefore reports whether next is on a later line.
func (w word) endsBefore(next word) bool {
	return w.file != next.file || w.line+strings.Count(w.text, "\n") < next.line
}

// neverReached returns an error if a directive beside doku_app, which h is at, would never
// be reached.
func neverReached(h httpcaddyfile.Helper) error {
	in, before, behind := neighbours(siteBlock(h), word{h.Val(), h.File(), h.Line()})
	order, _ := h.Option("order").([]string)
	sortedBehind := func(name string) bool {
		if order == nil {
			return slices.Contains(behindApp, name)
		}
		own, other := slices.Index(order, directive.App), slices.Index(order, name)
		return other > own && own >= 0
	}
	for i, neighbour := range append(before, behind...) {
		name := neighbour.text
		switch {
		case strings.HasPrefix(name, "@"):
			continue
		case name == directive.App:
			return h.Errf(
				"two doku_app stand in one site, at lines %d and %d: the second one is never reached; write all paths in the first one",
				min(neighbour.line, h.Line()),
				max(neighbour.line, h.Line()),
			)
		case in == "route" && i < len(before), in != "route" && !sortedBehind(name):
			continue
		}
		return h.Errf(
			"%s at %s:%d is never reached: doku_app answers every path of its site; remove %s, or write both in a block `route`, "+
				"with it before doku_app",
			name,
			neighbour.file,
			neighbour.line,
			name,
		)
	}
	return nil
}

// siteBlock returns the directives of the site that a directive stands in. Caddy does not
// show it to directives; without it, nothing is found here, but when the JSON is checked.
func siteBlock(h httpcaddyfile.Helper) (words []word) {
	block := reflect.ValueOf(h).FieldByName("parentBlock")
	if !block.IsValid() || block.Kind() != reflect.Struct {
		return nil
	}
	segments := block.FieldByName("Segments")
	if !segments.IsValid() || segments.Kind() != reflect.Slice {
		return nil
	}
	for _, segment := range segments.Seq2() {
		for _, token := range segment.Seq2() {
			words = append(words, word{
				token.FieldByName("Text").String(), token.FieldByName("File").String(), int(token.FieldByName("Line").Int()),
			})
		}
	}
	return words
}

// neighbours returns the first words of the directives that stand before and behind one,
// in the same block, and the name of the directive whose block it is, or "" for a site.
func neighbours(words []word, of word) (in string, before, behind []word) {
	type frame struct {
		name  string
		heads []word
	}
	stack := []frame{{}}
	own := -1 // depth at which it has been found
	var last word
	for i, w := range words {
		begins := i == 0 || last.endsBefore(w) || last.text == "{"
		last = w
		top := &stack[len(stack)-1]
		switch {
		case w.text == "{" && len(top.heads) > 0:
			stack = append(stack, frame{name: top.heads[len(top.heads)-1].text})
			continue
		case w.text == "}" && len(stack) > 1:
			if own == len(stack)-1 {
				return in, before, top.heads[len(before)+1:]
			}
			stack = stack[:len(stack)-1]
			continue
		case !begins:
			continue
		}
		top.heads = append(top.heads, w)
		if own < 0 && w == of {
			own, in, before = len(stack)-1, top.name, slices.Clone(top.heads[:len(top.heads)-1])
		}
	}
	if own < 0 {
		return "", nil, nil
	}
	return in, before, stack[own].heads[len(before)+1:]
}
