package snap

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/caddy-doku/caddy-doku/snap/internal/iso8601"
)

// WIB is Western Indonesian Time, UTC+7 all year: the zone of DOKU's days. An
// X-EXTERNAL-ID must be unique within one WIB day.
var WIB = time.FixedZone("WIB", 7*60*60)

// errTimestamp is in every error of [ParseTimestamp].
var errTimestamp = errors.New("invalid timestamp")

const timestampLayout = "2006-01-02T15:04:05-07:00"

// Timestamp returns t as an X-TIMESTAMP: whole seconds with the offset of
// WIB, such as "2024-03-26T16:01:41+07:00". DOKU's pages show this form and
// "Z"; both are in use.
func Timestamp(t time.Time) string { return timestamps.of(t, 1, timestampLayout) }

// ParseTimestamp reads an X-TIMESTAMP: an ISO 8601 date and time with an offset, in the
// basic or the extended format:
//
//   - a date such as 2024-03-26 or 20240326, and "T" or "t";
//   - a time such as 16:01:41, 160141, 16:01 or 16, with a fraction of its last part
//     after a point or a comma; 24:00 ends the day, 23:59:60 UTC is a leap second;
//   - "Z", "z", or an offset such as +07:00, +0700, +07, -00:00 or +07:00:00.
//
// Week and ordinal dates are not read, nor a time without an offset. Use the result to
// check the age of a call only: the string to sign has the header's own text.
func ParseTimestamp(s string) (time.Time, error) {
	if len(s) > timestampLongest {
		return time.Time{}, fmt.Errorf("%w: expected at most %d characters such as 2024-03-26T16:01:41+07:00, found %d",
			errTimestamp, timestampLongest, len(s))
	}
	t, ok := iso8601.Parse(s)
	if !ok {
		return time.Time{}, fmt.Errorf("%w: expected a form such as 2024-03-26T16:01:41+07:00, found %q", errTimestamp, s)
	}
	return t, nil
}

const timestampLongest = 64

// Day returns the WIB day of t, such as "2024-03-26".
func Day(t time.Time) string { return days.of(t, 24*60*60, time.DateOnly) }

// period keeps the text of the last second or WIB day, because many calls are in the same
// one. It is safe for concurrent use.
type period struct{ last atomic.Pointer[periodText] }

type periodText struct {
	begin int64 // in seconds since 1970 began in WIB
	text  string
}

var timestamps, days period

// of returns the text for t. A period lasts so many seconds.
func (p *period) of(t time.Time, seconds int64, layout string) string {
	t = t.In(WIB)
	begin := t.Unix() + 7*60*60
	begin -= (begin%seconds + seconds) % seconds
	if last := p.last.Load(); last != nil && last.begin == begin {
		return last.text
	}
	text := t.Format(layout)
	p.last.Store(&periodText{begin, text})
	return text
}
