package tokens

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// answered makes c observe an answer from a DOKU whose clock is ahead by offset.
func answered(c *Clock, now time.Time, trip, offset time.Duration) {
	at := now.Add(trip / 2).Add(offset)
	c.Observe(now, now.Add(trip), http.Header{"Date": {at.UTC().Format(http.TimeFormat)}})
}

func TestTheOffsetIsTheMedianOfTheLastAnswers(t *testing.T) {
	t.Parallel()
	noon := time.Date(2024, 3, 26, 12, 0, 0, 0, time.UTC)
	c := &Clock{Now: func() time.Time { return noon }}
	if got := c.Status(); got != (ClockStatus{}) {
		t.Errorf("before the first answer: %+v", got)
	}
	about := func(want time.Duration) {
		t.Helper()
		if got := c.Offset(); (got - want).Abs() > time.Second {
			t.Errorf("offset %s, expected about %s", got, want)
		}
	}
	c.Observe(noon, noon, http.Header{})
	if got := c.Status(); got.Samples != 0 {
		t.Errorf("after an answer without a Date: %+v", got)
	}
	for i := range 20 {
		answered(c, noon.Add(time.Duration(i)*137*time.Millisecond), 200*time.Millisecond, 42*time.Second)
		if i%5 == 0 {
			answered(c, noon, 200*time.Millisecond, time.Hour) // an outlier
		}
	}
	about(42 * time.Second)
	answered(c, noon, time.Minute, -time.Hour) // too long on the way to say anything
	c.Observe(noon, noon, http.Header{})
	c.Observe(noon, noon, http.Header{"Date": {"yesterday"}})
	about(42 * time.Second)
	for range clockSamples {
		answered(c, noon, 4*time.Second, -10*time.Second)
	}
	about(-10 * time.Second)
	c.SetCorrect(true)
	if got := c.Status(); got != (ClockStatus{Offset: c.Offset(), Samples: clockSamples, Correct: true}) {
		t.Errorf("in the end: %+v", got)
	}
}

func TestCorrectionOfTheClock(t *testing.T) {
	t.Parallel()
	noon := time.Date(2024, 3, 26, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name            string
		correct         bool
		offset, applied time.Duration
	}{
		{"off", false, 90 * time.Second, 0},
		{"ahead", true, 90 * time.Second, 90 * time.Second},
		{"behind", true, -90 * time.Second, -90 * time.Second},
		{"at most five minutes ahead", true, time.Hour, 5 * time.Minute},
		{"at most five minutes behind", true, -time.Hour, -5 * time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := &Clock{Now: func() time.Time { return noon }}
			c.SetCorrect(test.correct)
			answered(c, noon, 0, test.offset)
			if got := c.Time().Sub(noon); (got - test.applied).Abs() > time.Second {
				t.Errorf("corrected by %s, expected %s", got, test.applied)
			}
		})
	}
}

// steppedClock is a [Clock] in a bubble whose two sides the test sets.
type steppedClock struct {
	*Clock
	here, doku time.Duration // how far each side is from the bubble's time
}

func newSteppedClock(elapsed bool) *steppedClock {
	s := new(steppedClock)
	started := time.Now()
	s.Clock = &Clock{Now: func() time.Time { return time.Now().Add(s.here) }}
	if elapsed {
		s.Elapsed = func() time.Duration { return time.Since(started) }
	}
	s.SetCorrect(true)
	return s
}

// answer observes an answer after a round trip. DOKU's clock is off by odd for this answer only.
func (s *steppedClock) answer(odd time.Duration) {
	const trip = 300 * time.Millisecond
	sent := s.Now()
	time.Sleep(trip / 2)
	at := time.Now().Add(s.doku + odd)
	time.Sleep(trip / 2)
	s.Observe(sent, s.Now(), http.Header{"Date": {at.UTC().Format(http.TimeFormat)}})
}

// expect checks that X-TIMESTAMP has DOKU's time.
func (s *steppedClock) expect(t *testing.T, when string) {
	t.Helper()
	if off := s.Time().Sub(time.Now().Add(s.doku)); off.Abs() > 1200*time.Millisecond {
		t.Errorf("%s: X-TIMESTAMP is %s off DOKU's time", when, off)
	}
}

