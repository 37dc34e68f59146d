package outbound

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/refusal"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/signer"
	"github.com/caddy-doku/caddy-doku/snap"
)

// answerRead is the part of an answer that is read before any of it goes to the app, in
// bytes, so that an answer that breaks off is an error. DOKU's answers are much smaller.
const answerRead = 1 << 20

// readAnswer reads DOKU's answer, unless it is too large, and leaves resp readable from
// the start.
func (c *call) readAnswer(resp *http.Response) error {
	for _, name := range []string{httpio.HeaderError, httpio.HeaderExternalID, httpio.HeaderReplayed, httpio.HeaderEarlierAttempt} {
		delete(resp.Header, name)
	}
	dropCORS(resp.Header)
	start, err := io.ReadAll(io.LimitReader(resp.Body, answerRead+1))
	if err != nil {
		resp.Body.Close()
		return fmt.Errorf("reading DOKU's answer: %w", err)
	}
	dropCORS(resp.Trailer)
	c.status, c.result = resp.StatusCode, resp.StatusCode
	defer func() {
		if c.maybeSent && (c.result < 200 || c.result > 299) {
			resp.Header.Set(httpio.HeaderEarlierAttempt, "unknown")
			if c.keyed != nil && c.answer != nil {
				c.answer.Header.Set(httpio.HeaderEarlierAttempt, "unknown")
			}
		}
	}()
	if len(start) > answerRead {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(start), resp.Body), resp.Body}
		return nil
	}
	resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(start))
	c.answer = &store.Answer{Status: resp.StatusCode, Body: start}
	c.plain = c.plainAnswer(resp.Header)
	if c.result = refusal.Result(resp.StatusCode, c.plain); c.tokenRejected() {
		c.result = http.StatusUnauthorized
	}
	if c.keyed != nil {
		c.answer.Header = maps.Clone(resp.Header) // the proxy changes it
		c.answer.Header[httpio.HeaderExternalID] = []string{c.externalID}
	}
	return nil
}

// dropCORS removes what permits web pages to read an answer.
func dropCORS(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			delete(h, name)
		}
	}
}

// tokenRejected reports whether DOKU's answer says that the token is invalid. Only an answer
// that is small enough to be read does.
func (c *call) tokenRejected() bool {
	return c.path != b2b2cTokenPath && c.plain != nil && signer.TokenRejected(c.status, c.plain)
}

// plainAnswer returns DOKU's answer as JSON, if it is small enough to have been read.
func (c *call) plainAnswer(h http.Header) []byte {
	return snap.PlainJSON(strings.Join(h.Values("Content-Encoding"), ", "), c.answer.Body, answerRead)
}
