package integration

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// TestMerchantsWithOneRedisDoNotSeeEachOther has two merchants, each with a sidecar, whose
// accounts and inboxes have the default names.
func TestMerchantsWithOneRedisDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	o := options{global: "store redis " + doktest.StartRedis(t).URL, inbox: "{\n answer_within 200ms\n}"}
	mine, theirs := newEnv(t), newEnv(t)
	theirs.doku = newDOKU(t, kopi, secretKey+"kopi", theirs.dokuAhead)
	theirs.doku.SetMerchantURLs(theirs.inward+tokenPath, theirs.inward+inquiryPath, theirs.inward+paymentPath)
	theirs.variables = []string{"DOKU_CLIENT_ID=" + kopi, "DOKU_SECRET_KEY=" + secretKey + "kopi"}
	mine.run(t, mine.caddyfile(o))
	theirs.run(t, theirs.caddyfile(o))

	theirs.app.setAnswer(answering(http.StatusServiceUnavailable))
	theirs.notify(t, simulator.Outgoing{Body: payment("P-1")}).expect(t, http.StatusInternalServerError, "5002502")
	if waiting, _ := theirs.kept(t); waiting != 1 {
		t.Errorf("%d wait at the merchant that was paid", waiting)
	}
	if waiting, dead := mine.kept(t); waiting != 0 || dead != 0 {
		t.Errorf("%d wait and %d are dead at the other merchant", waiting, dead)
	}
	list, err := mine.inboxCommand(t, "list")
	if err != nil || !strings.Contains(list, "is empty") {
		t.Errorf("the list of the other merchant: %v\n%s", err, list)
	}
	if list, err := theirs.inboxCommand(t, "list"); err != nil || strings.Count(list, "\n") != 2 {
		t.Errorf("the list of the merchant that was paid: %v\n%s", err, list)
	}
	mine.notify(t, simulator.Outgoing{Body: payment("P-1")}).expect(t, http.StatusOK, "2002500")
	theirs.app.setAnswer(nil)
	doktest.Eventually(t, "the delivery", func() bool { waiting, _ := theirs.kept(t); return waiting == 0 })
	if n := len(mine.app.seen()); n != 1 {
		t.Errorf("the other merchant's app was called %d times", n)
	}
	if log := mine.log.String(); strings.Contains(log, `"level":"error"`) || strings.Contains(log, "cannot be read") {
		t.Errorf("the other merchant's log has an error:\n%s", log)
	}
}
