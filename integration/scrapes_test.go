package integration

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// TestAMinuteOfTradeIsScraped runs a sidecar for a minute, in which some calls fail, and
// writes its metrics of every second to the folder CADDY_DOKU_SCRAPES,
// as `make check-deploy DRAW=…` needs it. Without the variable the test is skipped.
func TestAMinuteOfTradeIsScraped(t *testing.T) {
	t.Parallel()
	folder := os.Getenv("CADDY_DOKU_SCRAPES")
	if folder == "" {
		t.Skip("skipped, because it takes a minute: `make check-deploy DRAW=docs/pictures` runs it")
	}
	env := newEnv(t)
	env.variables = []string{"OTEL_TRACES_EXPORTER=none"} // trace ids, which the histograms name, but no spans in the log
	shown := "http://" + doktest.FreeAddress(t)
	env.run(t, env.caddyfile(options{inbox: "{\n answer_within 600ms\n}"})+shown+" {\n\tmetrics\n}\n")
	env.app.forget()

	closing := make(chan struct{}) // closed when the trade has ended
	go func() {
		defer close(closing)
		env.trade(t)
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for trading := true; trading; {
		scrape(t, shown, folder)
		select {
		case <-closing:
			trading = false
		case <-tick.C:
		}
	}
	scrape(t, shown, folder)
}

// scrape writes the metrics to a file that is named by the time.
func scrape(t *testing.T, address, folder string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/openmetrics-text")
	now := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%d.txt", now.UnixMilli())), text, 0o644); err != nil {
		t.Fatal(err)
	}
}

const (
	beat  = 125 * time.Millisecond // more or less
	beats = 480                    // a minute of them
)

// trade creates and pays virtual accounts at every beat of a minute. Meanwhile DOKU
// rejects the token, answers nothing but errors about a status for a while, and
// the app is down for 8 seconds. A forger tries all the time.
func (env *testEnv) trade(t *testing.T) {
	t.Helper()
	var calls sync.WaitGroup
	defer calls.Wait()
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for n := range beats {
		// There are quiet times, and nobody answers in the same time twice.
		tick.Reset(beat + time.Duration(math.Sin(float64(n)/30)*float64(beat)/3))
		taking := time.Duration(10+n*13%37) * time.Millisecond
		env.doku.SetFault(createPath, &simulator.Fault{Normal: true, Delay: 2 * taking})
		switch n {
		case 100:
			env.doku.ExpireToken()
		case 320:
			env.doku.SetFault(statusPath, &simulator.Fault{Status: http.StatusServiceUnavailable})
		case 350:
			env.doku.SetFault(statusPath, nil)
		}
		down := 180 <= n && n < 244
		env.app.setAnswer(func(call appCall) (int, string) {
			if down {
				return http.StatusServiceUnavailable, ""
			}
			time.Sleep(taking)
			return billing(call)
		})
		calls.Go(func() { env.tradeAt(t, n) })
		select {
		case <-t.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// tradeAt makes the calls of one beat.
func (env *testEnv) tradeAt(t *testing.T, n int) {
	t.Helper()
	ask := func(path, body string, header ...string) {
		t.Helper()
		if _, err := env.try(t, http.MethodPost, path, body, header...); err != nil {
			t.Error(err)
		}
	}
	notify := func(out simulator.Outgoing) {
		t.Helper()
		out.URL = env.inward + paymentPath
		if _, err := env.doku.Call(t.Context(), out); err != nil {
			t.Error(err)
		}
	}
	customer, id := fmt.Sprint(10000+n), fmt.Sprint("P-", n)
	create, key := bill(customer, "INV-"+customer, "1000.00", "C", ""), []string{"Idempotency-Key", customer}
	ask(createPath, create, key...)
	switch n % 12 {
	case 1, 7:
		ask(
			statusPath,
			fmt.Sprintf(
				`{"partnerServiceId":%q,"customerNo":%q,"virtualAccountNo":%q,"additionalInfo":{}}`, partnerServiceID, customer,
				partnerServiceID+customer,
			),
		)
	case 3:
		ask(createPath, create, key...) // the app has missed the answer
	case 5:
		ask(createPath, create) // the trxId is in use
	case 9:
		paid := simulator.Outgoing{ExternalID: id, Body: paymentTo(customer, id)}
		notify(paid)
		notify(paid) // DOKU has missed the answer
	case 11:
		notify(simulator.Outgoing{Body: paymentTo(customer, id), Mutate: func(r *http.Request) {
			r.Header.Set("X-SIGNATURE", strings.Repeat("A", 86)+"==")
		}})
	}
	number, amount := customer, "1000.00"
	if n%8 == 0 {
		number, amount = "9"+customer, "11500.00" // which DOKU has to ask for
	}
	if _, err := env.doku.Pay(t.Context(), partnerServiceID+number, amount); err != nil && (n < 180 || n >= 244) {
		t.Error(err)
	}
	if n == 440 { // once, a payment comes again with another amount
		paid := paymentTo(customer, id)
		notify(simulator.Outgoing{Body: paid})
		notify(simulator.Outgoing{Body: bytes.Replace(paid, []byte("11500.00"), []byte("99000.00"), 1)})
	}
}
