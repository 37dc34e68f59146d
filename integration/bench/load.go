package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// roundDeadline ends a round that hangs.
const roundDeadline = 2 * time.Minute

// load drives one server over a fixed set of keep-alive connections. It writes
// requests as bytes and reads of the answers only the necessary parts, to leave the CPU
// to the processes under test. It is not safe for concurrent use.
type load struct {
	conns []*connection
}

// dial opens n connections to address.
func dial(ctx context.Context, address string, n int) (*load, error) {
	l := new(load)
	for range n {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			l.close()
			return nil, err
		}
		l.conns = append(l.conns, &connection{Conn: conn, answers: bufio.NewReader(conn)})
	}
	return l, nil
}

func (l *load) close() {
	for _, c := range l.conns {
		_ = c.Close()
	}
}

// run makes the calls of b, each of which must be answered by 200 and want, or, if
// want is not a whole JSON object, a body that begins with it, and
// returns how long each took. On an error some may not have been made, and the
// load must not be used again.
func (l *load) run(ctx context.Context, b batch, want []byte) ([]time.Duration, error) {
	deadline := time.Now().Add(roundDeadline)
	for _, c := range l.conns {
		if err := c.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	defer context.AfterFunc(ctx, l.close)()

	took := make([]time.Duration, len(b.calls))
	var next atomic.Int64
	failures := make([]error, len(l.conns))
	var wg sync.WaitGroup
	for n, c := range l.conns {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(b.calls) {
					return
				}
				start := time.Now()
				if failures[n] = c.call(b, i, want); failures[n] != nil {
					return
				}
				took[i] = time.Since(start)
			}
		})
	}
	wg.Wait()
	failed, first := 0, error(nil)
	for _, err := range failures {
		if err == nil {
			continue
		}
		failed++
		if first == nil {
			first = err
		}
	}
	if failed > 0 {
		return nil, fmt.Errorf("%d connections failed, the first: %w", failed, first)
	}
	return took, nil
}

// connection is one keep-alive connection to a server.
type connection struct {
	net.Conn
	answers *bufio.Reader
	request []byte // reused
}

func (c *connection) call(b batch, i int, want []byte) error {
	c.request = b.appendCall(c.request[:0], i)
	if _, err := c.Write(c.request); err != nil {
		return fmt.Errorf("sending a call: %w", err)
	}
	return readAnswer(c.answers, want)
}

var (
	errStatus = errors.New("expected status 200")
	errBody   = errors.New("expected another body")
	errLength = errors.New("expected a Content-Length")
)

// bodyShown is how much of an unexpected body an error shows.
const bodyShown = 300

// readAnswer reads one HTTP/1.1 answer with a Content-Length.
func readAnswer(r *bufio.Reader, want []byte) error {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("reading an answer: %w", err)
	}
	status := "200"
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		status = string(bytes.TrimSpace(line))
	}
	length := -1
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return fmt.Errorf("reading an answer's header: %w", err)
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return fmt.Errorf("%w: %w", errLength, err)
			}
		}
	}
	if status == "200" && length < 0 {
		return errLength
	}
	body, err := r.Peek(max(0, min(length, r.Size())))
	if err != nil {
		return fmt.Errorf("reading an answer's body: %w", err)
	}
	if status != "200" {
		return fmt.Errorf("%w, found %s: %.*q", errStatus, status, bodyShown, body)
	}
	if whole := bytes.HasSuffix(want, []byte("}")); whole && !bytes.Equal(body, want) || !bytes.HasPrefix(body, want) {
		return fmt.Errorf("%w, found %.*q", errBody, bodyShown, body)
	}
	_, err = r.Discard(length)
	return err
}
