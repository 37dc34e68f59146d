package doktest

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// Patience is how long tests wait for an event. It is longer than anything takes on a
// busy machine, so only what hangs reaches it. No test may depend on a shorter time.
const Patience = 2 * time.Minute

const pollInterval = 10 * time.Millisecond

// Eventually waits until condition returns true. After [Patience] the test fails, with
// the event that it has waited for. It must be called from the test's own goroutine.
func Eventually(t testing.TB, event string, condition func() bool) {
	t.Helper()
	EventuallyWithin(t, Patience, event, condition)
}

// EventuallyWithin is [Eventually] with another deadline, for work that grows with its
// input.
func EventuallyWithin(t testing.TB, deadline time.Duration, event string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !condition(); time.Sleep(pollInterval) {
		if time.Now().After(end) {
			t.Fatalf("waited %s in vain for %s", deadline, event)
		}
	}
}

// Await waits until the log has a text n times.
func (l *Log) Await(t testing.TB, text string, n int) {
	t.Helper()
	Eventually(t, "the log to have "+text, func() bool { return strings.Count(l.String(), text) >= n })
}

// Gate is a handler that can hold calls before another handler gets them. It is safe
// for concurrent use.
type Gate struct {
	next http.Handler

	mu   sync.Mutex
	held map[string]int           // by path, now
	all  map[string]int           // by path, ever
	shut map[string]chan struct{} // by path; closed when the path opens
}

// NewGate returns an open gate in front of a handler.
func NewGate(next http.Handler) *Gate {
	return &Gate{next: next, held: make(map[string]int), all: make(map[string]int), shut: make(map[string]chan struct{})}
}

// Shut holds all calls to a path from now on. The function that it returns opens the
// path again and lets them pass; it may be called more than once. A caller that hangs up
// is no longer held, and its call never passes.
func (g *Gate) Shut(path string) (open func()) {
	shut := make(chan struct{})
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut[path] = shut
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.shut[path] == shut {
			delete(g.shut, path)
		}
		close(shut)
	})
}

// Held returns how many calls to a path are held now.
func (g *Gate) Held(path string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held[path]
}

// Arrived returns how many calls to a path were ever held.
func (g *Gate) Arrived(path string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.all[path]
}

// AwaitHeld waits until a number of calls to a path are held.
func (g *Gate) AwaitHeld(t testing.TB, path string, n int) {
	t.Helper()
	Eventually(t, "calls of "+path+" to be held", func() bool { return g.Held(path) >= n })
}

func (g *Gate) count(path string, held, arrived int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held[path] += held
	g.all[path] += arrived
}

// ServeHTTP holds a call if its path is shut, and passes it on.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	shut := g.shut[r.URL.Path]
	g.mu.Unlock()
	if shut != nil {
		body, err := io.ReadAll(r.Body) // the server notices a hang-up only after the body
		if err != nil || !g.hold(r, shut) {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	g.next.ServeHTTP(w, r)
}

// hold waits until the path opens, and returns false if the caller hangs up first.
func (g *Gate) hold(r *http.Request, shut <-chan struct{}) bool {
	g.count(r.URL.Path, 1, 1)
	defer g.count(r.URL.Path, -1, 0)
	select {
	case <-shut:
		return true
	case <-r.Context().Done():
		return false
	}
}
