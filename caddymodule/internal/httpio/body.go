// Package httpio reads request bodies, records the app's answers, and writes the
// sidecar's own: what both directions do with HTTP.
package httpio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// DefaultMaxBody is the largest body that a handler takes unless its configuration
// says otherwise, in bytes.
const DefaultMaxBody = 1 << 20

// MaxPooled is the largest buffer that is used again, in bytes.
const MaxPooled = 1 << 20

// At 64 KiB, garbage collection is half of the cost of signing without this pool.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// GetBuffer returns an empty slice with room for n bytes.
func GetBuffer(n int) []byte {
	pooled := buffers.Get().(*[]byte)
	if cap(*pooled) >= n {
		return (*pooled)[:0]
	}
	return make([]byte, 0, n)
}

// PutBuffer returns a buffer to the pool. Nobody may use it afterwards.
func PutBuffer(buffer []byte) {
	if size := cap(buffer); size > 0 && size <= MaxPooled {
		buffers.Put(&buffer)
	}
}

// ErrTooLarge is the error of a body over its limit.
var ErrTooLarge = errors.New("the body is too large")

// TooLarge returns [ErrTooLarge] with the limit in bytes.
func TooLarge(limit int64) error { return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit) }

// ReadBody reads a request body of at most limit bytes into a buffer from get, which
// is called with the expected size. With an error, it returns the bytes read so far;
// the error of a larger body wraps [ErrTooLarge].
func ReadBody(r *http.Request, limit int64, get func(n int) []byte) ([]byte, error) {
	if r.Body == nil || r.ContentLength == 0 {
		return nil, nil
	}
	if r.ContentLength > limit {
		return nil, TooLarge(limit)
	}
	if r.ContentLength > 0 {
		body := get(int(r.ContentLength))[:r.ContentLength]
		n, err := io.ReadFull(r.Body, body) // the server cuts off what comes behind Content-Length
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return body[:n], err
	}
	buffer := bytes.NewBuffer(get(bytes.MinRead))
	_, err := buffer.ReadFrom(io.LimitReader(r.Body, limit+1))
	if err == nil && int64(buffer.Len()) > limit {
		err = TooLarge(limit)
	}
	return buffer.Bytes(), err
}

// abandonWithin is how long the server reads on, so that the caller can take the
// answer.
const abandonWithin = time.Second

// arrivedAtMost is the largest body that may have arrived with its headers, in bytes.
const arrivedAtMost = 4 << 10

// Abandon ends a request whose body nobody reads: soon, whatever the caller does. With
// HTTP/1 the connection closes, unless the whole body has arrived already. From HTTP/2 on
// only the request's own stream ends, because others share the connection.
func Abandon(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	if r.ContentLength == 0 || r.ProtoMajor == 1 && arrived(control, r) {
		return
	}
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	_ = control.SetReadDeadline(time.Now().Add(abandonWithin)) // see [Budget.Read]
}

// arrived discards a body that has arrived with its headers, without waiting for more. A
// caller that asks first whether to send it (Expect) gets no invitation.
func arrived(control *http.ResponseController, r *http.Request) bool {
	if r.ContentLength < 0 || r.ContentLength > arrivedAtMost || r.Header.Get("Expect") != "" ||
		control.SetReadDeadline(time.Unix(1, 0)) != nil {
		return false
	}
	n, err := io.Copy(io.Discard, r.Body)
	return err == nil && n == r.ContentLength && control.SetReadDeadline(time.Time{}) == nil
}
