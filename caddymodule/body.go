package caddymodule

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// The bodies of calls are read into memory that is used again: at 64 KiB, half of
// what signing costs is otherwise the garbage collector's work.
var bodies = sync.Pool{New: func() any { return new([]byte) }}

const recycledMost = 1 << 20

// memory returns an empty slice with room for n bytes.
func memory(n int) []byte {
	kept := bodies.Get().(*[]byte)
	if cap(*kept) >= n {
		return (*kept)[:0]
	}
	return make([]byte, 0, n)
}

// recycle lets memory that nobody uses any more be used again.
func recycle(memory []byte) {
	if size := cap(memory); size > 0 && size <= recycledMost {
		bodies.Put(&memory)
	}
}

var errTooLarge = errors.New("the body is too large")

func tooLarge(limit int64) error { return fmt.Errorf("%w: more than %d bytes", errTooLarge, limit) }

// readBody reads a request's body of at most limit bytes, into what room gives for
// a size. With an error, which wraps [errTooLarge] if the body is larger, it
// returns what it has read.
func readBody(r *http.Request, limit int64, room func(n int) []byte) ([]byte, error) {
	if r.Body == nil || r.ContentLength == 0 {
		return nil, nil
	}
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	if r.ContentLength > 0 {
		body := room(int(r.ContentLength))[:r.ContentLength]
		n, err := io.ReadFull(r.Body, body) // the server lets nobody send more
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return body[:n], err
	}
	buffer := bytes.NewBuffer(room(bytes.MinRead))
	_, err := buffer.ReadFrom(io.LimitReader(r.Body, limit+1))
	if err == nil && int64(buffer.Len()) > limit {
		err = tooLarge(limit)
	}
	return buffer.Bytes(), err
}

// readInbound is readBody for a body from the net, which has to arrive in time. It
// has memory of its own, since a proxy may read it after it has answered.
func readInbound(w http.ResponseWriter, r *http.Request, limit int64, within time.Duration) ([]byte, error) {
	control := http.NewResponseController(w)
	// Not every writer has deadlines; then the server's own idle timeout holds.
	limited := control.SetReadDeadline(time.Now().Add(within)) == nil
	body, err := readBody(r, limit, func(n int) []byte { return make([]byte, 0, n) })
	if limited && err == nil {
		err = control.SetReadDeadline(time.Time{})
	}
	return body, err
}

// abandonWithin is how long a caller has to take the answer to a request whose
// body is not read: the server reads on for a while, so that it can.
const abandonWithin = time.Second

// abandon has the connection closed after an answer that is given without reading
// the rest of the body, soon and whatever the caller does. From HTTP/2 on only the
// request's own stream ends: the connection is that of others too.
func abandon(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(abandonWithin)) // see readInbound
}
