package inbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/appanswer"
	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/internal/store"
)

const (
	forwardWaitShortest = 250 * time.Millisecond // between two attempts while DOKU waits
	forwardWaitLongest  = 2 * time.Second

	// forwardMinTime is the time that an attempt needs while DOKU waits. If the whole
	// call has less than four times that, a quarter of the call is enough.
	forwardMinTime = 2 * time.Second
)

// Forward delivers a call to the app, and returns the app's answer for DOKU if it is a yes
// or a no. While the app gives no answer, or says that it cannot take the call now (5xx,
// 408, 425, 429), Forward makes as many attempts as fit into AnswerWithin and the deadline
// of ctx. Then, and after any other answer that decides nothing, it keeps the call and
// returns [ErrKept], or [ErrLost] if the call could not be kept. If the app has taken the
// call before, Forward returns the answer of then; if it may have taken it, ErrKept.
// Forward does not stop when ctx is cancelled, only at its deadline: otherwise nobody
// knows whether the app has taken a call.
func (i *Inbox) Forward(ctx context.Context, c callstore.Call) (store.Answer, error) {
	within := i.cfg.AnswerWithin
	if deadline, ok := ctx.Deadline(); ok {
		within = min(within, deadline.Sub(i.cfg.Now()))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	defer cancel()
	minTime := min(forwardMinTime, i.cfg.AttemptTimeout, within/4)
	c.GiveUp = c.Received.Add(i.cfg.MaxAge)
	switch owed := i.cfg.Slots.owed(c.Inbox, c.Key); {
	case owed != nil && owed.answer != nil:
		return *owed.answer, nil
	case owed != nil:
		return store.Answer{}, fmt.Errorf("%w: %w at an earlier attempt", ErrLost, ErrMaybeTaken)
	}
	slot, err := i.cfg.Slots.acquire(ctx, c.Inbox, c.OrderingKey)
	switch {
	case err == nil:
		defer slot.release(ctx)
	case ctx.Err() == nil && i.cfg.Lenient:
		i.cfg.Logger.WarnContext(ctx,
			"the store is away: a call is delivered while others of its virtual account may be under way", "error", err)
	default: // another call has the slot, or the store is away
		return store.Answer{}, i.keep(ctx, slot, c, err)
	}
	acked, maybeTaken, err := i.cfg.Store.Lookup(ctx, c.Inbox, c.Key)
	switch {
	case err == nil && acked != nil:
		return *acked, nil
	case err == nil && maybeTaken:
		return store.Answer{}, fmt.Errorf("%w: %w at an earlier attempt", ErrKept, ErrMaybeTaken)
	case err != nil && !i.cfg.Lenient:
		return store.Answer{}, i.keep(ctx, slot, c, err)
	}
	for wait := forwardWaitShortest; ; wait = min(2*wait, forwardWaitLongest) {
		answer, err := i.forwardOnce(ctx, slot, &c, minTime)
		if err == nil {
			return answer, nil
		}
		pause := max(wait, askedFor(err, i.cfg.Now()))
		if deadline, _ := ctx.Deadline(); !triesAgain(err) || deadline.Sub(i.cfg.Now()) < pause+minTime {
			return store.Answer{}, i.keep(ctx, slot, c, err)
		}
		time.Sleep(pause)
	}
}

// earlierError is why an earlier call holds up a call. It does not unwrap to the app's
// answer, which is not one to the call that is held up.
type earlierError struct{ err error }

func (e earlierError) Error() string {
	return "an earlier call of the same virtual account: " + e.err.Error()
}

// triesAgain reports whether Forward makes another attempt after an error of forwardOnce.
func triesAgain(err error) bool {
	if earlier, found := errors.AsType[earlierError](err); found {
		return triesAgain(earlier.err)
	}
	if said, found := errors.AsType[*appanswer.Judgement](err); found {
		return said.Soon()
	}
	return !errors.Is(err, errSlotExpired)
}

// Errors of forwardOnce.
var (
	errSlotExpired = errors.New("another sidecar may deliver calls of the same virtual account by now")
	errNoTime      = errors.New("no time is left for an attempt")
)

// forwardOnce makes one attempt at c. Before it, it delivers the earlier calls of the
// same ordering key. Each attempt needs minTime before the deadline of ctx. slot is nil
// while the store is away.
func (i *Inbox) forwardOnce(ctx context.Context, slot *slot, c *callstore.Call, minTime time.Duration) (store.Answer, error) {
	for {
		deadline, _ := ctx.Deadline()
		switch {
		case slot != nil && slot.expired():
			return store.Answer{}, errSlotExpired
		case deadline.Sub(i.cfg.Now()) < minTime:
			return store.Answer{}, errNoTime
		}
		first, err := i.cfg.Store.Peek(ctx, c.Inbox, c.OrderingKey)
		if err != nil && !i.cfg.Lenient {
			return store.Answer{}, fmt.Errorf("earlier calls of the same virtual account may wait: %w", err)
		}
		if err != nil {
			i.cfg.Logger.WarnContext(ctx,
				"earlier calls of the same virtual account may wait, but the inbox cannot be read; this call is delivered", "error", err)
			first = nil
		}
		if first == nil {
			break
		}
		answer, err := i.attempt(ctx, slot, first)
		said, _ := errors.AsType[*appanswer.Judgement](err)
		switch {
		case first.Key == c.Key && answer.Status != 0: // the app has taken c, whether or not that is recorded
			return answer, nil
		case first.Key == c.Key: // c is kept since an earlier try of DOKU
			return answer, err
		case said != nil && said.MaybeTaken(): // first has left the order of the virtual account
		case err != nil:
			return store.Answer{}, earlierError{err}
		}
	}
	c.Attempts++
	said, err := i.callApp(ctx, *c)
	switch {
	case err != nil:
		return store.Answer{}, err
	case said.Decision == appanswer.Undecided:
		return store.Answer{}, said
	case said.Decision == appanswer.No:
		return said.Answer, nil
	}
	if err := i.ack(ctx, i.cfg.Store, *c, said.Answer); err != nil {
		i.cfg.Logger.WarnContext(ctx,
			"the app has taken a call, but that could not be recorded; if this process dies before it can, the app gets a repeat again",
			"key", c.Key, "error", err)
		i.oweAck(slot, *c, said.Answer, nil)
	}
	i.noteSuccess(ctx)
	return said.Answer, nil
}

// keep keeps a call that the app has not taken because of err. It returns [ErrKept] or
// [ErrLost]. held is the slot, or nil.
func (i *Inbox) keep(ctx context.Context, held *slot, c callstore.Call, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	now := i.cfg.Now()
	c.Error, c.ForegroundAttempts = err.Error(), max(c.Attempts-1, 0)
	scheduleAfter(&c, err, now)
	added, _, failed := i.cfg.Store.Add(ctx, c)
	if failed != nil {
		if c.MaybeTaken > 0 {
			i.oweMaybeTaken(held, c, func(ctx context.Context, in callstore.Store, c callstore.Call) error {
				_, _, err := in.Add(ctx, c)
				return err
			})
		}
		return fmt.Errorf("%w: %w (because: %w)", ErrLost, failed, err)
	}
	if added {
		i.mu.Lock()
		i.failing = true
		i.mu.Unlock()
		i.cfg.Observe(EventKept, c)
		i.signal()
	}
	if c.MaybeTaken > 0 {
		return fmt.Errorf("%w: %w: %w", ErrKept, ErrMaybeTaken, err)
	}
	return fmt.Errorf("%w: %w", ErrKept, err)
}
