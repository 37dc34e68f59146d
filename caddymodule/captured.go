package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-doku/caddy-doku/internal/store"
)

// captured is the app's answer. Nothing of it reaches DOKU by itself, neither a
// status that is only informational (1xx) nor the connection; its headers do, unless
// they are taken back by [captured.undo].
type captured struct {
	header http.Header
	before []field // of header, before the app
	status int     // 0 until there is a final one
	body   *bytes.Buffer
}

// field is a header with its values.
type field struct {
	name   string
	values []string
}

// capture returns a writer for the app's answer, whose body goes into buffer. Its
// headers are those of w.
func capture(w http.ResponseWriter, buffer *bytes.Buffer) *captured {
	c := &captured{header: w.Header(), body: buffer}
	for name, values := range c.header {
		c.before = append(c.before, field{name, slices.Clone(values)})
	}
	return c
}

// undo takes back what the app has done to the headers.
func (c *captured) undo() {
	clear(c.header)
	for _, f := range c.before {
		c.header[f.name] = f.values
	}
}

// Header implements [http.ResponseWriter].
func (c *captured) Header() http.Header { return c.header }

// WriteHeader implements [http.ResponseWriter].
func (c *captured) WriteHeader(status int) {
	if c.status == 0 && status >= http.StatusOK {
		c.status = status
	}
}

// capturedMost is far more than an app has to say to DOKU.
const capturedMost = 16 << 20

var errAnswerTooLarge = fmt.Errorf("the app's answer has more than %d bytes", capturedMost)

// Write implements [http.ResponseWriter].
func (c *captured) Write(p []byte) (int, error) {
	if c.body.Len()+len(p) > capturedMost {
		return 0, errAnswerTooLarge
	}
	c.WriteHeader(http.StatusOK)
	return c.body.Write(p)
}

// FlushError implements what [http.ResponseController] looks for: a proxy flushes,
// but there is nobody to flush to.
func (c *captured) FlushError() error { return nil }

// answer returns the answer, to be kept, without the headers that are ours.
func (c *captured) answer() store.Answer {
	for _, name := range []string{headerError, headerReplayed, headerExternalID} {
		delete(c.header, name)
	}
	return store.Answer{Status: c.status, Header: c.header, Body: c.body.Bytes()}
}

// give answers with what was captured, and status. w is that of [capture].
func (c *captured) give(w http.ResponseWriter, status int) error {
	if c.body.Len() > 0 {
		c.header["Content-Length"] = []string{strconv.Itoa(c.body.Len())}
	}
	w.WriteHeader(status)
	_, err := w.Write(c.body.Bytes())
	return err
}

var errBrokeOff = errors.New("the app's answer broke off")

// plain returns what a proxy's error is about, without the id of the request and the
// place in Caddy's source that Caddy puts in front.
func plain(err error) error {
	if failure, ok := errors.AsType[caddyhttp.HandlerError](err); ok && failure.Err != nil {
		return failure.Err
	}
	return err
}

// whole calls f, which has the app write the answer, and returns [errBrokeOff] if
// that broke off: a proxy says so by a panic, if it can tell.
func (c *captured) whole(f func() error) (err error) {
	defer func() {
		switch broken := recover(); broken {
		case nil:
		case http.ErrAbortHandler:
			err = errBrokeOff
		default:
			panic(broken)
		}
	}()
	if err = f(); err == nil && c.cut() {
		return errBrokeOff
	}
	return err
}

// cut reports whether the answer is an object in JSON without its end. Over HTTP/1.0
// and FastCGI an answer need not have a length; then the death of the app in the
// middle of it looks like its end, which nobody else notices.
func (c *captured) cut() bool {
	body := c.body.Bytes()
	if len(c.header["Content-Length"]) > 0 || !bytes.HasPrefix(body, []byte("{")) || json.Valid(body) {
		return false
	}
	return errors.Is(json.NewDecoder(bytes.NewReader(body)).Decode(new(json.RawMessage)), io.ErrUnexpectedEOF)
}
