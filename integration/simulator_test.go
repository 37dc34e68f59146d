package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/simulator"
)

// TestWhatTheSidecarSendsPassesWhateverDOKUItIs makes each call of a virtual account's life
// with the strict DOKU, and with each other that DOKU's documents allow.
func TestWhatTheSidecarSendsPassesWhateverDOKUItIs(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	for n, behaviour := range []simulator.Behaviour{
		{},
		{Strict: true},
		{Dialect: simulator.DialectJava},
		{Dialect: simulator.DialectJavaScript},
		{Dialect: simulator.DialectPHP},
		{NumberCodes: true},
		{NumberAmounts: true},
		{TextExpires: true},
		{Strict: true, Dialect: simulator.DialectJava, NumberCodes: true, NumberAmounts: true, TextExpires: true},
	} {
		t.Run(fmt.Sprintf("%+v", behaviour), func(t *testing.T) {
			if err := env.doku.SetBehaviour(behaviour); err != nil {
				t.Fatal(err)
			}
			env.doku.ExpireToken() // so that the token request is checked too
			env.oneLife(t, fmt.Sprint(200+n), behaviour.Strict)
		})
	}
}

// oneLife creates a virtual account, changes it, asks for its status, has it paid, and deletes it.
func (env *testEnv) oneLife(t *testing.T, number string, strict bool) {
	t.Helper()
	// White space, an escape and a needless \u make the body one that the sidecar rewrites.
	body := strings.ReplaceAll(bill(number, "LIFE-"+number, "10000.00", "C", `,"origin":{"url":"https:\/\/t.id","n":"\u004a"}`), ":{", " : {")
	if strict {
		body = strings.Replace(body, "José & Putri <VIP>", "Jose Putri", 1)
	}
	key := fmt.Sprintf(`{"partnerServiceId":%q,"customerNo":%q,"virtualAccountNo":%q,`, partnerServiceID, number, partnerServiceID+number)
	for _, step := range []struct{ method, path, body, service string }{
		{http.MethodPost, createPath, body, "27"},
		{http.MethodPut, updatePath, body, "28"},
		{http.MethodPost, statusPath, key + `"additionalInfo":{}}`, "26"},
	} {
		got := env.call(t, step.method, step.path, step.body)
		if code := "200" + step.service + "00"; got.status != http.StatusOK || !strings.Contains(got.body, code) {
			t.Errorf("%s: HTTP %d %s, expected %s", step.path, got.status, got.body, code)
		}
	}
	receipt, err := env.doku.Pay(t.Context(), partnerServiceID+number, "10000.00")
	if err != nil || !receipt.Notification.OK() {
		t.Errorf("%v: %+v", err, receipt)
	}
	deletion := key + `"trxId":"LIFE-` + number + `","additionalInfo":{"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA"}}`
	if got := env.call(t, http.MethodDelete, deletePath, deletion); got.status != http.StatusOK {
		t.Errorf("HTTP %d %s", got.status, got.body)
	}
}