func TestAfterAStepOfEitherClockTheTimeIsRightWithinTwoAnswers(t *testing.T) {
	t.Parallel()
	const pause = 700 * time.Millisecond
	steps := map[string]func(*steppedClock){
		"ours is set forward":           func(s *steppedClock) { s.here += 4 * time.Minute },
		"ours is set back":              func(s *steppedClock) { s.here -= 4 * time.Minute },
		"ours is set right":             func(s *steppedClock) { s.here = 0 },
		"ours is set by a few seconds":  func(s *steppedClock) { s.here += 7 * time.Second },
		"DOKU's is set forward":         func(s *steppedClock) { s.doku += 3 * time.Minute },
		"DOKU's is set back":            func(s *steppedClock) { s.doku -= 3 * time.Minute },
		"both are set, and not alike":   func(s *steppedClock) { s.here += time.Hour; s.doku += time.Hour + time.Minute },
		"both are set alike":            func(s *steppedClock) { s.here += time.Hour; s.doku += time.Hour },
		"ours is set, and hours passed": func(s *steppedClock) { time.Sleep(5 * time.Hour); s.here -= 2 * time.Minute },
	}
	for name, step := range steps {
		for _, answers := range []int{1, 2, 5, 40} {
			for _, elapsed := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s after %d answers, elapsed time known: %t", name, answers, elapsed), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						s := newSteppedClock(elapsed)
						s.here = 50 * time.Second
						for range answers {
							s.answer(0)
							time.Sleep(pause)
						}
						s.expect(t, "before the step")
						step(s)
						s.answer(0)
						time.Sleep(pause)
						s.answer(0)
						for range 2 * clockSamples {
							s.expect(t, "after it")
							time.Sleep(pause)
							s.answer(0)
						}
					})
				})
			}
		}
	}
}

func TestAStepOfThisMachinesClockIsNoticedBeforeAnAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSteppedClock(true)
		s.here = 4 * time.Minute
		for range clockSamples {
			s.answer(0)
		}
		s.here = 0 // somebody has set it right
		s.expect(t, "before an answer")
		if got := s.Status(); got.Samples != 0 {
			t.Errorf("before an answer: %+v", got)
		}
		s.here = -time.Minute
		s.answer(0)
		s.expect(t, "after one answer")
		time.Sleep(100 * time.Hour)
		s.expect(t, "days later")
	})
}

func TestOneAnswerThatDiffersChangesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSteppedClock(true)
		s.here = 50 * time.Second
		for i := range 60 {
			odd := time.Duration(0)
			if i%3 == 2 {
				odd = time.Duration(i-30) * time.Minute
			}
			s.answer(odd)
			s.expect(t, fmt.Sprintf("after answer %d", i))
			time.Sleep(time.Second)
		}
	})
}

func TestSamplesAge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSteppedClock(true)
		for range 100 { // our clock loses a second in 4 minutes
			s.answer(0)
			time.Sleep(4 * time.Minute)
			s.here -= time.Second
		}
		s.answer(0)
		if off := time.Until(s.Time()); off.Abs() > 4*time.Second {
			t.Errorf("X-TIMESTAMP is %s off DOKU's time", off)
		}
		if got := s.Status().Samples; got > 4 {
			t.Errorf("%d samples count, expected those of ten minutes", got)
		}
	})
}

func TestALargeOffsetIsLoggedEveryTenMinutes(t *testing.T) {
	t.Parallel()
	now := time.Date(2024, 3, 26, 12, 0, 0, 0, time.UTC)
	log := new(bytes.Buffer)
	c := &Clock{Now: func() time.Time { return now }, Logger: slog.New(slog.NewTextHandler(log, nil))}
	said := func() int { return strings.Count(log.String(), "behind DOKU's") }
	answered(c, now, 0, 20*time.Second)
	if said() != 0 {
		t.Error("20 s are worth no word")
	}
	for range 10 {
		answered(c, now, 0, 45*time.Second)
	}
	if said() != 1 || !strings.Contains(log.String(), "NTP") {
		t.Errorf("the log says %s", log)
	}
	now = now.Add(11 * time.Minute)
	answered(c, now, 0, 45*time.Second)
	if said() != 2 {
		t.Error("it is not said again after ten minutes")
	}
}
