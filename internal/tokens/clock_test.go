package tokens

import (
	"bytes"
	"log/slog"
	"net/http"
	"strings"
	"testing"
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
