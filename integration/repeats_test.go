package integration

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-doku/caddy-doku/simulator"
)

// created returns the create-va calls that DOKU has received.
func (env *testEnv) created() (calls []simulator.Exchange) {
	for _, e := range env.doku.Exchanges() {
		if e.Inbound && e.Target == createPath {
			calls = append(calls, e)
		}
	}
	return calls
}

func TestARepeatWithTheSameKeyIsNotSentAgain(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	body := bill("1", "A", "1000.00", "C", "")
	first := env.call(t, http.MethodPost, createPath, body, "Idempotency-Key", "A")
	first.expect(t, http.StatusOK, "2002700")
	// The same call, though its JSON is written another way.
	again := env.call(t, http.MethodPost, createPath, strings.Replace(body, "{", "{ ", 1), "Idempotency-Key", "A")
	again.expect(t, http.StatusOK, "2002700")
	if again.body != first.body || again.header.Get("X-Doku-Replayed") != "true" || first.header.Get("X-Doku-Replayed") != "" ||
		again.header.Get(
			"X-Doku-External-Id",
		) != first.header.Get(
			"X-Doku-External-Id",
		) || again.header.Get("Content-Type") != first.header.Get("Content-Type") {
		t.Errorf("first %v %s\nagain %v %s", first.header, first.body, again.header, again.body)
	}
	if n := len(env.created()); n != 1 {
		t.Errorf("DOKU received %d calls", n)
	}
	t.Run("a key is for one call", func(t *testing.T) {
		got := env.call(t, http.MethodPost, createPath, bill("2", "B", "1000.00", "C", ""), "Idempotency-Key", "A")
		got.expect(t, http.StatusUnprocessableEntity, "4222700")
		if reason := got.header.Get("X-Doku-Error"); reason != "idempotency_key_reused" {
			t.Errorf("X-Doku-Error %q", reason)
		}
	})
	t.Run("a key has a form", func(t *testing.T) {
		env.call(t, http.MethodPost, createPath, body, "Idempotency-Key", "a b").expect(t, http.StatusBadRequest, "4002701")
		env.call(t, http.MethodPost, createPath, body, "Idempotency-Key", "a", "Idempotency-Key", "b").
			expect(t, http.StatusBadRequest, "4002701")
	})
	t.Run("a final refusal is given again", func(t *testing.T) {
		wrong := bill("3", "C", "0", "C", "")
		for range 2 {
			env.call(t, http.MethodPost, createPath, wrong, "Idempotency-Key", "C").expect(t, http.StatusBadRequest, "4002701")
		}
	})
	if n := len(env.created()); n != 2 {
		t.Errorf("DOKU received %d calls in the end", n)
	}
}

func TestARepeatAfterAnUnknownOutcomeHasTheSameExternalID(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	body := bill("1", "A", "1000.00", "C", "")
	env.doku.SetFault(createPath, &simulator.Fault{Times: 1})
	lost := env.call(t, http.MethodPost, createPath, body, "Idempotency-Key", "A")
	lost.expect(t, http.StatusGatewayTimeout, "5042700")
	if !strings.Contains(lost.body, "outcome: unknown") || !strings.Contains(lost.body, "ask for its status") {
		t.Errorf("the app was told %s", lost.body)
	}
	env.doku.SetFault(createPath, &simulator.Fault{Status: 500, Body: `{"responseCode":"5002700"}`, Times: 1})
	env.call(t, http.MethodPost, createPath, body, "Idempotency-Key", "A").expect(t, http.StatusInternalServerError, "5002700")
	env.call(t, http.MethodPost, createPath, body, "Idempotency-Key", "A").expect(t, http.StatusOK, "2002700")
	calls := env.created()
	if len(calls) != 3 {
		t.Fatalf("DOKU received %d calls", len(calls))
	}
	for _, call := range calls {
		if id := call.Header.Get("X-External-Id"); id != lost.header.Get("X-Doku-External-Id") {
			t.Errorf("external id %s, the first was %s", id, lost.header.Get("X-Doku-External-Id"))
		}
	}
}

