package telemetry

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Few keeps callers that nobody knows from filling the log: of the lines with one reason,
// it allows a few in each second, and then writes one that says how many more there were.
// It is safe for concurrent use.
type Few struct {
	log  *slog.Logger
	most int // lines in a second

	mu      sync.Mutex
	closed  bool
	reasons map[string]*second
}

// second is what has happened since the first line with a reason.
type second struct {
	lines, skipped int
	end            *time.Timer
}

// NewFew returns a Few that allows most lines in a second and writes its own to log. Close
// it.
func NewFew(log *slog.Logger, most int) *Few {
	return &Few{log: log, most: most, reasons: make(map[string]*second)}
}

// Allow reports whether a line may be written now, and counts it.
func (f *Few) Allow(reason string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.reasons[reason]
	if s == nil {
		s = new(second)
		f.reasons[reason] = s
		if !f.closed {
			s.end = time.AfterFunc(time.Second, func() { f.finish(reason) })
		}
	}
	s.lines++
	if s.lines > f.most {
		s.skipped++
	}
	return s.lines <= f.most
}

// Silent reports whether a line would not be allowed now, so that nobody needs to make it.
func (f *Few) Silent(reason string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.reasons[reason]
	return s != nil && s.lines >= f.most
}

// finish ends the second of a reason.
func (f *Few) finish(reason string) {
	f.mu.Lock()
	s := f.reasons[reason]
	delete(f.reasons, reason)
	f.mu.Unlock()
	if s != nil && s.skipped > 0 {
		f.log.LogAttrs(context.Background(), slog.LevelWarn, "… and more calls like these within a second; the counters have them all",
			slog.String("reason", reason), slog.Int("more", s.skipped))
	}
}

// Close writes what is left to write.
func (f *Few) Close() {
	f.mu.Lock()
	f.closed = true
	var left []string
	for reason, s := range f.reasons {
		if s.end != nil && s.end.Stop() {
			left = append(left, reason)
		}
	}
	f.mu.Unlock()
	for _, reason := range left {
		f.finish(reason)
	}
}
