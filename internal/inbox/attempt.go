package inbox

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/caddy-doku/caddy-doku/internal/appanswer"
	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
)

// maxAckedAnswer is the largest answer in the record of a taken call, in bytes.
const maxAckedAnswer = 4 << 10

// errStopped is the cause of attempts that end because [Inbox.Run] ends.
var errStopped = errors.New("the deliveries have been stopped")

// callApp sends a call to the app, and judges its answer.
func (i *Inbox) callApp(ctx context.Context, c callstore.Call) (*appanswer.Judgement, error) {
	ctx, cancel := context.WithTimeout(ctx, i.cfg.AttemptTimeout)
	defer cancel()
	answer, err := i.cfg.Deliver(ctx, c)
	if broken, found := errors.AsType[BrokenAnswerError](err); found {
		return appanswer.JudgeBroken(c.Service, answer, broken), nil
	}
	if err != nil {
		return nil, err
	}
	said := appanswer.Judge(c.Service, answer, i.cfg.LooseAnswers)
	if said.OtherService {
		i.cfg.Logger.WarnContext(ctx, "the app has answered with the responseCode of another service",
			"key", c.Key, "service", string(c.Service), "external_id", c.ExternalID, "response_code", string(said.Code))
	}
	return said, nil
}

// attempt makes one attempt at a kept call and records the result. The caller holds the
// slot. The error says why the app has not taken the call, or wraps [callstore.ErrStore];
// then the answer is that of the app, if it has taken the call. An attempt that ends because
// [Inbox.Run] ends does not count.
func (i *Inbox) attempt(ctx context.Context, held *slot, c *callstore.Call) (store.Answer, error) {
	if owed := i.cfg.Slots.owed(c.Inbox, c.Key); owed != nil { // the call had no slot while the store was away
		return i.again(ctx, c, owed)
	}
	c.Attempts++
	said, err := i.callApp(ctx, *c)
	if err == nil && said.Decision != appanswer.Yes {
		err = said
	}
	switch {
	case err != nil && said == nil && errors.Is(context.Cause(ctx), errStopped):
		return store.Answer{}, errStopped
	case err != nil:
		return store.Answer{}, i.recordFailure(ctx, held, c, err)
	}
	taken := *c
	recorded := func(ctx context.Context) {
		i.cfg.Logger.InfoContext(ctx, "the app has taken a kept notification",
			"key", taken.Key, "account", taken.Account, "attempts", taken.Attempts)
		i.cfg.Observe(EventRedelivered, taken)
		i.noteSuccess(ctx)
	}
	if err := i.ack(ctx, i.cfg.Store, taken, said.Answer); err != nil {
		i.cfg.Logger.ErrorContext(ctx,
			"the app has taken a call, but that could not be recorded; if this process dies before it can, the app gets the call again",
			"key", c.Key, "error", err)
		i.oweAck(held, taken, said.Answer, recorded)
		return said.Answer, err
	}
	recorded(ctx)
	return said.Answer, nil
}

// again is attempt for a call of which something is owed: it only tries to record that.
func (i *Inbox) again(ctx context.Context, c *callstore.Call, owed *debt) (answer store.Answer, err error) {
	if owed.answer != nil {
		answer = *owed.answer
	}
	err = i.cfg.Slots.settle(ctx, slotName(c.Inbox, c.Key), i.cfg.Store)
	if err == nil && owed.answer == nil {
		err = ErrMaybeTaken
	}
	return answer, err
}

// oweAck remembers that the app has taken a call, which the store could not record.
func (i *Inbox) oweAck(held *slot, c callstore.Call, answer store.Answer, recorded func(context.Context)) {
	i.cfg.Slots.owe(c.Inbox, c.Key, &debt{
		answer: &answer,
		pay:    func(ctx context.Context, in callstore.Store) error { return i.ack(ctx, in, c, answer) },
		paid:   recorded, slot: held,
	})
}

// settle pays the debts of all inboxes that share the slots. It stops when the store is away.
func (i *Inbox) settle(ctx context.Context) {
	names := i.cfg.Slots.owing()
	if len(names) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	for _, name := range names {
		_ = i.cfg.Slots.settle(ctx, name, i.cfg.Store) // logged when the debt was made
		if ctx.Err() != nil {
			return
		}
	}
}

