package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// process is a server that bench has started.
type process struct {
	name    string
	address string // host:port
	admin   string // host:port of Caddy's admin API, if it has one

	cmd   *exec.Cmd
	log   *tail
	ended chan struct{} // closed when it has ended
}

// start starts cmd, whose context ends it, as a server called name.
func start(name string, cmd *exec.Cmd) (*process, error) {
	p := &process{name: name, cmd: cmd, log: new(tail), ended: make(chan struct{})}
	cmd.Stderr = p.log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopDeadline
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		_ = cmd.Wait() // whoever talks to it notices
		close(p.ended)
	}()
	return p, nil
}

// stop ends the process and waits for its end.
func (p *process) stop() {
	select {
	case <-p.ended:
		return
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(stopDeadline):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// ready waits until the process accepts connections.
func (p *process) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-retry.C:
		case <-p.ended:
			return fmt.Errorf("%s has ended: %s", p.name, p.log)
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen on %s: %w: %s", p.name, p.address, ctx.Err(), p.log)
		}
	}
}

// tick is the unit of CPU time in /proc: 1/100 s (USER_HZ) on every
// architecture that Go supports.
const tick = 10 * time.Millisecond

// cpu returns the CPU time, user and system, that the process has used so far.
func (p *process) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("reading the CPU time of %s: %w: %s", p.name, err, p.log)
	}
	ticks, err := statTicks(text)
	if err != nil {
		return 0, fmt.Errorf("reading the CPU time of %s: %w", p.name, err)
	}
	return time.Duration(ticks) * tick, nil
}

// statTicks returns utime and stime together from the text of /proc/<pid>/stat:
// fields 14 and 15, where field 2, in parentheses, may have spaces.
func statTicks(stat []byte) (int64, error) {
	const first, utime, stime = 3, 14, 15 // first is the field after the parentheses
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= stime-first {
		return 0, fmt.Errorf("expected %d fields, found %q", stime, stat)
	}
	user, err := strconv.ParseInt(string(fields[utime-first]), 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(string(fields[stime-first]), 10, 64)
	return user + system, err
}

// memory returns the process's resident set in bytes.
func (p *process) memory() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("reading the memory of %s: %w", p.name, err)
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		return 0, fmt.Errorf("reading the memory of %s: %w", p.name, err)
	}
	return resident * int64(os.Getpagesize()), nil
}

// tail keeps the end of a log: the reason why a server has failed.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

const tailKept = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	t.kept = t.kept[max(0, len(t.kept)-tailKept):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.kept))
}
