package tour

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-doku/caddy-doku/simulator"
)

const (
	createPath = "/virtual-accounts/bi-snap-va/v1.1/transfer-va/create-va"
	updatePath = "/virtual-accounts/bi-snap-va/v1.1/transfer-va/update-va"
	deletePath = "/virtual-accounts/bi-snap-va/v1.1/transfer-va/delete-va"
	statusPath = "/orders/v1.0/transfer-va/status"
)

// step is one stop of the walk.
type step struct {
	title string
	run   func(*tourEnv, context.Context) error
}

var steps = []step{
	{"Create a VA, DOKU makes the number (DGPC). The B2B token is fetched by itself.", (*tourEnv).createDGPC},
	{"Create a VA, the merchant makes the number (MGPC). The same token is used again.", (*tourEnv).createMGPC},
	{"Update it, ask for its status, delete it.", (*tourEnv).updateStatusDelete},
	{"Open and limited amounts: the bank refuses what is outside.", (*tourEnv).amounts},
	{"The customer pays: DOKU asks for a token, then notifies. The app sees a plain request.", (*tourEnv).pay},
	{"A number that only the merchant knows (DIPC): bank, DOKU, sidecar, app, and back.", (*tourEnv).inquiry},
	{"The app is down: DOKU sees no 2xx, the sidecar keeps the payment, and hands it over when the app is back.", (*tourEnv).appDown},
	{"The same notification again: answered from the ledger, the app is not called.", (*tourEnv).repeat},
	{"A forged and a tampered notification: refused, the app never sees them.", (*tourEnv).forged},
}

// walk takes every step, and stops at the first one that fails.
func (env *tourEnv) walk(ctx context.Context) error {
	for i, step := range steps {
		fmt.Fprintf(env.out, "\n── %d. %s\n", i+1, step.title)
		if err := step.run(env, ctx); err != nil {
			fmt.Fprintf(env.out, "   ✗ %v\n", err)
			return fmt.Errorf("step %d: %w", i+1, err)
		}
		fmt.Fprintln(env.out, "   ✓")
	}
	fmt.Fprintf(env.out, "\nAll %d steps went as they should.\n", len(steps))
	return nil
}

func (env *tourEnv) introduce(config string) {
	fmt.Fprintf(env.out, "caddy-doku with a simulated DOKU, all on loopback and with new keys.\n\n"+
		"The sidecar's whole configuration:\n\n%s\n", indent(config))
}

func (env *tourEnv) invite() {
	fmt.Fprintf(env.out, `
Everything stays up until you press Ctrl-C. Try, in another terminal:

  curl -sS http://%s%s -d '{"partnerServiceId":"%s","virtualAccountName":"Siti","trxId":"INV-9",
    "totalAmount":{"value":"25000.00","currency":"IDR"},"virtualAccountTrxType":"C",
    "additionalInfo":{"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA"}}'

and pay it at the bank, with the virtualAccountNo of the answer:

  curl -sS http://%s/pay -d '{"virtualAccountNo":"…","amount":"25000.00"}'

  the app calls DOKU at      http://%s
  DOKU calls the merchant at http://%s
`, env.outward, createPath, partnerServiceID, env.bank, env.outward, env.inward)
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") + "\n"
}

