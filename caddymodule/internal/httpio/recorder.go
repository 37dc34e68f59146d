package httpio

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-doku/caddy-doku/internal/store"
)

// Recorder records the app's answer. Nothing of it reaches DOKU by itself, neither an
// informational status (1xx) nor the connection. Its headers are those of the
// ResponseWriter behind it, unless [Recorder.Rollback] restores them.
type Recorder struct {
	header http.Header
	before []field // of header, before the app
	status int     // 0 until there is a final one
	body   *bytes.Buffer
	failed error // why a part of the body could not be recorded
	source string
}

// field is a header with its values.
type field struct {
	name   string
	values []string
}

// NewRecorder returns a recorder whose headers are those of w. The body goes into
// buffer.
func NewRecorder(w http.ResponseWriter, buffer *bytes.Buffer) *Recorder {
	rec := &Recorder{header: w.Header(), body: buffer}
	for name, values := range rec.header {
		rec.before = append(rec.before, field{name, slices.Clone(values)})
	}
	return rec
}

// NewDetachedRecorder returns a recorder with headers of its own, for a request that
// no connection waits for.
func NewDetachedRecorder() *Recorder {
	return &Recorder{header: make(http.Header), body: new(bytes.Buffer)}
}

// Rollback removes the app's changes to the headers.
func (rec *Recorder) Rollback() {
	clear(rec.header)
	for _, f := range rec.before {
		rec.header[f.name] = f.values
	}
}

// Status returns the final status, or 0 if there is none yet.
func (rec *Recorder) Status() int { return rec.status }

// Header implements [http.ResponseWriter].
func (rec *Recorder) Header() http.Header { return rec.header }

// WriteHeader implements [http.ResponseWriter].
func (rec *Recorder) WriteHeader(status int) {
	if rec.status == 0 && status >= http.StatusOK {
		rec.status = status
	}
}

// maxRecorded is far more than an app has to say to DOKU.
const maxRecorded = 16 << 20

var errAnswerTooLarge = fmt.Errorf("the app's answer has more than %d bytes", maxRecorded)

// Write implements [http.ResponseWriter].
func (rec *Recorder) Write(p []byte) (int, error) {
	if rec.body.Len()+len(p) > maxRecorded {
		rec.failed = errAnswerTooLarge
		return 0, errAnswerTooLarge
	}
	rec.WriteHeader(http.StatusOK)
	return rec.body.Write(p)
}

// FlushError implements what [http.ResponseController] looks for. A proxy flushes,
// but nobody reads before the answer is complete.
func (rec *Recorder) FlushError() error { return nil }

// Answer returns the recorded answer, without the headers that only the sidecar sets.
func (rec *Recorder) Answer() store.Answer {
	for _, name := range []string{HeaderError, HeaderReplayed, HeaderExternalID} {
		delete(rec.header, name)
	}
	return store.Answer{Status: rec.status, Header: rec.header, Body: rec.body.Bytes()}
}

// ReplayFrom answers w with an earlier answer, and tells the recorder behind w which
// handler gives it: source is what [Recorder.Source] returns.
func ReplayFrom(w http.ResponseWriter, source string, earlier *store.Answer) error {
	for inner := w; inner != nil; {
		if rec, ok := inner.(*Recorder); ok {
			rec.source = source
			break
		}
		wrapper, ok := inner.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		inner = wrapper.Unwrap()
	}
	return Replay(w, earlier)
}

// Source returns which handler has answered with [ReplayFrom], or "" if the app
// answered through a proxy.
func (rec *Recorder) Source() string { return rec.source }

// BrokenError is the error of an answer whose head has arrived, and whose body could not be read
// to its end.
type BrokenError struct{ cause error }

func (b BrokenError) Error() string { return b.cause.Error() }

// Unwrap returns what was wrong with the body.
func (b BrokenError) Unwrap() error { return b.cause }

var (
	errTruncated  = errors.New("its body breaks off, or does not fit its Content-Encoding")
	errNotInTime  = errors.New("its body did not arrive in time")
	errUnfinished = errors.New("its body is a JSON object without its end")
)

// Cause returns the error behind the request id and the place in Caddy's source that
// Caddy puts in front of a proxy's error.
func Cause(err error) error {
	if failure, ok := errors.AsType[caddyhttp.HandlerError](err); ok && failure.Err != nil {
		return failure.Err
	}
	return err
}

// Record calls handler, which writes the answer to the recorder; ctx is that of the request.
// If the head of an answer has arrived, and its body breaks off, the error is a [BrokenError]. A
// proxy may tell that by a panic, as Caddy's does.
func (rec *Recorder) Record(ctx context.Context, handler func() error) (err error) {
	defer func() {
		switch panicked := recover(); panicked {
		case nil:
		case http.ErrAbortHandler:
			err = errTruncated
		default:
			panic(panicked)
		}
		switch {
		case err == nil || rec.status == 0 || rec.source != "":
		case rec.failed != nil:
			err = BrokenError{rec.failed}
		case ctx.Err() != nil:
			err = BrokenError{fmt.Errorf("%w: %w", errNotInTime, ctx.Err())}
		default:
			err = BrokenError{err}
		}
	}()
	if err = handler(); err == nil && rec.truncated() {
		return errUnfinished
	}
	return err
}

// truncated reports whether the answer is a JSON object without its end. Over
// HTTP/1.0 and FastCGI an answer need not have a length: an app that dies in the
// middle of it looks as if it had finished, and nothing else notices.
func (rec *Recorder) truncated() bool {
	body := rec.body.Bytes()
	if len(rec.header["Content-Length"]) > 0 || !bytes.HasPrefix(body, []byte("{")) || json.Valid(body) {
		return false
	}
	return errors.Is(json.NewDecoder(bytes.NewReader(body)).Decode(new(json.RawMessage)), io.ErrUnexpectedEOF)
}
