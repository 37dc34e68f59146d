package snap

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
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
	r := timeReader{rest: s}
	t := r.date()
	if r.bad = r.bad || !r.skip("T") && !r.skip("t"); !r.bad {
		t = r.clock(t)
	}
	if r.bad || r.rest != "" {
		return time.Time{}, fmt.Errorf("%w: expected a form such as 2024-03-26T16:01:41+07:00, found %q", errTimestamp, s)
	}
	return t, nil
}

const timestampLongest = 64

// timeReader reads the parts of a timestamp. Once a part is not as expected, it is bad.
type timeReader struct {
	rest string
	bad  bool
}

func (r *timeReader) skip(text string) (found bool) {
	r.rest, found = strings.CutPrefix(r.rest, text)
	return found
}

func (r *timeReader) digit() bool { return r.rest != "" && isDigit(r.rest[0]) }

// number reads a number of n digits, which is most at most.
func (r *timeReader) number(n, most int) (value int) {
	for range n {
		if !r.digit() {
			r.bad = true
			return 0
		}
		value = value*10 + int(r.rest[0]-'0')
		r.rest = r.rest[1:]
	}
	r.bad = r.bad || value > most
	return value
}

// date reads a date, and returns its beginning in UTC.
func (r *timeReader) date() time.Time {
	year := r.number(4, 9999)
	extended := r.skip("-")
	month := time.Month(r.number(2, 12))
	r.bad = r.bad || extended && !r.skip("-")
	day := r.number(2, 31)
	t := time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	r.bad = r.bad || t.Month() != month || t.Day() != day
	return t
}

// more reports whether another part of a time or offset follows, and skips the colon.
func (r *timeReader) more() bool { return r.skip(":") || r.digit() }

// clock reads time of day and offset, and returns the instant.
func (r *timeReader) clock(midnight time.Time) time.Time {
	unit := time.Hour
	since := time.Duration(r.number(2, 24)) * unit
	leap := false
	if r.more() {
		unit = time.Minute
		since += time.Duration(r.number(2, 59)) * unit
		if r.more() {
			unit = time.Second
			second := r.number(2, 60)
			since += time.Duration(second) * unit
			leap = second == 60
		}
	}
	whole := since
	if r.skip(".") || r.skip(",") {
		r.bad = r.bad || !r.digit()
		for r.digit() {
			unit /= 10
			since += time.Duration(r.number(1, 9)) * unit
		}
	}
	t := midnight.Add(since).Add(-r.offset())
	r.bad = r.bad || since >= 24*time.Hour && !leap && since != 24*time.Hour // 24:00 is the last
	r.bad = r.bad || leap && t.Add(whole-since).Unix()%(24*60*60) != 0
	return t
}

// offset reads the difference from UTC.
func (r *timeReader) offset() time.Duration {
	if r.skip("Z") || r.skip("z") {
		return 0
	}
	east := r.skip("+")
	r.bad = r.bad || !east && !r.skip("-") && !r.skip("\u2212")
	offset := time.Duration(r.number(2, 23)) * time.Hour
	if r.more() {
		offset += time.Duration(r.number(2, 59)) * time.Minute
		if r.more() {
			offset += time.Duration(r.number(2, 59)) * time.Second
		}
	}
	if east {
		return offset
	}
	return -offset
}

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
