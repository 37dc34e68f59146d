// Package adminapi is the frame of our part of Caddy's admin API: routes, answers and
// errors in JSON, and the client that the commands use.
package adminapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// Handlers answer requests of the admin API, by method and path as [http.ServeMux]
// reads them.
type Handlers map[string]caddy.AdminHandlerFunc

// Routes returns the routes of the handlers. Other methods of their paths get 405.
func (h Handlers) Routes() (routes []caddy.AdminRoute) {
	allowed := make(map[string][]string) // methods, by path
	for _, pattern := range slices.Sorted(maps.Keys(h)) {
		method, path, _ := strings.Cut(pattern, " ")
		allowed[path] = append(allowed[path], method)
		routes = append(routes, caddy.AdminRoute{Pattern: pattern, Handler: h[pattern]})
	}
	for path, methods := range allowed {
		list := strings.Join(methods, ", ")
		routes = append(
			routes,
			caddy.AdminRoute{Pattern: path, Handler: caddy.AdminHandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				w.Header().Set("Allow", list)
				return Error(http.StatusMethodNotAllowed, fmt.Errorf("%s: expected %s, found %.20s", path, list, r.Method))
			})},
		)
	}
	return routes
}

// known has the patterns of all registered handlers.
var known []string

// Register adds the handlers' patterns to those that [NotFound] lists. It is for init
// functions.
func Register(h Handlers) {
	known = append(known, slices.Collect(maps.Keys(h))...)
	slices.Sort(known)
}

// NotFound returns the route for every other path below prefix: 404 with the patterns
// that there are.
func NotFound(prefix string) caddy.AdminRoute {
	return caddy.AdminRoute{Pattern: prefix, Handler: caddy.AdminHandlerFunc(func(http.ResponseWriter, *http.Request) error {
		return Error(http.StatusNotFound, errors.New("there is no such path; there are: "+strings.Join(known, ", ")))
	})}
}

// Error returns err as the admin API answers it. An error that has a status keeps it.
func Error(status int, err error) error {
	if _, known := errors.AsType[caddy.APIError](err); known {
		return err
	}
	return caddy.APIError{HTTPStatus: status, Err: err}
}

// Write answers with value as JSON for people to read.
func Write(w http.ResponseWriter, value any) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}
