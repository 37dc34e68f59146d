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
		few := telemetry.NewFew(slog.New(slog.NewTextHandler(&log, nil)), 3)
		defer few.Close()
		allowed := func(reason string, calls int) (n int) {
			for range calls {
				if silent := few.Silent(reason); silent == few.Allow(reason) {
					t.Errorf("Silent says %v, and Allow too", silent)
				} else if !silent {
					n++
				}
			}
			return n
		}
		if a, b := allowed("signature", 10), allowed("token_missing", 2); a != 3 || b != 2 {
			t.Errorf("allowed %d and %d lines", a, b)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if text := log.String(); !strings.Contains(text, "reason=signature more=7") || strings.Contains(text, "token_missing") {
			t.Errorf("the log has %s", text)
		}
		if n := allowed("signature", 4); n != 3 {
			t.Errorf("allowed %d lines in the next second", n)
		}
		few.Close()
		if text := log.String(); !strings.Contains(text, "reason=signature more=1") {
			t.Errorf("the log has %s", text)
		}
	})
}
