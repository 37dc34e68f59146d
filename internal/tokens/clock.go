package tokens

import (
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	clockSamples     = 9                // the offset is their median
	clockWorst       = 10 * time.Second // a longer round trip is no sample
	clockTolerable   = 30 * time.Second // a larger offset is logged
	clockLogInterval = 10 * time.Minute
	clockCorrectMost = 5 * time.Minute
)

// Clock compares this machine's clock with that of DOKU's servers, by the Date
// header of their answers, and gives the time for X-TIMESTAMP. It is safe for
// concurrent use.
type Clock struct {
	Now    func() time.Time // this machine's clock
	Logger *slog.Logger     // warns of an offset of more than 30 s; may be nil

	correct atomic.Bool

	mu      sync.Mutex
	date    string          // the last Date that could be read; empty before the first
	read    time.Time       // the same, parsed
	samples []time.Duration // the latest ones, in a ring
	next    int
	logged  time.Time // when an offset was last logged
}

// SetCorrect sets whether [Clock.Time] is corrected by the offset, by at most 5 minutes.
// The default is no.
func (c *Clock) SetCorrect(correct bool) { c.correct.Store(correct) }

// Observe takes a sample from an answer to a request that was sent at sent and answered
// at received, by this machine's clock. It ignores an answer without a Date, and one that
// took longer than 10 s.
func (c *Clock) Observe(sent, received time.Time, h http.Header) {
	date, trip := h.Get("Date"), received.Sub(sent)
	if date == "" || trip < 0 || trip > clockWorst {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if date != c.date { // else it is the same second still
		read, err := http.ParseTime(date)
		if err != nil {
			return
		}
		c.date, c.read = date, read
	}
	// Date has whole seconds, so on average the time was half a second later. DOKU read
	// its clock about halfway between sending and receiving.
	sample := c.read.Add(time.Second / 2).Sub(sent.Add(trip / 2))
	if len(c.samples) < clockSamples {
		c.samples = append(c.samples, sample)
	} else {
		c.samples[c.next] = sample
		c.next = (c.next + 1) % clockSamples
	}
	offset := c.median()
	if offset.Abs() <= clockTolerable || !c.logged.IsZero() && received.Sub(c.logged) < clockLogInterval {
		return
	}
	c.logged = received
	if c.Logger == nil {
		return
	}
	direction := "behind DOKU's"
	if offset < 0 {
		direction = "ahead of DOKU's"
	}
	advice := "set this machine's time by NTP; until then `clock_correction on` helps"
	if c.correct.Load() {
		advice = "X-TIMESTAMP is corrected by up to 5 minutes; set this machine's time by NTP, for DOKU's calls are judged by it"
	}
	c.Logger.Warn("this machine's clock is off", "by", offset.Abs().Round(time.Second), "direction", direction, "advice", advice)
}

// median returns the median of the samples, of which there is at least one.
func (c *Clock) median() time.Duration {
	var room [clockSamples]time.Duration
	sorted := append(room[:0], c.samples...)
	slices.Sort(sorted)
	return sorted[len(sorted)/2]
}

// Offset returns by how much DOKU's clock is ahead of this machine's, negative if
// it is behind: the median of the last answers. It is 0 before the first.
func (c *Clock) Offset() time.Duration { return c.Status().Offset }

// ClockStatus is the state of a [Clock].
type ClockStatus struct {
	Offset  time.Duration // see [Clock.Offset]
	Samples int           // number of answers that Offset is the median of; 0: the offset is not known
	Correct bool          // whether X-TIMESTAMP is corrected by it
}

// Status returns the present state.
func (c *Clock) Status() ClockStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	status := ClockStatus{Samples: len(c.samples), Correct: c.correct.Load()}
	if status.Samples > 0 {
		status.Offset = c.median()
	}
	return status
}

// Time returns the time for X-TIMESTAMP.
func (c *Clock) Time() time.Time {
	now := c.Now()
	if !c.correct.Load() {
		return now
	}
	return now.Add(min(max(c.Offset(), -clockCorrectMost), clockCorrectMost))
}
