package inbox

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/appanswer"
	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
)

// retryDelays are the times between attempts at a kept call. The last one repeats.
var retryDelays = []time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute,
}

// maybeTakenDelays are the times before further attempts at a call that the app may have
// taken already: few, since the app may book it twice. The last one is near DOKU's own last
// attempt. After them the call is dead.
var maybeTakenDelays = []time.Duration{2 * time.Second, time.Minute, 30 * time.Minute, 6 * time.Hour, 12 * time.Hour}

const (
	retryNowInterval = 30 * time.Second // the shortest time between two RetryNow of noteSuccess
	logInterval      = 10 * time.Second // the shortest time between two logs of backoffs

	// If nobody has tried a call for longer than longPause, for example because the
	// machine was off, the app may take it now. So it dies after pauseGrace at the
	// earliest, or after MaxAge if that is less.
	longPause  = time.Hour
	pauseGrace = 10 * time.Minute
)

// retryDelay returns how long to wait after a number of attempts, with up to 10 %
// jitter.
func retryDelay(attempts int) time.Duration {
	d := retryDelays[min(attempts, len(retryDelays))-1]
	return d + rand.N(d/10+1) //nolint:gosec // it spreads load and protects nothing
}

// scheduleRetry sets when a call that the app has not taken is due again, or that it is
// dead.
func (i *Inbox) scheduleRetry(c *callstore.Call, err error) {
	now := i.cfg.Now()
	if now.Sub(c.Tried) > longPause {
		c.GiveUp = latest(c.GiveUp, now.Add(min(pauseGrace, i.cfg.MaxAge)))
	}
	c.Error, c.Tried, c.Dead = err.Error(), now, !now.Before(c.GiveUp)
	scheduleAfter(c, err, now)
}

// scheduleAfter sets when a call is due again after an attempt that has failed with err.
func scheduleAfter(c *callstore.Call, err error, now time.Time) {
	said, answered := errors.AsType[*appanswer.Judgement](err)
	if answered && said.MaybeTaken() || c.MaybeTaken > 0 {
		scheduleMaybeTaken(c, now)
		return
	}
	// 429 is one here: the success of another call must not make an app retry at once that
	// asks for fewer calls.
	c.Refused = answered && (!said.Soon() || said.Status == http.StatusTooManyRequests)
	c.Due = now.Add(max(retryDelay(max(c.Attempts-c.ForegroundAttempts, 1)), askedFor(err, now)))
}

// askedFor returns how long the app has asked to wait, within bounds, or 0.
func askedFor(err error, now time.Time) time.Duration {
	said, answered := errors.AsType[*appanswer.Judgement](err)
	if !answered {
		return 0
	}
	return min(retryAfter(said.Answer.Header, now), retryDelays[len(retryDelays)-1])
}

// scheduleMaybeTaken sets when a call is due again that the app may have taken, and when it
// is given up. It leaves the order of its virtual account, since others must not wait for
// hours.
func scheduleMaybeTaken(c *callstore.Call, now time.Time) {
	c.OrderingKey = c.Account + "/" + c.Key
	if c.MaybeTaken++; c.MaybeTaken > len(maybeTakenDelays) {
		c.Dead = true
		return
	}
	c.Due, c.GiveUp = now.Add(maybeTakenDelays[c.MaybeTaken-1]), now
	for _, delay := range maybeTakenDelays[c.MaybeTaken-1:] {
		c.GiveUp = c.GiveUp.Add(delay)
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// retryAfter returns the Retry-After of an answer, or 0.
func retryAfter(h http.Header, now time.Time) time.Duration {
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return at.Sub(now)
	}
	return 0
}

// noteSuccess makes all waiting calls due now, if the app has failed before.
func (i *Inbox) noteSuccess(ctx context.Context) {
	now := i.cfg.Now()
	i.mu.Lock()
	back := i.failing && now.Sub(i.retriedNow) >= retryNowInterval
	i.failing = false
	if back {
		i.retriedNow = now
	}
	i.mu.Unlock()
	if !back {
		return
	}
	if err := i.cfg.Store.RetryNow(ctx, i.cfg.Name, now, false); err == nil {
		i.signal()
	}
}

// backoff is the pause of an ordering key whose slot could not be leased, or whose calls
// could not be read or written. Others must not wait for it, and there may be many.
type backoff struct {
	failures int
	until    time.Time
}

// noteFailure starts or extends the backoff of an ordering key because of err, and logs
// that. If err is nil, it ends the backoff.
func (i *Inbox) noteFailure(ctx context.Context, orderingKey string, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err == nil {
		delete(i.backoffs, orderingKey)
		return
	}
	now := i.cfg.Now()
	failures := i.backoffs[orderingKey].failures + 1
	i.backoffs[orderingKey] = backoff{failures, now.Add(retryDelay(failures))}
	if now.Sub(i.loggedAt) < logInterval {
		return
	}
	i.loggedAt = now
	i.cfg.Logger.ErrorContext(ctx, "this sidecar cannot deliver the kept calls of a virtual account; it will try again",
		"lane", orderingKey, "error", err, "lanes", len(i.backoffs))
}

// countBackoffs returns the number of ordering keys in backoff, after it has removed the
// ones that are long over.
func (i *Inbox) countBackoffs(now time.Time) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	maps.DeleteFunc(i.backoffs, func(_ string, b backoff) bool { return now.Sub(b.until) > retryDelays[len(retryDelays)-1] })
	return len(i.backoffs)
}