// ack records that the app has taken a call, even if ctx has ended.
func (i *Inbox) ack(ctx context.Context, in callstore.Store, c callstore.Call, answer store.Answer) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	return in.Ack(ctx, c, shorten(c, answer), i.cfg.RetainAcked)
}

// shorten returns the answer to record for a call. An acknowledgement replaces a long
// answer, because there are many records, and they are kept for days.
func shorten(c callstore.Call, answer store.Answer) store.Answer {
	size := len(answer.Body)
	for name, values := range answer.Header {
		for _, value := range values {
			size += len(name) + len(value)
		}
	}
	if size <= maxAckedAnswer {
		return answer
	}
	body := snap.Acknowledge(c.Service, c.Body)
	if len(body) > maxAckedAnswer {
		body = snap.Successful.Answer(c.Service)
	}
	return store.Answer{Status: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: body}
}

// Hint says what to do about an attempt that has failed with err. It is "" if the app has
// given no answer.
func Hint(err error) string {
	hint := ""
	if said, found := errors.AsType[*appanswer.Judgement](err); found {
		hint = said.Hint()
		if said.MaybeTaken() {
			err = ErrMaybeTaken
		}
	}
	if !errors.Is(err, ErrMaybeTaken) {
		return hint
	}
	if hint != "" {
		hint += "; "
	}
	return hint + maybeTakenHint
}

// maybeTakenHint has the times of maybeTakenDelays.
const maybeTakenHint = "the app may have booked the payment: see there. The inbox delivers it again only 2 s, 1 min, 30 min, " +
	"6 h and 12 h after its earlier try, and then gives it up; `caddy-doku doku inbox drop` ends that"

// recordFailure records that the app has not taken a kept call because of err. It
// returns err, or the error of the store if that could not be recorded.
func (i *Inbox) recordFailure(ctx context.Context, held *slot, c *callstore.Call, err error) error {
	i.mu.Lock()
	i.failing = true
	i.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if kept, _ := i.cfg.Store.Get(ctx, c.Inbox, c.Key); kept != nil {
		c.GiveUp = latest(c.GiveUp, kept.GiveUp) // it may have been retried by hand during the attempt
	}
	i.scheduleRetry(c, err)
	event := EventFailed
	if c.Dead {
		event = EventDead
		message := "a notification is given up: the app has not taken it. See `caddy-doku doku inbox list`; `retry` delivers it again"
		if c.MaybeTaken > 0 {
			message = "a notification is given up: the app may have booked it, and has not said so. See there, before you " +
				"`caddy-doku doku inbox retry` or `drop` it"
		}
		i.cfg.Logger.ErrorContext(ctx, message, //nolint:sloglint // one of two
			"key", c.Key, "account", c.Account, "service", string(c.Service), "external_id", c.ExternalID,
			"attempts", c.Attempts, "error", c.Error, "hint", Hint(err))
	} else {
		message := "the app has not taken a kept notification"
		if c.MaybeTaken > 0 {
			message = "the app has not said yes to a kept notification; it may have booked it"
		}
		i.cfg.Logger.WarnContext(ctx, message, //nolint:sloglint // one of two
			"key", c.Key, "account", c.Account, "attempts", c.Attempts, "error", c.Error, "hint", Hint(err), "next", c.Due)
	}
	if failed := i.cfg.Store.Update(ctx, *c); failed != nil {
		if c.MaybeTaken > 0 { // the app must not get it again soon
			i.oweMaybeTaken(held, *c, func(ctx context.Context, in callstore.Store, c callstore.Call) error { return in.Update(ctx, c) })
		}
		i.cfg.Logger.ErrorContext(ctx, "the inbox cannot be written", "key", c.Key, "error", failed)
		return fmt.Errorf("%w (because: %w)", failed, err)
	}
	i.cfg.Observe(event, *c)
	return err
}

// oweMaybeTaken remembers that the app may have taken a call, which the store could not
// record.
func (i *Inbox) oweMaybeTaken(held *slot, c callstore.Call, record func(context.Context, callstore.Store, callstore.Call) error) {
	i.cfg.Slots.owe(c.Inbox, c.Key, &debt{
		pay:  func(ctx context.Context, in callstore.Store) error { return record(ctx, in, c) },
		slot: held,
	})
}
