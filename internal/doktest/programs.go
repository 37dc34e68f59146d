// Package doktest has what the tests of several packages need: test keys, free ports,
// waiting for events, and other programs to start. It imports nothing of ours, so every
// package can use it.
package doktest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Need skips the test if a program is not installed, unless DOKU_REQUIRE_PROGRAMS
// (a list such as "python3,node") names it: then the test fails.
func Need(t testing.TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if slices.Contains(strings.Split(os.Getenv("DOKU_REQUIRE_PROGRAMS"), ","), program) {
		t.Fatalf("%s is required here, but not installed", program)
	}
	t.Skipf("skipped, because %s is not installed", program)
}

// The ports that tests use are below those that systems choose for outgoing
// connections, one of which could otherwise take a port that was free a moment ago.
const (
	portsFrom = 16 << 10
	ports     = 16 << 10
)

var (
	givenMu sync.Mutex
	given   = make(map[int]bool)
)

// FreeAddress returns a loopback address that nobody listens on, and that it has
// not returned before.
func FreeAddress(t testing.TB) string {
	t.Helper()
	for range 1000 {
		port := portsFrom + rand.IntN(ports)
		givenMu.Lock()
		taken := given[port]
		given[port] = true
		givenMu.Unlock()
		if taken {
			continue
		}
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		if listener, err := net.Listen("tcp", address); err == nil {
			listener.Close()
			return address
		}
	}
	t.Fatal("no free port was found")
	return ""
}

// Process is a program that a test has started.
type Process struct {
	cmd   *exec.Cmd
	log   *Log
	ended chan struct{} // closed when it has ended
}

// Start starts cmd, which ends with the test, and waits until it listens on all
// of addresses. Its output goes to log, which is shown if the test fails.
func Start(t testing.TB, log *Log, cmd *exec.Cmd, addresses ...string) *Process {
	t.Helper()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.WaitDelay = Patience
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &Process{cmd: cmd, log: log, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait() // the log says why it ended
	}()
	t.Cleanup(func() {
		if !p.Stop() {
			t.Errorf("%s did not end within %s", cmd.Path, Patience)
		}
		if t.Failed() {
			t.Logf("the log of %s:\n%s", cmd.Path, log)
		}
	})
	for _, address := range addresses {
		if err := p.awaitListener(address); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func (p *Process) awaitListener(address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s, which should listen on %s, has ended", p.cmd.Path, address)
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen on %s: %w", p.cmd.Path, address, err)
		case <-tick.C:
		}
	}
}

// Stop interrupts the program, and reports whether it ended by that within
// [Patience]; otherwise it is killed. It may be called again.
func (p *Process) Stop() bool {
	_ = p.cmd.Process.Signal(os.Interrupt) // it may have ended already
	select {
	case <-p.ended:
		return true
	case <-time.After(Patience):
		p.Kill()
		return false
	}
}

// PID returns the id of the program's process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill ends the program at once, as a crash does.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.ended
}

// Log is the output of a program. It is safe for concurrent use.
type Log struct {
	mu    sync.Mutex
	b     bytes.Buffer
	watch io.Writer
}

// watchedMost is how many bytes a watched log keeps: its program may run for long.
const watchedMost = 64 << 10

// Watched returns a log that writes everything to w too, and keeps only its own end.
func Watched(w io.Writer) *Log { return &Log{watch: w} }

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watch != nil {
		_, _ = l.watch.Write(p)
		l.b.Next(max(0, l.b.Len()+len(p)-watchedMost))
	}
	return l.b.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
