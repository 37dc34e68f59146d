package telemetry

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Few keeps callers that nobody knows from filling the log: of the lines that are alike, it
// allows a few in each second, and then writes one that says how many more there were. It is
// safe for concurrent use.
type Few struct {
	log *slog.Logger

	mu      sync.Mutex
	closed  bool
	seconds map[Refusals]*second
}

// linesPerSecond is how many lines that are alike the log gets in a second.
const linesPerSecond = 5

// Refusals are calls whose lines are alike. There are few of them, whatever callers send: an
// account and a service are known ones, or "".
type Refusals struct{ Reason, Service, Account string }

// second is what has happened since the first line of some refusals.
type second struct {
	lines, skipped int
	end            *time.Timer
}

// NewFew returns a Few that writes its own lines to log. Close it.
func NewFew(log *slog.Logger) *Few {
	return &Few{log: log, seconds: make(map[Refusals]*second)}
}

// Allow reports whether a line may be written now, and counts it.
func (f *Few) Allow(of Refusals) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.seconds[of]
	if s == nil {
		s = new(second)
		f.seconds[of] = s
		if !f.closed {
			s.end = time.AfterFunc(time.Second, func() { f.finish(of) })
		}
	}
	s.lines++
	if s.lines > linesPerSecond {
		s.skipped++
	}
	return s.lines <= linesPerSecond
}

// Silent reports whether a line would not be allowed now, so that nobody needs to make it.
func (f *Few) Silent(of Refusals) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.seconds[of]
	return s != nil && s.lines >= linesPerSecond
}

// finish ends the second of some refusals.
func (f *Few) finish(of Refusals) {
	f.mu.Lock()
	s := f.seconds[of]
	delete(f.seconds, of)
	f.mu.Unlock()
	if s != nil && s.skipped > 0 {
		f.log.LogAttrs(context.Background(), slog.LevelWarn, "… and more calls like these within a second; the counters have them all",
			slog.String("reason", of.Reason), slog.String("service", of.Service), slog.String("account", of.Account), slog.Int("more", s.skipped))
	}
}

// Close writes what is left to write.
func (f *Few) Close() {
	f.mu.Lock()
	f.closed = true
	var left []Refusals
	for of, s := range f.seconds {
		if s.end != nil && s.end.Stop() {
			left = append(left, of)
		}
	}
	f.mu.Unlock()
	for _, of := range left {
		f.finish(of)
	}
}
