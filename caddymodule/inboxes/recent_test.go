package inboxes

import (
	"testing"
	"time"
)

func TestRecentForgetsWhatIsMoreThanAnHourAgo(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 8, 27, 9, 0, 0, 0, time.UTC)
	now := start
	c := newRecent(func() time.Time { return now })
	expect := func(refused, notKept int, since time.Time) {
		t.Helper()
		if r, n, s := c.lastHour(); r != refused || n != notKept || !s.Equal(since) {
			t.Errorf("found %d, %d since %s, expected %d, %d since %s", r, n, s, refused, notKept, since)
		}
	}
	expect(0, 0, start)
	c.addRefused()
	c.addNotKept()
	now = start.Add(30 * time.Minute)
	c.addRefused()
	expect(2, 1, start)
	now = start.Add(61 * time.Minute)
	expect(1, 0, start.Add(time.Minute))
	now = start.Add(90 * time.Minute) // the same place in the ring as half an hour
	c.addNotKept()
	expect(0, 1, start.Add(30*time.Minute))
}
