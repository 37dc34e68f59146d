package caddymodule

import (
	"bytes"
	"net/http"
	"sync"
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

// readBody reads a request's body of at most limit bytes, into memory that may be
// recycled. A larger body is a [*http.MaxBytesError].
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.Body == nil || r.ContentLength == 0 {
		return nil, nil
	}
	if r.ContentLength > limit {
		return nil, &http.MaxBytesError{Limit: limit}
	}
	// Room to see the end without growing again, if the length is known.
	buffer := bytes.NewBuffer(memory(int(max(r.ContentLength, 0)) + bytes.MinRead))
	_, err := buffer.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	return buffer.Bytes(), err
}
