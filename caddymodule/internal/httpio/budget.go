package httpio

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// ErrBusy is the error of a body for which there is no room now.
var ErrBusy = errors.New("too many bodies are under way")

// Budget bounds the bodies that are being read, over all connections. It is safe for
// concurrent use.
type Budget struct {
	mostCalls, mostSize int64

	mu          sync.Mutex
	calls, size int64 // under way
}

// NewBudget returns a budget for so many bodies with so many bytes in all.
func NewBudget(calls, size int64) *Budget { return &Budget{mostCalls: calls, mostSize: size} }

// take takes a number of bodies and bytes into the budget, if there is room.
func (b *Budget) take(calls, size int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.calls+calls > b.mostCalls || b.size+size > b.mostSize {
		return false
	}
	b.calls += calls
	b.size += size
	return true
}

// firstRead is the room that a body gets before any of it has arrived, in bytes. What a
// caller says about the length of its body costs nothing beyond that.
const firstRead = 64 << 10

// Read reads a body of at most limit bytes, which must arrive within the given time. The
// body counts until release is called, which the caller does in any case. With an error, it
// returns the bytes read so far; the error wraps [ErrTooLarge] or [ErrBusy], or is that of
// the connection.
func (b *Budget) Read(w http.ResponseWriter, r *http.Request, limit int64, within time.Duration) (body []byte, release func(), err error) {
	if r.Body == nil || r.ContentLength == 0 {
		return nil, func() {}, nil
	}
	if r.ContentLength > limit {
		return nil, func() {}, TooLarge(limit)
	}
	expected := r.ContentLength
	if expected < 0 { // it comes in chunks, and does not say
		expected = 4 << 10
	}
	size := min(expected, firstRead)
	if !b.take(1, size) {
		return nil, func() {}, ErrBusy
	}
	release = func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.calls--
		b.size -= size
	}
	control := http.NewResponseController(w)
	// A writer without deadlines leaves it to the server's idle timeout.
	limited := control.SetReadDeadline(time.Now().Add(within)) == nil
	body = make([]byte, 0, size) // not pooled: a proxy may read the body after it has answered
	for int64(len(body)) != r.ContentLength {
		if len(body) == cap(body) {
			if int64(len(body)) > limit {
				return body, release, TooLarge(limit)
			}
			// One byte more than the limit tells that there is more.
			grown := min(2*size, max(r.ContentLength, limit+1))
			if !b.take(0, grown-size) {
				return body, release, ErrBusy
			}
			size = grown
			body = append(make([]byte, 0, size), body...)
		}
		n, err := r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case errors.Is(err, io.EOF) && r.ContentLength < 0:
			if int64(len(body)) > limit {
				return body, release, TooLarge(limit)
			}
			return body, release, unlimit(control, limited)
		case errors.Is(err, io.EOF) && int64(len(body)) < r.ContentLength:
			return body, release, io.ErrUnexpectedEOF
		case err != nil && !errors.Is(err, io.EOF):
			return body, release, err
		}
	}
	return body, release, unlimit(control, limited)
}

// unlimit takes the deadline back.
func unlimit(control *http.ResponseController, limited bool) error {
	if !limited {
		return nil
	}
	return control.SetReadDeadline(time.Time{})
}
