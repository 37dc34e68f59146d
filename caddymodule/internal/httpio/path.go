package httpio

import (
	"net/url"
	"path"
	"strings"
)

// CleanPath returns one spelling for all paths that a server may understand as p. It
// removes escapes, however often p is escaped, empty, "." and ".." segments, parameters
// behind ";" and a final slash, and writes letters in lower case.
func CleanPath(p string) string {
	if isClean(p) {
		return p
	}
	for range 3 { // more layers than any chain of proxies takes off
		plain := unescape(p)
		if plain == p {
			break
		}
		p = plain
	}
	p = strings.ReplaceAll(strings.ToLower(p), `\`, "/")
	segments := strings.Split(p, "/")
	for i, segment := range segments {
		name, _, _ := strings.Cut(segment, ";")
		segments[i] = strings.TrimSpace(name)
	}
	return path.Clean("/" + strings.Join(segments, "/"))
}

// unescape takes one layer of escapes off a path, and leaves what is none.
func unescape(p string) string {
	if plain, err := url.PathUnescape(p); err == nil {
		return plain
	}
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		if p[i] == '%' && i+2 < len(p) {
			if plain, err := url.PathUnescape(p[i : i+3]); err == nil {
				b.WriteString(plain)
				i += 2
				continue
			}
		}
		b.WriteByte(p[i])
	}
	return b.String()
}

// isClean reports whether p is certainly the result of [CleanPath] already.
func isClean(p string) bool {
	if len(p) < 2 || p[0] != '/' || p[len(p)-1] == '/' {
		return false
	}
	for i := range len(p) {
		switch c := p[i]; {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_':
		case c == '/' && p[i+1] != '/': // the last byte is none
		case c == '.' && p[i-1] != '/': // the first byte is none
		default:
			return false
		}
	}
	return true
}
