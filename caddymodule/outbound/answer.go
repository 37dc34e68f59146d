package outbound

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/internal/store"
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
	if c.maybeSent && (resp.StatusCode < 200 || resp.StatusCode > 299) {
		resp.Header.Set(httpio.HeaderEarlierAttempt, "unknown")
	}
	start, err := io.ReadAll(io.LimitReader(resp.Body, answerRead+1))
	if err != nil {
		resp.Body.Close()
		return fmt.Errorf("reading DOKU's answer: %w", err)
	}
	c.status = resp.StatusCode
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
	if c.keyed != nil {
		c.answer.Header = maps.Clone(resp.Header) // the proxy changes it
		c.answer.Header[httpio.HeaderExternalID] = []string{c.externalID}
	}
	return nil
}

// tokenRefused reports whether an answer of DOKU's is a 401 about the token.
func tokenRefused(status int, a *store.Answer) bool {
	if status != http.StatusUnauthorized || a == nil {
		return false
	}
	var fields struct {
		ResponseCode snap.ResponseCode `json:"responseCode"`
	}
	if json.Unmarshal(a.Body, &fields) != nil {
		return false
	}
	status, number, ok := fields.ResponseCode.Case()
	return ok && status == http.StatusUnauthorized && (number == 1 || number == 3)
}
