package telemetry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
)

// mask replaces all but the last four digits of number.
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

// hide masks the number within text: an id may contain it, and DOKU's do.
func hide(ref snap.Reference, text string) string {
	for _, number := range []string{ref.VirtualAccountNo, ref.CustomerNo} {
		if len(number) > 4 {
			text = strings.ReplaceAll(text, number, mask(number))
		}
	}
	return text
}

// How long the trace links of a virtual account are kept.
const (
	linkGrace      = 24 * time.Hour // after it expires: DOKU notifies for 18.5 hours
	linkDefault    = 7 * 24 * time.Hour
	linkLongest    = 31 * 24 * time.Hour
	linkTimeout    = 250 * time.Millisecond // for the store to answer
	linkWrite      = 2 * time.Second
	linkSpans      = 8  // at most, the latest ones
	linksUnderWay  = 16 // writes at once; more are left out
	linkRecordName = "story/"
)

// Links keeps the traces of the calls about a virtual account, so that the payment,
// hours later and maybe in another sidecar, can be linked with the creation. Only
// traces depend on it. If the store hangs, it delays a traced call by 250 ms at most.
// It is safe for concurrent use.
type Links struct {
	store store.Store
	now   func() time.Time
	slots chan struct{}

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

// NewLinks returns links that are kept in s.
func NewLinks(s store.Store, now func() time.Time) *Links {
	return &Links{store: s, now: now, slots: make(chan struct{}, linksUnderWay)}
}

// Close waits for writes under way. Nothing is written afterwards.
func (l *Links) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.wg.Wait()
}

// linkRecord is what is stored for a virtual account.
type linkRecord struct {
	Until time.Time `json:"until"`
	Calls []link    `json:"calls"`
}

// link is a call in a record.
type link struct {
	TrxID string `json:"trx_id,omitempty"`
	Trace string `json:"trace"` // as in traceparent
}

func linkKey(ref snap.Reference) string {
	sum := sha256.Sum256([]byte(ref.VirtualAccountNo))
	return linkRecordName + hex.EncodeToString(sum[:16])
}

func (l *Links) read(ctx context.Context, ref snap.Reference) (known linkRecord) {
	value, err := l.store.Get(ctx, linkKey(ref))
	if err != nil || json.Unmarshal(value, &known) != nil {
		return linkRecord{}
	}
	return known
}

// Add adds a call's span to the record of its virtual account, in the background. It
// goes on when ctx ends.
func (l *Links) Add(ctx context.Context, ref snap.Reference, span trace.SpanContext) {
	if ref.VirtualAccountNo == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	select {
	case l.slots <- struct{}{}:
	default:
		return
	}
	l.wg.Go(func() {
		defer func() { <-l.slots }()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), linkWrite)
		defer cancel()
		known := l.read(ctx, ref)
		now := l.now()
		until := now.Add(linkDefault)
		if !ref.Expires.IsZero() {
			until = ref.Expires.Add(linkGrace)
		}
		if known.Until.After(until) {
			until = known.Until
		}
		known.Until = clamp(until, now.Add(linkGrace), now.Add(linkLongest))
		known.Calls = append(known.Calls, link{ref.TrxID, traceparent(span)})
		known.Calls = known.Calls[max(0, len(known.Calls)-linkSpans):]
		if value, err := json.Marshal(known); err == nil {
			_ = l.store.Set(ctx, linkKey(ref), value, known.Until.Sub(now)) // without it, a link is missing
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

// Find returns links to the spans of the calls about a virtual account. A number may
// serve one bill after another: calls about other bills are left out.
func (l *Links) Find(ctx context.Context, ref snap.Reference) []trace.Link {
	if ref.VirtualAccountNo == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, linkTimeout)
	defer cancel()
	var links []trace.Link
	for _, call := range l.read(ctx, ref).Calls {
		if span := SpanOf(call.Trace); span.IsValid() && (call.TrxID == "" || ref.TrxID == "" || call.TrxID == ref.TrxID) {
			links = append(links, trace.Link{SpanContext: span})
		}
	}
	return links
}
