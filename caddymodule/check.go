package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/tokens"
)

const (
	// checkWithin is what a check may take, so that a readiness probe is answered
	// within the second that Kubernetes gives it.
	checkWithin = 750 * time.Millisecond

	// checkTimeout is what it is told: what heeds it says itself what is the matter.
	checkTimeout = 700 * time.Millisecond

	// checkAgain is for how long the result of a check stands.
	checkAgain = time.Second
)

var errNoResult = fmt.Errorf("no result within %s: %w", checkWithin, context.DeadlineExceeded)

// readiness is what can tell whether it is able to do its work. Ready returns nil
// if so; it must heed ctx, and must not wait for work to be done.
type readiness interface {
	Ready(ctx context.Context) error
}

// readyFunc is a function as [readiness].
type readyFunc func(ctx context.Context) error

func (f readyFunc) Ready(ctx context.Context) error { return f(ctx) }

// check is something that an account needs for its work, with the result of the
// last look at it. However often it is asked for, one look is made at a time, and
// one in a second.
type check struct {
	name string
	of   readiness
	turn chan struct{} // has a place for the one who looks

	until    time.Time
	last     checked
	underWay chan checked // of a look that has not ended in time, as a disk may hang; or nil
}

func newCheck(name string, of readiness) *check {
	return &check{name: name, of: of, turn: make(chan struct{}, 1)}
}

// checked is the result of a check.
type checked struct {
	err  error
	took time.Duration
}

// look returns the result, of at most a second ago.
func (c *check) look(ctx context.Context) checked {
	c.turn <- struct{}{} // within checkWithin
	defer func() { <-c.turn }()
	if time.Now().Before(c.until) {
		return c.last
	}
	if c.underWay != nil {
		select {
		case <-c.underWay: // it is over, and says nothing of now
			c.underWay = nil
		default:
		}
	}
	if c.underWay == nil {
		c.underWay = c.begin(ctx)
	}
	timer := time.NewTimer(checkWithin)
	defer timer.Stop()
	select {
	case c.last = <-c.underWay:
		c.underWay = nil
	case <-timer.C:
		c.last = checked{errNoResult, checkWithin}
	}
	c.until = time.Now().Add(checkAgain)
	return c.last
}

// begin begins a look. Others get the result too, so it does not end with the one
// who asks.
func (c *check) begin(ctx context.Context) chan checked {
	result := make(chan checked, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
		defer cancel()
		start := time.Now()
		err := c.of.Ready(ctx)
		result <- checked{err, time.Since(start)}
	}()
	return result
}

// The checks of an account.
const (
	checkKeys  = "keys"
	checkToken = "token"
	checkStore = "store"
	checkInbox = "inbox"
)

// wordOK is the word for a check that went well.
const wordOK = "ok"

// word returns the word for the result of a check: one of a closed set, which says
// nothing that a stranger must not know.
func word(check string, err error) string {
	switch {
	case err == nil:
		return wordOK
	case check == checkKeys:
		return "earlier" // a changed file is of no use; those before it are in use
	case check == checkStore:
		return "away"
	case check != checkToken:
		return "not_ready"
	case errors.Is(err, tokens.ErrTokenRefused):
		return "refused"
	case errors.Is(err, tokens.ErrTokenAnswer):
		return "unusable"
	case errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, tokens.ErrTokenUnreachable):
		return "pending" // it is being fetched
	}
	return "unreachable"
}

// addOwnChecks adds the checks that every account has. Others are appended to them
// during Provision; if several have the same name, each of them must be ready.
func (a *Account) addOwnChecks() {
	a.checks = append(a.checks,
		newCheck(checkKeys, readyFunc(func(context.Context) error {
			if failed := a.unloaded.Load(); failed != nil {
				return *failed
			}
			return nil
		})),
		newCheck(checkToken, readyFunc(func(ctx context.Context) error {
			_, err := a.tokens.Token(ctx)
			return err
		})),
		newCheck(checkStore, readyFunc(a.scope.Check)))
}

// look makes those checks of the account at once whose name is wanted, and returns
// the results by name.
func (a *Account) look(ctx context.Context, wanted func(name string) bool) map[string]checked {
	var mu sync.Mutex
	var wg sync.WaitGroup
	results := make(map[string]checked, len(a.checks))
	for _, c := range a.checks {
		if !wanted(c.name) {
			continue
		}
		wg.Go(func() {
			found := c.look(ctx)
			mu.Lock()
			defer mu.Unlock()
			if results[c.name].err == nil {
				results[c.name] = found
			}
		})
	}
	wg.Wait()
	return results
}
