package inboxes

import (
	"sync"
	"time"
)

// recentMinutes is how far back the figures of [recent] go.
const recentMinutes = 60

// recent counts the notifications that are not in the inbox although the app has not taken
// them, by minute, for as long as the process lives. It is safe for concurrent use.
type recent struct {
	now   func() time.Time
	since time.Time // when it began to count

	mu      sync.Mutex
	minutes [recentMinutes]recentMinute
}

// recentMinute has the figures of one minute.
type recentMinute struct {
	minute  int64 // since 1970
	refused int   // the app has said no, and DOKU has that answer
	notKept int   // the inbox could not be written
}

func newRecent(now func() time.Time) *recent { return &recent{now: now, since: now()} }

func (c *recent) addRefused() { c.add(func(m *recentMinute) { m.refused++ }) }
func (c *recent) addNotKept() { c.add(func(m *recentMinute) { m.notKept++ }) }

func (c *recent) add(to func(*recentMinute)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	minute := c.now().Unix() / 60
	m := &c.minutes[minute%recentMinutes]
	if m.minute != minute {
		*m = recentMinute{minute: minute}
	}
	to(m)
}

// lastHour returns the figures of the last hour, and since when they count.
func (c *recent) lastHour() (refused, notKept int, since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for _, m := range c.minutes {
		if m.minute > now.Unix()/60-recentMinutes {
			refused, notKept = refused+m.refused, notKept+m.notKept
		}
	}
	if since = now.Add(-time.Hour); c.since.After(since) {
		since = c.since
	}
	return refused, notKept, since
}

// recents has the figures of the inboxes in one place, by name.
type recents struct {
	mu     sync.Mutex
	byName map[string]*recent
}

// of returns the figures of an inbox.
func (r *recents) of(name string) *recent {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byName[name] == nil {
		if r.byName == nil {
			r.byName = make(map[string]*recent)
		}
		r.byName[name] = newRecent(time.Now)
	}
	return r.byName[name]
}
