// Package verifier proves that a call to a merchant comes from DOKU, unaltered and
// fresh.
//
// It is a plain library: it knows nothing of Caddy, reads no environment and no
// global clock. The pieces, in the order in which a call meets them:
//
//   - [TokenRequest]: DOKU asks the merchant for a token, signed with DOKU's RSA key;
//   - [Issuer]: gives that token, and recognizes it again, without shared state;
//   - [Verifier]: headers, time, token and signature of an inquiry or notification.
//
// Every refusal is a [*Refusal]: it wraps one of the sentinel errors below, and
// holds the SNAP case to answer with, which says less.
package verifier

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-doku/caddy-doku/snap"
)

// Why a call is refused. Test for them with [errors.Is].
var (
	ErrHeaderMissing    = errors.New("header missing")
	ErrHeaderRepeated   = errors.New("header present more than once")
	ErrHeaderFormat     = errors.New("header malformed")
	ErrTimestampFormat  = errors.New("timestamp malformed")
	ErrTimestampOld     = errors.New("timestamp too old")
	ErrTimestampFuture  = errors.New("timestamp in the future")
	ErrClientUnknown    = errors.New("client key or partner id is not this account's")
	ErrTokenMissing     = errors.New("bearer token missing")
	ErrTokenInvalid     = errors.New("bearer token not issued by this sidecar for this account")
	ErrTokenExpired     = errors.New("bearer token expired")
	ErrSignatureFormat  = errors.New("signature malformed")
	ErrSignature        = errors.New("signature does not match")
	ErrPartnerService   = errors.New("partner service id is not this account's")
	ErrBodyFormat       = errors.New("body malformed")
	ErrGrantTypeMissing = errors.New("grant type missing")
	ErrGrantType        = errors.New("grant type is not client_credentials")
)

// reasons are the short names of the sentinel errors for counters and logs: a
// closed set, which dashboards may rely on.
var reasons = []struct {
	err  error
	name string
}{
	{ErrHeaderMissing, "header_missing"},
	{ErrHeaderRepeated, "header_repeated"},
	{ErrHeaderFormat, "header_format"},
	{ErrTimestampFormat, "timestamp_format"},
	{ErrTimestampOld, "timestamp_old"},
	{ErrTimestampFuture, "timestamp_future"},
	{ErrClientUnknown, "client_unknown"},
	{ErrTokenMissing, "token_missing"},
	{ErrTokenInvalid, "token_invalid"},
	{ErrTokenExpired, "token_expired"},
	{ErrSignatureFormat, "signature_format"},
	{ErrSignature, "signature"},
	{ErrPartnerService, "partner_service"},
	{ErrBodyFormat, "body_format"},
	{ErrGrantTypeMissing, "grant_type_missing"},
	{ErrGrantType, "grant_type"},
}

const reasonOther = "other"

// Reasons returns all that [Reason] can return.
func Reasons() []string {
	names := make([]string, 0, len(reasons)+1)
	for _, r := range reasons {
		names = append(names, r.name)
	}
	return append(names, reasonOther)
}

// Reason returns the short name of the sentinel error that err wraps, such as
// "timestamp_old", or "other".
func Reason(err error) string {
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.name
		}
	}
	return reasonOther
}

// Refusal is the error of a call that must not reach the app. Its text is for
// the operator's log. Answer DOKU with the Case only.
type Refusal struct {
	Case snap.Case
	Err  error
}

func (r *Refusal) Error() string { return r.Err.Error() }
func (r *Refusal) Unwrap() error { return r.Err }

func refuse(c snap.Case, format string, args ...any) *Refusal {
	return &Refusal{Case: c, Err: fmt.Errorf(format, args...)}
}

// Window is how far the X-TIMESTAMP of a call may lie from the clock. The zero value is
// [DefaultWindow]; if only one of the two is zero, it allows nothing on that side. DOKU's own tolerance is not documented.
type Window struct {
	Past   time.Duration
	Future time.Duration
}

// DefaultWindow allows ten minutes back, for a call that was delayed, and two ahead, for
// clocks that differ.
var DefaultWindow = Window{Past: 10 * time.Minute, Future: 2 * time.Minute}

// orDefault returns w, or [DefaultWindow] if w is zero.
func (w Window) orDefault() Window {
	if w == (Window{}) {
		return DefaultWindow
	}
	return w
}

// valid returns [ErrConfig] for a window that could be empty.
func (w Window) valid() error {
	if w.Past < 0 || w.Future < 0 {
		return fmt.Errorf("%w: expected a window of positive durations, found %s and %s", ErrConfig, w.Past, w.Future)
	}
	return nil
}

func (w Window) check(text string, now time.Time) (time.Time, error) {
	w = w.orDefault()
	t, err := snap.ParseTimestamp(text)
	if err != nil {
		return time.Time{}, refuseTimestamp("%w: %w", ErrTimestampFormat, err)
	}
	switch { // it compares times, because a duration ends at 292 years
	case t.Before(now.Add(-w.Past)):
		return t, refuseTimestamp("%w: %s is %s before this machine's clock, at most %s is allowed", ErrTimestampOld, text,
			now.Sub(t).Round(time.Second), w.Past)
	case t.After(now.Add(w.Future)):
		return t, refuseTimestamp("%w: %s is %s ahead of this machine's clock, at most %s is allowed", ErrTimestampFuture, text,
			t.Sub(now).Round(time.Second), w.Future)
	}
	return t, nil
}

func refuseTimestamp(format string, args ...any) *Refusal {
	return refuse(snap.InvalidFieldFormat.With(snap.HeaderTimestamp), format, args...)
}

const headerLongest = 4096

// header returns the value of a header that must be there exactly once.
func header(h http.Header, name string) (string, error) {
	values := snap.HeaderValues(h, name)
	switch {
	case len(values) > 1:
		return "", refuse(snap.InvalidFieldFormat.With(name), "%w: %s, %d times", ErrHeaderRepeated, name, len(values))
	case len(values) == 0 || values[0] == "":
		return "", refuse(snap.InvalidMandatory.With(name), "%w: %s", ErrHeaderMissing, name)
	case len(values[0]) > headerLongest:
		return "", refuse(snap.InvalidFieldFormat.With(name), "%w: %s has %d bytes, at most %d are allowed", ErrHeaderFormat, name,
			len(values[0]), headerLongest)
	}
	return values[0], nil
}

// signature decodes an X-SIGNATURE of size bytes: standard base64 with padding.
func signature(text string, size int) ([]byte, error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != size {
		return nil, refuse(snap.Unauthorized, "%w: expected %d bytes in standard base64, found %d characters", ErrSignatureFormat, size,
			len(text))
	}
	return raw, nil
}