// ask sends a call of the app, shows it beside the one that DOKU received, and checks the
// response code.
func (env *tourEnv) ask(ctx context.Context, method, path, body, want string) (map[string]any, error) {
	before := len(env.doku.Exchanges())
	status, answer, err := env.post(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	env.show("the app sent", method+" "+path, nil, []byte(body))
	unchanged := false
	for _, e := range env.doku.Exchanges()[before:] {
		env.showExchange(e)
		unchanged = e.Status == status && bytes.Equal(e.Answer, answer)
	}
	if unchanged {
		env.show("the app got", fmt.Sprintf("HTTP %d, DOKU's answer to the byte", status), nil, nil)
	} else {
		env.show("the app got", fmt.Sprint("HTTP ", status), nil, answer)
	}
	var fields map[string]any
	if err := json.Unmarshal(answer, &fields); err != nil {
		return nil, fmt.Errorf("expected JSON, found %.200q", answer)
	}
	if got := fields["responseCode"]; got != want {
		return nil, fmt.Errorf("expected response code %s, found %v", want, got)
	}
	data, _ := fields["virtualAccountData"].(map[string]any)
	return data, nil
}

var shown = []string{"X-Client-Key", "X-Timestamp", "X-Partner-Id", "X-External-Id", "Channel-Id", "Authorization", "X-Signature"}

func (env *tourEnv) showExchange(e simulator.Exchange) {
	who := "DOKU received"
	if !e.Inbound {
		who = "DOKU sent"
	}
	env.show(who, e.Method+" "+e.Target, e.Header, e.Body)
	env.show("  answer", fmt.Sprint("HTTP ", e.Status), nil, e.Answer)
	if e.Reason != "" {
		fmt.Fprintf(env.out, "   %-15s %s\n", "  why", e.Reason)
	}
}

func (env *tourEnv) show(who, what string, h http.Header, body []byte) {
	fmt.Fprintf(env.out, "   %-15s %s\n", who, what)
	for _, name := range shown {
		if value := h.Get(name); value != "" {
			fmt.Fprintf(env.out, "   %-15s   %s: %s\n", "", strings.ToUpper(name), shorten(value, 60))
		}
	}
	if len(body) > 0 {
		fmt.Fprintf(env.out, "   %-15s   %s\n", "", shorten(string(body), 400))
	}
}

func shorten(text string, most int) string {
	text = strings.ReplaceAll(strings.TrimSpace(text), "\n", "")
	if r := []rune(text); len(r) > most {
		return string(r[:most]) + "…"
	}
	return text
}

// bill is the body of a create or update as an app may write it, with spaces and escapes.
func bill(number, trxID, amount, trxType, more string) string {
	return fmt.Sprintf(`{ "partnerServiceId": "%s", %s"virtualAccountName": "Jos\u00e9 & Putri <VIP>", "trxId": "%s",
  "totalAmount": { "value": "%s", "currency": "IDR" }, "virtualAccountTrxType": "%s",
  "additionalInfo": { "channel": "VIRTUAL_ACCOUNT_BANK_PERMATA", "callback": "https:\/\/toko.example\/bayar?x=1&y=2"%s } }`,
		partnerServiceID, number, trxID, amount, trxType, more)
}

func mgpc(customer string) string {
	return fmt.Sprintf(`"customerNo": "%s", "virtualAccountNo": "%s%s", `, customer, partnerServiceID, customer)
}

func (env *tourEnv) createDGPC(ctx context.Context) error {
	data, err := env.ask(ctx, http.MethodPost, createPath, bill("", "INV-1", "10000.00", "C", ""), "2002700")
	if err != nil {
		return err
	}
	info, _ := data["additionalInfo"].(map[string]any)
	if data["virtualAccountNo"] == nil || info["howToPayPage"] == nil || info["howToPayApi"] == nil {
		return errors.New("expected virtualAccountNo, howToPayPage and howToPayApi in the answer")
	}
	return nil
}

func (env *tourEnv) createMGPC(ctx context.Context) error {
	if _, err := env.ask(ctx, http.MethodPost, createPath, bill(mgpc("1001"), "INV-2", "11500.00", "C", ""), "2002700"); err != nil {
		return err
	}
	if n := env.doku.Tokens(); n != 1 {
		return fmt.Errorf("expected one token for both calls, DOKU has issued %d", n)
	}
	return nil
}

func (env *tourEnv) updateStatusDelete(ctx context.Context) error {
	if _, err := env.ask(ctx, http.MethodPut, updatePath, bill(mgpc("1001"), "INV-2", "12500.00", "C", ""), "2002800"); err != nil {
		return err
	}
	key := fmt.Sprintf(`{"partnerServiceId":"%s",%s`, partnerServiceID, strings.TrimSpace(mgpc("1001")))
	if _, err := env.ask(ctx, http.MethodPost, statusPath, key+`"additionalInfo":{}}`, "2002600"); err != nil {
		return err
	}
	_, err := env.ask(
		ctx, http.MethodDelete, deletePath, key+`"trxId":"INV-2","additionalInfo":{"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA"}}`, "2003100",
	)
	return err
}

func (env *tourEnv) amounts(ctx context.Context) error {
	limits := `, "virtualAccountConfig": { "minAmount": "10000.00", "maxAmount": "50000.00" }`
	for _, create := range []struct{ body, want string }{
		{bill(mgpc("2001"), "INV-3", "0", "O", ""), "2002700"},
		{bill(mgpc("2002"), "INV-4", "20000.00", "V", limits), "2002700"},
		{bill(mgpc("2003"), "INV-5", "20000.00", "C", limits), "4002701"}, // limits don't go with a closed amount
	} {
		if _, err := env.ask(ctx, http.MethodPost, createPath, create.body, create.want); err != nil {
			return err
		}
	}
	if _, err := env.doku.Pay(ctx, partnerServiceID+"2002", "60000.00"); !errors.Is(err, simulator.ErrAmount) {
		return fmt.Errorf("expected the bank to refuse 60000.00, found: %w", err)
	}
	fmt.Fprintln(env.out, "   the bank        refused 60000.00 for the VA that takes 10000.00 to 50000.00")
	return nil
}

// during runs f, and shows the calls that DOKU got or made meanwhile.
func (env *tourEnv) during(f func() error) error {
	before := len(env.doku.Exchanges())
	err := f()
	for _, e := range env.doku.Exchanges()[before:] {
		env.showExchange(e)
	}
	return err
}

func (env *tourEnv) pay(ctx context.Context) error {
	var receipt simulator.Receipt
	err := env.during(func() (err error) {
		receipt, err = env.doku.Pay(ctx, partnerServiceID+"2002", "30000.00")
		return err
	})
	if err != nil {
		return err
	}
	n, call := env.app.seen()
	env.show("the app saw", call.method+" "+call.path, nil, call.body)
	for _, name := range []string{"X-Doku-Account", "X-Doku-Service", "Idempotency-Key"} {
		fmt.Fprintf(env.out, "   %-15s   %s: %s\n", "", name, call.header.Get(name))
	}
	if n != 1 || !receipt.Notification.OK() || call.header.Get("Authorization")+call.header.Get("X-Signature") != "" {
		return fmt.Errorf("expected one plain call of the app and HTTP 200, found %d calls and HTTP %d", n, receipt.Notification.Status)
	}
	return nil
}

func (env *tourEnv) inquiry(ctx context.Context) error {
	return env.during(func() error {
		receipt, err := env.doku.Pay(ctx, partnerServiceID+"909090", "11500.00")
		if err == nil && (!receipt.Inquired || !receipt.Notification.OK()) {
			err = fmt.Errorf("expected an inquiry and a notification answered with 200, found HTTP %d", receipt.Notification.Status)
		}
		return err
	})
}

func (env *tourEnv) appDown(ctx context.Context) error {
	var receipt simulator.Receipt
	env.app.setDown(true)
	err := env.during(func() (err error) {
		receipt, err = env.doku.Pay(ctx, partnerServiceID+"2001", "5000.00")
		return err
	})
	env.app.setDown(false)
	if err != nil {
		return err
	}
	if receipt.Notification.OK() || env.doku.Due() != 1 {
		return fmt.Errorf("expected DOKU to see a failure and to plan a retry, found HTTP %d", receipt.Notification.Status)
	}
	call, err := env.app.awaitPayment(ctx, receipt.PaymentRequestID)
	if err != nil {
		return err
	}
	env.show("the app saw", call.method+" "+call.path, nil, call.body)
	fmt.Fprintf(env.out, "   %-15s   Doku-Delivery-Attempt: %s\n", "", call.header.Get("Doku-Delivery-Attempt"))
	before, _ := env.app.seen()
	return env.during(func() error {
		answer, err := env.doku.Resend(ctx, receipt.PaymentRequestID)
		if err != nil {
			return err
		}
		if after, _ := env.app.seen(); after != before || !answer.OK() {
			return fmt.Errorf(
				"expected DOKU's retry to get HTTP 200 without a call of the app, found HTTP %d and %d calls", answer.Status, after-before,
			)
		}
		return nil
	})
}

// lastNotification returns the last notification that DOKU sent.
func (env *tourEnv) lastNotification() simulator.Exchange {
	all := env.doku.Exchanges()
	for _, e := range slices.Backward(all) {
		if !e.Inbound && strings.HasSuffix(e.Target, "/payment") {
			return e
		}
	}
	return simulator.Exchange{}
}

func (env *tourEnv) repeat(ctx context.Context) error {
	last := env.lastNotification()
	before, _ := env.app.seen()
	return env.during(func() error {
		answer, err := env.doku.Call(
			ctx, simulator.Outgoing{URL: "http://" + env.inward + last.Target, Body: last.Body, ExternalID: last.Header.Get("X-External-Id")},
		)
		if err != nil {
			return err
		}
		if after, _ := env.app.seen(); after != before || !answer.OK() {
			return fmt.Errorf("expected HTTP 200 without a call of the app, found HTTP %d and %d calls", answer.Status, after-before)
		}
		return nil
	})
}

func (env *tourEnv) forged(ctx context.Context) error {
	last := env.lastNotification()
	before, _ := env.app.seen()
	attempts := []struct {
		what string
		call simulator.Outgoing
	}{
		{"forged: signed with another secret", simulator.Outgoing{Mutate: func(r *http.Request) {
			r.Header.Set("X-SIGNATURE", strings.Repeat("A", 86)+"==")
		}}},
		{"tampered: the amount was changed on the way", simulator.Outgoing{
			Sent: bytes.Replace(last.Body, []byte("5000.00"), []byte("9000.00"), 1),
		}},
	}
	for _, attempt := range attempts {
		fmt.Fprintf(env.out, "   %s\n", attempt.what)
		err := env.during(func() error {
			attempt.call.URL, attempt.call.Body = "http://"+env.inward+last.Target, last.Body
			answer, err := env.doku.Call(ctx, attempt.call)
			if err != nil {
				return err
			}
			if !bytes.Contains(answer.Body, []byte(`"4012500"`)) || answer.Status != http.StatusUnauthorized {
				return fmt.Errorf("expected HTTP 401 and 4012500, found HTTP %d: %s", answer.Status, answer.Body)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if after, _ := env.app.seen(); after != before {
		return fmt.Errorf("the app was called %d times", after-before)
	}
	return nil
}
