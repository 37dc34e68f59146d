package simulator

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
)

// errDropped is the error of [Simulator.RoundTrip] for a dropped connection.
var errDropped = errors.New("simulator: connection dropped")

// RoundTrip makes the simulator an [http.RoundTripper], so that an [http.Client] reaches it
// without a network. Tests in a [testing/synctest] bubble need this: time stands still there
// while a goroutine waits for the network.
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
			// The same error as from a server with http.ErrAbortHandler, or for a short body.
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
		return nil, errDropped
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
	begun  chan struct{} // closed once status and sent are set, or there is no answer
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
