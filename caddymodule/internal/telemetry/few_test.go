package telemetry_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
)

func TestAFewLinesOfAReasonAreAllowedInASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		few := telemetry.NewFew(slog.New(slog.NewTextHandler(&log, nil)))
		defer few.Close()
		allowed := func(reason, account string, calls int) (n int) {
			for range calls {
				of := telemetry.Refusals{Reason: reason, Service: "25", Account: account}
				if silent := few.Silent(of); silent == few.Allow(of) {
					t.Errorf("Silent says %v, and Allow too", silent)
				} else if !silent {
					n++
				}
			}
			return n
		}
		if a, b := allowed("signature", "kopi", 10), allowed("token_missing", "kopi", 2); a != 5 || b != 2 {
			t.Errorf("allowed %d and %d lines", a, b)
		}
		if n := allowed("signature", "susu", 2); n != 2 {
			t.Errorf("allowed %d lines of another account", n)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if text := log.String(); !strings.Contains(text, "reason=signature service=25 account=kopi more=5") ||
			strings.Contains(text, "token_missing") {
			t.Errorf("the log has %s", text)
		}
		if n := allowed("signature", "kopi", 6); n != 5 {
			t.Errorf("allowed %d lines in the next second", n)
		}
		few.Close()
		if text := log.String(); !strings.Contains(text, "reason=signature service=25 account=kopi more=1") {
			t.Errorf("the log has %s", text)
		}
	})
}
