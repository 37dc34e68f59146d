package routes

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
)

// Request is a request that routes are looked up for.
type Request struct{ Host, Method, Path string }

// truth is whether something matches, as far as the configuration tells.
type truth int

const (
	no truth = iota
	maybe
	yes
)

// matchersOf returns the sets of matchers, of which one must match as a whole.
func matchersOf(sets caddyhttp.MatcherSets, raw []caddy.ModuleMap) (all [][]any) {
	if len(raw) == 0 {
		for _, set := range sets {
			all = append(all, set)
		}
		return all
	}
	for _, set := range raw {
		var matchers []any
		for _, name := range slices.Sorted(maps.Keys(set)) {
			matcher := decoded("http.matchers."+name, set[name])
			if matcher == nil {
				matcher = name + string(set[name])
			}
			matchers = append(matchers, matcher)
		}
		all = append(all, matchers)
	}
	return all
}

// plain returns a matcher without the pointer to it, so that one case covers both.
func plain(matcher any) any {
	switch m := matcher.(type) {
	case *caddyhttp.MatchPath:
		return *m
	case *caddyhttp.MatchHost:
		return *m
	case *caddyhttp.MatchMethod:
		return *m
	case *caddyhttp.MatchPathRE:
		return *m
	case *caddyhttp.MatchNot:
		return *m
	}
	return matcher
}

// fact is what a trail has assumed of a matcher that the configuration does not tell of.
type fact struct {
	matcher string
	holds   bool
}

// question is whether a request matches, with what is assumed already.
type question struct {
	trail
	assumed []fact
	unknown string // the first matcher that the answer needs and nobody knows
}

// anyOf reports whether one of the sets matches.
func (q *question) anyOf(sets [][]any) truth {
	if len(sets) == 0 {
		return yes
	}
	result := no
	for _, set := range sets {
		whole := yes
		for _, matcher := range set {
			whole = min(whole, q.one(matcher))
		}
		result = max(result, whole)
	}
	return result
}

func (q *question) one(matcher any) truth {
	switch m := plain(matcher).(type) {
	case caddyhttp.MatchPath:
		return q.paths(m)
	case caddyhttp.MatchHost:
		return q.hosts(m)
	case caddyhttp.MatchMethod:
		if !strings.Contains(strings.Join(m, ""), "{") {
			return truthOf(slices.ContainsFunc(m, func(method string) bool { return strings.EqualFold(method, q.Method) }))
		}
	case caddyhttp.MatchPathRE:
		if expression, err := regexp.Compile(m.Pattern); err == nil && !q.Guessed {
			return truthOf(expression.MatchString(q.Request.Path))
		}
	case *fileserver.MatchFile:
		if _, found := fallback(m); found {
			return yes
		}
	case caddyhttp.MatchNot:
		sets := matchersOf(m.MatcherSets, nil)
		if len(sets) == 0 {
			sets = matchersOf(nil, m.MatcherSetsRaw)
		}
		return yes - q.anyOf(sets)
	}
	return q.ask(matcher)
}

// fallback returns the file that a matcher comes to if there is none at the path itself, as
// for a path of DOKU's: the last one that it names.
func fallback(m *fileserver.MatchFile) (file string, found bool) {
	if len(m.TryFiles) == 0 {
		return "", false
	}
	last := m.TryFiles[len(m.TryFiles)-1]
	return last, !strings.Contains(last, "{")
}

func truthOf(holds bool) truth {
	if holds {
		return yes
	}
	return no
}

// ask returns what the trail assumes of a matcher. The same matcher has the same answer all
// along a request's way.
func (q *question) ask(matcher any) truth {
	name := identity(matcher)
	for _, f := range q.assumed {
		if f.matcher == name {
			return truthOf(f.holds)
		}
	}
	if q.unknown == "" {
		q.unknown = name
	}
	return maybe
}

// identity returns a text that two matchers with the same settings share.
func identity(matcher any) string {
	settings, err := json.Marshal(matcher)
	if err != nil {
		return fmt.Sprintf("%T %p", matcher, matcher)
	}
	return strings.TrimPrefix(reflect.TypeOf(matcher).String(), "*") + string(settings)
}

func (q *question) paths(patterns caddyhttp.MatchPath) truth {
	result := no
	for _, pattern := range patterns {
		found := truthOf(MatchPath(pattern, q.Request.Path))
		if strings.ContainsAny(pattern, "{%") || q.Guessed && pattern != "*" && pattern != "/*" {
			found = q.ask(pattern)
		}
		result = max(result, found)
	}
	return result
}

func (q *question) hosts(patterns caddyhttp.MatchHost) truth {
	result := no
	for _, pattern := range patterns {
		found := truthOf(MatchHost(pattern, q.Host))
		if found == no && strings.Contains(pattern, "{") {
			found = q.ask(pattern)
		}
		result = max(result, found)
	}
	return result
}

// MatchHost reports whether Caddy's host pattern matches a name. It takes a placeholder for
// itself.
func MatchHost(pattern, name string) bool {
	want, have := strings.Split(strings.ToLower(pattern), "."), strings.Split(strings.ToLower(name), ".")
	return slices.EqualFunc(want, have, func(w, h string) bool { return w == "*" || w == h })
}

// MatchPath reports whether Caddy's path pattern matches a path. It takes a placeholder and
// an escaped byte for themselves.
func MatchPath(pattern, of string) bool {
	pattern, of = strings.ToLower(pattern), strings.ToLower(of)
	inner := strings.TrimSuffix(strings.TrimPrefix(pattern, "*"), "*")
	switch {
	case strings.ContainsAny(inner, "*?[\\"):
		found, _ := path.Match(pattern, of)
		return found
	case pattern == "*":
		return true
	case strings.HasPrefix(pattern, "*") && strings.HasSuffix(pattern, "*"):
		return strings.Contains(of, inner)
	case strings.HasPrefix(pattern, "*"):
		return strings.HasSuffix(of, inner)
	case strings.HasSuffix(pattern, "*"):
		return strings.HasPrefix(of, inner)
	}
	return pattern == of
}
