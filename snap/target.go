package snap

import "strings"

// RequestTarget returns the part of a request line's target that is signed:
// the path with its query, with every escape, double slash and dot segment
// left as it stands. requestURI is what [net/http.Request.RequestURI] or
// [net/url.URL.RequestURI] give. A target in absolute form
// ("http://host/path?query") loses scheme and host; an empty path becomes "/".
//
// DOKU's pages name the path; that a query belongs to it follows from "the
// full URL endpoint includes all parameters in the associated URL".
func RequestTarget(requestURI string) string {
	if strings.HasPrefix(requestURI, "/") {
		return requestURI
	}
	if _, rest, found := strings.Cut(requestURI, "://"); found {
		if i := strings.IndexAny(rest, "/?"); i >= 0 {
			requestURI = rest[i:]
		} else {
			requestURI = ""
		}
	}
	if !strings.HasPrefix(requestURI, "/") {
		return "/" + requestURI
	}
	return requestURI
}
