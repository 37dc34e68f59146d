package simulator

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
)

// ErrDropped is what a client sees when the simulator drops a connection, with
// [Simulator.RoundTrip].
var ErrDropped = errors.New("simulator: connection dropped")

// RoundTrip lets a client call the simulator without a network, as its
// [http.RoundTripper]: in tests with a clock that is not the machine's, nothing
// else may wait.
func (s *Simulator) RoundTrip(req *http.Request) (*http.Response, error) {
	r := req.Clone(req.Context())
	r.RequestURI = req.URL.RequestURI()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	reader, writer := io.Pipe()
	w := &wire{header: make(http.Header), body: writer, begun: make(chan struct{})}
	go func() {
		defer r.Body.Close()
		defer func() {
			// As a server does for http.ErrAbortHandler, and a client for a short body.
			if recover() != nil || w.sent != nil && strconv.Itoa(w.written) != w.sent.Get("Content-Length") {
				writer.CloseWithError(io.ErrUnexpectedEOF)
			} else {
				_ = writer.Close() // always nil
			}
			w.once.Do(func() { close(w.begun) })
		}()
		s.ServeHTTP(w, r)
	}()
	select {
	case <-w.begun:
	case <-req.Context().Done():
		reader.CloseWithError(req.Context().Err())
		return nil, req.Context().Err()
	}
	if w.status == 0 {
		return nil, ErrDropped
	}
	stop := make(chan struct{})
	go func() { // ends with the body
		select {
		case <-req.Context().Done():
			reader.CloseWithError(req.Context().Err())
		case <-stop:
		}
	}()
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: &wireBody{PipeReader: reader, stop: stop}, ContentLength: -1, Request: req,
	}, nil
}

// wire is the server's end.
type wire struct {
	header http.Header
	body   *io.PipeWriter
	begun  chan struct{} // closed when status and sent are set, or nothing will come
	once   sync.Once
	status int
	sent   http.Header

	written int // bytes of the body
}

func (w *wire) Header() http.Header { return w.header }

func (w *wire) WriteHeader(status int) {
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.begun)
	})
}

func (w *wire) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	n, err := w.body.Write(p)
	w.written += n
	return n, err
}

func (w *wire) Flush() {}

// wireBody is the client's end.
type wireBody struct {
	*io.PipeReader
	once sync.Once
	stop chan struct{}
}

func (b *wireBody) Close() error {
	b.once.Do(func() { close(b.stop) })
	return b.PipeReader.Close()
}
