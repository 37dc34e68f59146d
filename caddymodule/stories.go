package caddymodule

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/internal/store"
)

// bill is what a call or its answer tells of the bill that it is about.
type bill struct {
	number   string // of the virtual account, without the padding that DOKU's pages disagree on
	customer string // the part of it that tells customers apart
	trxID    string
	expires  time.Time // of the virtual account, if it is told
}

// billOf reads a body, which need not have any of it.
func billOf(body []byte) bill {
	type fields struct {
		Number   string `json:"virtualAccountNo"`
		Customer string `json:"customerNo"`
		TrxID    string `json:"trxId"`
		Expires  string `json:"expiredDate"`
		Info     struct {
			TrxID string `json:"trxId"`
		} `json:"additionalInfo"`
	}
	var told struct {
		fields
		Data fields `json:"virtualAccountData"` // in answers
	}
	_ = json.Unmarshal(body, &told) // what cannot be read is not told
	expires, _ := time.Parse(time.RFC3339, cmp.Or(told.Expires, told.Data.Expires))
	return bill{
		number:   strings.TrimLeft(cmp.Or(told.Number, told.Data.Number), " 0"),
		customer: cmp.Or(told.Customer, told.Data.Customer),
		trxID:    cmp.Or(told.TrxID, told.Data.TrxID, told.Info.TrxID, told.Data.Info.TrxID),
		expires:  expires,
	}
}

// or returns b, completed by what other tells.
func (b bill) or(other bill) bill {
	b.number, b.customer, b.trxID = cmp.Or(b.number, other.number), cmp.Or(b.customer, other.customer), cmp.Or(b.trxID, other.trxID)
	if b.expires.IsZero() {
		b.expires = other.expires
	}
	return b
}

// mask returns number but for all digits before the last four.
func mask(number string) string {
	const stars = "****"
	switch {
	case number == "":
		return ""
	case len(number) <= len(stars):
		return stars
	}
	return stars + number[len(number)-len(stars):]
}

// hide returns text with the number masked: an id may have it in it, and DOKU's do.
func (b bill) hide(text string) string {
	for _, number := range []string{b.number, b.customer} {
		if len(number) > 4 {
			text = strings.ReplaceAll(text, number, mask(number))
		}
	}
	return text
}

// How long it is known which traces belong to a virtual account.
const (
	storyGrace    = 24 * time.Hour // after it has expired: DOKU notifies for 18 hours and a half
	storyUsual    = 7 * 24 * time.Hour
	storyLongest  = 31 * 24 * time.Hour
	storyTimeout  = 250 * time.Millisecond // for the store to tell
	storyWrite    = 2 * time.Second
	storySpans    = 8  // at most, the latest ones
	storiesAtOnce = 16 // that are written; what comes on top is left out
)

// stories knows the traces of the calls about a virtual account, so that one about
// its payment, hours later and maybe in another sidecar, can be linked with that of
// its creation. It matters to nothing but traces, and holds up a traced call for
// storyTimeout at most, if the store hangs.
type stories struct {
	store store.Store
	now   func() time.Time
	slots chan struct{}

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

func newStories(s store.Store, now func() time.Time) *stories {
	return &stories{store: s, now: now, slots: make(chan struct{}, storiesAtOnce)}
}

// close waits for what is being written. Nothing is written afterwards.
func (s *stories) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.wg.Wait()
}

// story is what is kept of a virtual account.
type story struct {
	Until time.Time `json:"until"`
	Calls []told    `json:"calls"`
}

// told is a call in a story.
type told struct {
	TrxID string `json:"trx_id,omitempty"`
	Trace string `json:"trace"` // as in traceparent
}

func storyKey(b bill) string {
	sum := sha256.Sum256([]byte(b.number))
	return "story/" + hex.EncodeToString(sum[:16])
}

func (s *stories) read(ctx context.Context, b bill) (known story) {
	value, err := s.store.Get(ctx, storyKey(b))
	if err != nil || json.Unmarshal(value, &known) != nil {
		return story{}
	}
	return known
}

// add adds a call's span to the story of a bill, in the background, whatever becomes
// of ctx.
func (s *stories) add(ctx context.Context, b bill, span trace.SpanContext) {
	if b.number == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	select {
	case s.slots <- struct{}{}:
	default:
		return
	}
	s.wg.Go(func() {
		defer func() { <-s.slots }()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storyWrite)
		defer cancel()
		known := s.read(ctx, b)
		now := s.now()
		until := now.Add(storyUsual)
		if !b.expires.IsZero() {
			until = b.expires.Add(storyGrace)
		}
		if known.Until.After(until) {
			until = known.Until
		}
		known.Until = clamp(until, now.Add(storyGrace), now.Add(storyLongest))
		known.Calls = append(known.Calls, told{b.trxID, traceparent(span)})
		known.Calls = known.Calls[max(0, len(known.Calls)-storySpans):]
		if value, err := json.Marshal(known); err == nil {
			_ = s.store.Set(ctx, storyKey(b), value, known.Until.Sub(now)) // without it, a link is missing
		}
	})
}

func clamp(t, earliest, latest time.Time) time.Time {
	if t.Before(earliest) {
		return earliest
	}
	if t.After(latest) {
		return latest
	}
	return t
}

// find returns links to the spans of the calls in the story of a bill. A number may
// be used for one bill after another: those of other bills are left out.
func (s *stories) find(ctx context.Context, b bill) []trace.Link {
	if b.number == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, storyTimeout)
	defer cancel()
	var links []trace.Link
	for _, call := range s.read(ctx, b).Calls {
		if span := spanOf(call.Trace); span.IsValid() && (call.TrxID == "" || b.trxID == "" || call.TrxID == b.trxID) {
			links = append(links, trace.Link{SpanContext: span})
		}
	}
	return links
}
