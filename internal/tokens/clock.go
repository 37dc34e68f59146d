package tokens

import (
	"cmp"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	clockSamples     = 9                // the offset is the median of so many at most
	clockSampleAge   = 10 * time.Minute // beside a newer sample, an older one does not count
	clockWorst       = 10 * time.Second // a longer round trip is no sample
	clockUnit        = time.Second      // of Date
	clockDrift       = time.Second      // between two samples that agree, besides their own errors
	clockStep        = time.Second      // a larger difference between clock and elapsed time means that the clock was set
	clockTolerable   = 30 * time.Second // a larger offset is logged
	clockLogInterval = 10 * time.Minute
	clockCorrectMost = 5 * time.Minute
)

// Clock compares this machine's clock with that of DOKU's servers, by the Date
// header of their answers, and gives the time for X-TIMESTAMP. It is safe for
// concurrent use.
//
// Either clock may be set while the process runs. Samples from before say nothing then:
// if this machine's clock is set, Elapsed shows it; if DOKU's is, two answers in a row show
// it. A single answer that differs from those before may be wrong, and changes nothing.
type Clock struct {
	Now    func() time.Time // this machine's clock
	Logger *slog.Logger     // warns of an offset of more than 30 s; may be nil

	// Elapsed is the time since any fixed moment, which does not change when this machine's
	// clock is set. nil: such a step shows in the answers only.
	Elapsed func() time.Duration

	correct atomic.Bool

	mu      sync.Mutex
	date    string        // the last Date that could be read; empty before the first
	read    time.Time     // the same, parsed
	samples []sample      // the latest ones that agree, the oldest first
	odd     *sample       // the last answer, if it does not agree with them
	origin  time.Time     // this machine's clock when Elapsed was at the moment
	at      time.Duration // the moment
	logged  time.Time     // when an offset was last logged
}

// sample is the offset that one answer shows.
type sample struct {
	offset  time.Duration
	within  time.Duration // its largest error
	elapsed time.Duration // when the answer came, by Elapsed or this machine's clock
}

// agrees reports whether two samples can be of the same offset.
func (s sample) agrees(other sample) bool {
	return (s.offset - other.offset).Abs() <= s.within+other.within+clockDrift
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
	now := c.noticeStep()
	received = now.Add(received.Sub(now)) // by the clock as it is set now, if it was set since
	// Date has whole seconds, so on average the time was half a second later. DOKU read
	// its clock about halfway between sending and receiving.
	c.add(sample{
		offset:  c.read.Add(clockUnit / 2).Sub(received.Add(-trip / 2)),
		within:  clockUnit/2 + trip/2,
		elapsed: c.elapsed(received),
	})
	offset := c.median().offset
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

// elapsed returns the time that samples age by.
func (c *Clock) elapsed(now time.Time) time.Duration {
	if c.Elapsed != nil {
		return c.Elapsed()
	}
	return time.Duration(now.UnixNano())
}

// noticeStep drops all samples if this machine's clock was set since the first of them.
// It returns the time.
func (c *Clock) noticeStep() time.Time {
	if c.Elapsed == nil {
		return c.Now()
	}
	before := c.Elapsed()
	now := c.Now()
	elapsed := c.Elapsed()
	if elapsed-before > clockStep/2 { // the process was held up, so the two say nothing about each other
		return now
	}
	wall := now.Round(0) // without Go's own reading of the elapsed time
	if c.origin.IsZero() || (wall.Sub(c.origin)-(elapsed-c.at)).Abs() > clockStep {
		c.origin, c.at, c.samples, c.odd = wall, elapsed, c.samples[:0], nil
	}
	return now
}

// add takes a sample. Two samples in a row that differ from those before, but not from each
// other, replace them: DOKU's clock was set, or this machine's.
func (c *Clock) add(s sample) {
	switch {
	case len(c.samples) == 0 || s.agrees(c.median()):
		c.odd = nil
	case c.odd == nil || !s.agrees(*c.odd):
		c.odd = &s
		return
	default:
		c.samples = append(c.samples[:0], *c.odd)
		c.odd = nil
	}
	c.samples = append(slices.DeleteFunc(c.samples, func(old sample) bool { return (s.elapsed - old.elapsed).Abs() > clockSampleAge }), s)
	if len(c.samples) > clockSamples {
		c.samples = slices.Delete(c.samples, 0, 1)
	}
}

// median returns the median of the samples, of which there is at least one. Of two, it is
// the one with the smaller error.
func (c *Clock) median() sample {
	if len(c.samples) == 2 && c.samples[0].within < c.samples[1].within {
		return c.samples[0]
	}
	var room [clockSamples]sample
	sorted := append(room[:0], c.samples...)
	slices.SortFunc(sorted, func(a, b sample) int { return cmp.Compare(a.offset, b.offset) })
	return sorted[len(sorted)/2]
}

// Offset returns by how much DOKU's clock is ahead of this machine's, negative if
// it is behind: the median of the last answers. It is 0 before the first, and before the
// first since this machine's clock was set.
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
	c.noticeStep()
	status := ClockStatus{Samples: len(c.samples), Correct: c.correct.Load()}
	if status.Samples > 0 {
		status.Offset = c.median().offset
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
