package telemetry

import (
	"fmt"
	"sync/atomic"
	"time"
)

// SecretUse is what has become of calls with a secret since it was loaded. It is in
// nanoseconds since 1970; 0 is never.
type SecretUse struct {
	taken   atomic.Int64 // DOKU has taken an outbound call
	refused atomic.Int64 // DOKU has answered 401 to one
	matched atomic.Int64 // the signature of an inbound call was right
}

// Taken says that DOKU has taken an outbound call that was signed with the secret.
func (u *SecretUse) Taken(at time.Time) { u.taken.Store(at.UnixNano()) }

// Refused says that DOKU has answered 401 to an outbound call.
func (u *SecretUse) Refused(at time.Time) { u.refused.Store(at.UnixNano()) }

// Matched says that the signature of an inbound call was right.
func (u *SecretUse) Matched(at time.Time) { u.matched.Store(at.UnixNano()) }

// SecretEvidence is what other calls tell about the secret.
type SecretEvidence struct {
	taken, refused, matched time.Duration // ago; 0 is never
}

// Evidence returns what is known at the instant now.
func (u *SecretUse) Evidence(now time.Time) SecretEvidence {
	ago := func(at int64) time.Duration {
		if at == 0 {
			return 0
		}
		return max(now.Sub(time.Unix(0, at)), 1)
	}
	return SecretEvidence{ago(u.taken.Load()), ago(u.refused.Load()), ago(u.matched.Load())}
}

// Hint returns what to do about an inbound call to target whose signature does not
// match.
func (e SecretEvidence) Hint(target string) string {
	const (
		path = "does anything in front of the sidecar strip or change the path? Compare it with the URL at DOKU, and public_prefix; " +
			"or it is a forgery"
		secret = "compare secret_key with DOKU's dashboard"
	)
	ago := func(d time.Duration) string { return d.Round(time.Second).String() + " ago" }
	switch {
	case e.refused != 0 && (e.taken == 0 || e.refused < e.taken):
		return fmt.Sprintf("DOKU also refuses outbound calls of this account (401, %s): %s first; the path is %.200q",
			ago(e.refused), secret, target)
	case e.taken != 0:
		return fmt.Sprintf("DOKU takes outbound calls with this secret (%s), so it is rather the path %.200q: %s", ago(e.taken), target, path)
	case e.matched != 0:
		return fmt.Sprintf("other calls from DOKU match this secret (%s), so it is rather the path %.200q: %s", ago(e.matched), target, path)
	}
	return fmt.Sprintf("no other call has shown yet whether it is the secret or the path: %s; the path is %.200q: %s", secret, target, path)
}
