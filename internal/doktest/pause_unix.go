//go:build unix

package doktest

import (
	"syscall"
	"testing"
)

// Pause stops the program, which keeps its connections, until [Process.Resume].
func (p *Process) Pause(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Signal(syscall.SIGCONT) }) // otherwise it would not end
}

// Resume ends a pause.
func (p *Process) Resume(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

// Pause makes the server take connections and answer nothing, until [Redis.Resume].
func (r *Redis) Pause(t testing.TB) {
	t.Helper()
	r.process.Pause(t)
}

// Resume ends a pause.
func (r *Redis) Resume(t testing.TB) {
	t.Helper()
	r.process.Resume(t)
}
