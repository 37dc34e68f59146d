package doku

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/tokens"
)

const (
	// checkWithin is how long a caller waits for a check: Kubernetes gives a readiness
	// probe one second.
	checkWithin = 750 * time.Millisecond

	// checkTimeout ends the check itself a little earlier, so that its own error is reported.
	checkTimeout = 700 * time.Millisecond

	// checkInterval is how long the result of a check stands.
	checkInterval = time.Second
)

var errNoResult = fmt.Errorf("no result within %s: %w", checkWithin, context.DeadlineExceeded)

// Readiness can tell whether it is able to do its work. Ready returns nil if so. It must
// end with ctx, and must not wait for work to be done.
type Readiness interface {
	Ready(ctx context.Context) error
}

// readyFunc is a function as [Readiness].
type readyFunc func(ctx context.Context) error

func (f readyFunc) Ready(ctx context.Context) error { return f(ctx) }

// check is something that an account needs for its work, with the last result. However
// often it is asked for, it runs once at a time, and once a second.
type check struct {
	name string
	of   Readiness
	slot chan struct{} // has room for the caller that checks

	until    time.Time
	last     Result
	underWay chan Result // of a check that has not ended in time, as a disk may hang; or nil
}

func newCheck(name string, of Readiness) *check {
	return &check{name: name, of: of, slot: make(chan struct{}, 1)}
}

// Result is the result of a check.
type Result struct {
	Err  error
	Took time.Duration
}

// result returns the result, which is at most a second old.
func (c *check) result(ctx context.Context) Result {
	c.slot <- struct{}{} // within checkWithin
	defer func() { <-c.slot }()
	if time.Now().Before(c.until) {
		return c.last
	}
	if c.underWay != nil {
		select {
		case <-c.underWay: // it has ended, and is out of date
			c.underWay = nil
		default:
		}
	}
	if c.underWay == nil {
		c.underWay = c.run(ctx)
	}
	timer := time.NewTimer(checkWithin)
	defer timer.Stop()
	select {
	case c.last = <-c.underWay:
		c.underWay = nil
	case <-timer.C:
		c.last = Result{errNoResult, checkWithin}
	}
	c.until = time.Now().Add(checkInterval)
	return c.last
}

// run starts the check. Others get its result too, so it does not end with the caller.
func (c *check) run(ctx context.Context) chan Result {
	result := make(chan Result, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
		defer cancel()
		start := time.Now()
		err := c.of.Ready(ctx)
		result <- Result{err, time.Since(start)}
	}()
	return result
}

// The checks of an account.
const (
	CheckKeys  = "keys"
	CheckToken = "token"
	CheckStore = "store"
	CheckInbox = "inbox"
)

// CheckOK is the word for a check that succeeded.
const CheckOK = "ok"

// CheckWord returns the word for the result of a check. The words are a closed set, and
// tell a stranger nothing more.
func CheckWord(check string, err error) string {
	switch {
	case err == nil:
		return CheckOK
	case check == CheckKeys:
		return "earlier" // a changed file is of no use; the earlier ones are in use
	case check == CheckStore:
		return "away"
	case check != CheckToken:
		return "not_ready"
	case errors.Is(err, tokens.ErrRefused):
		return "refused"
	case errors.Is(err, tokens.ErrUnusable):
		return "unusable"
	case errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, tokens.ErrUnreachable):
		return "pending" // the fetch is under way
	}
	return "unreachable"
}

// CheckHint returns what an operator can do about a check that failed.
func CheckHint(check string, err error) string {
	switch check {
	case CheckToken:
		return tokens.Hint(err)
	case CheckStore:
		return "see that the store (Redis) is reachable and takes writes"
	case CheckInbox:
		return "see that the inbox's file or store is there and takes writes: disk, permissions, Redis"
	}
	return "see the error"
}

// AddCheck adds a check to the account, during Provision. If several have the same
// name, each of them must succeed.
func (a *Account) AddCheck(name string, of Readiness) {
	a.checks = append(a.checks, newCheck(name, of))
}

// addOwnChecks adds the checks that every account has.
func (a *Account) addOwnChecks() {
	a.AddCheck(CheckKeys, readyFunc(func(context.Context) error {
		if failed := a.loadFailed.Load(); failed != nil {
			return *failed
		}
		return nil
	}))
	a.AddCheck(CheckToken, readyFunc(func(ctx context.Context) error {
		_, err := a.runtime.tokens.Token(ctx)
		return err
	}))
	a.AddCheck(CheckStore, readyFunc(a.scope.Check))
}

// Check runs the account's wanted checks at the same time, and returns the results by
// name.
func (a *Account) Check(ctx context.Context, wanted func(name string) bool) map[string]Result {
	var mu sync.Mutex
	var wg sync.WaitGroup
	results := make(map[string]Result, len(a.checks))
	for _, c := range a.checks {
		if !wanted(c.name) {
			continue
		}
		wg.Go(func() {
			found := c.result(ctx)
			mu.Lock()
			defer mu.Unlock()
			if results[c.name].Err == nil {
				results[c.name] = found
			}
		})
	}
	wg.Wait()
	return results
}
