package inbound

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// errNoHandler is the error of a call that no handler behind doku_verify has answered.
var errNoHandler = errors.New("no handler answered: expected a reverse_proxy to the app after doku_verify, for the same path")

// answered notes whether a handler has answered. Caddy makes an empty 200 of no answer.
type answered struct {
	*caddyhttp.ResponseWriterWrapper

	began bool
}

func newAnswered(w http.ResponseWriter) *answered {
	return &answered{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}}
}

// WriteHeader notes that an answer begins; 1xx is none yet.
func (a *answered) WriteHeader(status int) {
	a.began = a.began || status >= http.StatusOK || status == http.StatusSwitchingProtocols
	a.ResponseWriterWrapper.WriteHeader(status)
}

func (a *answered) Write(p []byte) (int, error) {
	a.began = true
	return a.ResponseWriterWrapper.Write(p)
}
