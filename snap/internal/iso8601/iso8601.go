// Package iso8601 reads dates and times as ISO 8601 writes them.
package iso8601

import (
	"strings"
	"time"
)

// Parse reads a date and time with an offset, in the forms that snap.ParseTimestamp
// describes. It reports false if s has none of them.
func Parse(s string) (t time.Time, ok bool) {
	r := reader{rest: s}
	t = r.date()
	if r.bad = r.bad || !r.skip("T") && !r.skip("t"); !r.bad {
		t = r.clock(t)
	}
	return t, !r.bad && r.rest == ""
}

// reader reads the parts of a timestamp. Once a part is not as expected, it is bad.
type reader struct {
	rest string
	bad  bool
}

func (r *reader) skip(text string) (found bool) {
	r.rest, found = strings.CutPrefix(r.rest, text)
	return found
}

func (r *reader) digit() bool { return r.rest != "" && isDigit(r.rest[0]) }

// number reads a number of n digits, which is most at most.
func (r *reader) number(n, most int) (value int) {
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
func (r *reader) date() time.Time {
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
func (r *reader) more() bool { return r.skip(":") || r.digit() }

// clock reads time of day and offset, and returns the instant.
func (r *reader) clock(midnight time.Time) time.Time {
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
func (r *reader) offset() time.Duration {
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

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
