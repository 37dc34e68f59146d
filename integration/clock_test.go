package integration

import (
	"net/http"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/simulator"
)

// TestAfterAStepOfDOKUsClockTheCorrectionIsRightWithinTwoAnswers sets DOKU's clock in the
// middle of a sidecar's life. To the sidecar it looks the same if its own clock is set.
func TestAfterAStepOfDOKUsClockTheCorrectionIsRightWithinTwoAnswers(t *testing.T) {
	t.Parallel()
	env := start(t, options{global: "clock_correction on"})
	env.doku.SetFault(statusPath, &simulator.Fault{Status: 404, Body: `{"responseCode":"4042612"}`})
	env.call(t, http.MethodPost, statusPath, "{}").expect(t, http.StatusNotFound, "4042612") // and a token request
	for _, ahead := range []time.Duration{4 * time.Minute, -2 * time.Minute, 0, 90 * time.Second} {
		env.dokuAhead.Store(int64(ahead))
		for range 2 {
			env.call(t, http.MethodPost, statusPath, "{}").expect(t, http.StatusNotFound, "4042612")
		}
		for n := range 12 {
			earliest := time.Now().Truncate(time.Second)
			env.call(t, http.MethodPost, statusPath, "{}").expect(t, http.StatusNotFound, "4042612")
			// The sidecar measures to the half of a round trip of 10 s at most.
			earliest, latest := earliest.Add(ahead-10*time.Second), time.Now().Add(ahead+10*time.Second)
			sent, err := time.Parse(time.RFC3339, env.received(t).Header.Get("X-Timestamp"))
			if err != nil || sent.Before(earliest) || sent.After(latest) {
				t.Errorf("%s ahead, call %d: X-TIMESTAMP %s, %v, expected %s to %s", ahead, n, sent, err, earliest, latest)
			}
		}
	}
}