func TestWhatDOKUSaysAboutARepeatPassesThrough(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	body := bill("1", "A", "1000.00", "C", "")
	env.call(t, http.MethodPost, createPath, body, "X-EXTERNAL-ID", "7").expect(t, http.StatusOK, "2002700")
	env.call(t, http.MethodPost, createPath, body, "X-EXTERNAL-ID", "7").expect(t, http.StatusConflict, "4092700")
	original := `{"responseCode":"2002700","virtualAccountData":{"trxId":"A"}}`
	env.doku.SetFault(createPath, &simulator.Fault{Status: 409, Body: original})
	if got := env.call(t, http.MethodPost, createPath, body); got.status != http.StatusConflict || got.body != original {
		t.Errorf("HTTP %d %s", got.status, got.body)
	}
}

// fetchToken makes the sidecar fetch a B2B token, so that the next call needs none.
func (env *testEnv) fetchToken(t *testing.T) {
	t.Helper()
	get(t, http.MethodPost, env.admin+"/doku/accounts/default/token").is(t, http.StatusOK)
}

func TestARepeatWhileTheFirstIsUnderWayWaits(t *testing.T) {
	t.Parallel()
	t.Run("and gets its answer", func(t *testing.T) {
		t.Parallel()
		env := start(t, options{})
		open := env.gate.Shut(createPath)
		defer open()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", ""), "Idempotency-Key", "A").
					expect(t, http.StatusOK, "2002700")
			})
		}
		env.gate.AwaitHeld(t, createPath, 1)
		env.awaitInFlight(t, 10)
		open()
		wg.Wait()
		if held, n := env.gate.Arrived(createPath), len(env.created()); held != 1 || n != 1 {
			t.Errorf("DOKU received %d calls, %d of them before the first was answered", n, held)
		}
	})
	t.Run("and is answered that the outcome is unknown if it cannot wait", func(t *testing.T) {
		t.Parallel()
		env := start(t, options{sign: "timeout 3s"})
		env.fetchToken(t)
		defer env.gate.Shut(createPath)()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				got := env.call(t, http.MethodPost, createPath, bill("2", "B", "1000.00", "C", ""), "Idempotency-Key", "B")
				got.expect(t, http.StatusGatewayTimeout, "5042700")
			})
		}
		wg.Wait()
	})
}

func TestTheAnswerIsKeptThoughTheAppHasHungUp(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	open := env.gate.Shut(createPath)
	defer open()
	body := bill("1", "A", "1000.00", "C", "")
	ctx, hangUp := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, env.outward+createPath, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Idempotency-Key", "A")
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			t.Error("the app got an answer")
		}
	}()
	env.gate.AwaitHeld(t, createPath, 1)
	hangUp()
	<-gone
	open()
	again := env.call(t, http.MethodPost, createPath, body, "Idempotency-Key", "A")
	again.expect(t, http.StatusOK, "2002700")
	if again.header.Get("X-Doku-Replayed") != "true" || len(env.created()) != 1 {
		t.Errorf("replayed: %q, DOKU received %d calls", again.header.Get("X-Doku-Replayed"), len(env.created()))
	}
}

func TestAnAnswerThatBreaksOffIsAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	env.doku.SetFault(createPath, &simulator.Fault{Status: 200, Body: `{"responseCode":"2002700","virtualAccountData":{}}`, Cut: 20})
	got := env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", ""))
	got.expect(t, http.StatusGatewayTimeout, "5042700")
	if reason := got.header.Get("X-Doku-Error"); reason != "outcome_unknown" {
		t.Errorf("X-Doku-Error %q", reason)
	}
}

func TestManyRefusedForTheirTokenCauseOneFetch(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	env.call(t, http.MethodPost, createPath, bill("0", "0", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	env.doku.ExpireToken()
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			env.call(t, http.MethodPost, createPath, bill(fmt.Sprint(100+i), fmt.Sprint("T", i), "1000.00", "C", "")).
				expect(t, http.StatusOK, "2002700")
		})
	}
	wg.Wait()
	if n := env.doku.Tokens(); n != 2 {
		t.Errorf("DOKU issued %d tokens, expected one more", n)
	}
}
