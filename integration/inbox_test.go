package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// paymentTo is a notification of a payment to a virtual account of its own.
func paymentTo(account, id string) []byte {
	return bytes.Replace(payment(id), []byte(partnerServiceID+`1"`), []byte(partnerServiceID+account+`"`), 1)
}

// inboxCommand runs `caddy-doku doku inbox …` against the sidecar.
func (env *testEnv) inboxCommand(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary(t), append([]string{"doku", "inbox"}, args...)...)
	cmd.Args = append(cmd.Args, "--address", strings.TrimPrefix(env.admin, "http://"))
	var out, complaint strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, complaint.String())
	}
	return out.String(), nil
}

// kept returns how many notifications the inbox keeps. It waits until the admin API
// knows: it may not have the configuration yet, or Redis may not answer in time.
func (env *testEnv) kept(t *testing.T) (waiting, dead int) {
	t.Helper()
	var states []struct {
		Waiting, Dead int
		Error         string
	}
	doktest.Eventually(t, "the state of one inbox", func() bool {
		states = nil
		return json.Unmarshal([]byte(env.adminGet("/doku/inbox")), &states) == nil && len(states) == 1 && states[0].Error == ""
	})
	return states[0].Waiting, states[0].Dead
}

// answering is the app's answer with a status.
func answering(status int) func(appCall) (int, string) {
	return func(appCall) (int, string) {
		if status == http.StatusOK {
			return status, `{"responseCode":"2002500","responseMessage":"Successful"}`
		}
		return status, `{"error":"not now"}`
	}
}

// inboxStores are the stores of an inbox, as options of the app doku.
var inboxStores = map[string]func(*testing.T) string{
	"in a file": func(*testing.T) string { return "" },
	"in Redis":  func(t *testing.T) string { t.Helper(); return "store redis " + doktest.StartRedis(t).URL },
}

func TestWhatTheAppDoesNotTakeIsKeptAndHandedOver(t *testing.T) {
	t.Parallel()
	for name, store := range inboxStores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start(t, options{global: store(t), inbox: "{\n answer_within 600ms\n}"}).keepAndDeliver(t)
		})
	}
}

// keepAndDeliver lets the app refuse a notification until it is kept and has been tried
// once more, and checks all attempts and what DOKU gets when it tries again.
func (env *testEnv) keepAndDeliver(t *testing.T) {
	t.Helper()
	env.app.setAnswer(answering(http.StatusServiceUnavailable))
	paid := simulator.Outgoing{ExternalID: "E-1", Body: payment("P-1"), Mutate: func(r *http.Request) {
		r.Header.Set("X-Extra", "not signed")
		r.Header.Set("Doku-Delivery-Attempt", "99")
	}}
	got := env.notify(t, paid)
	got.expect(t, http.StatusInternalServerError, "5002502")
	if reason := got.header.Get("X-Doku-Error"); reason != "kept" {
		t.Errorf("X-Doku-Error %q", reason)
	}
	if waiting, dead := env.kept(t); waiting != 1 || dead != 0 {
		t.Errorf("%d wait and %d are dead", waiting, dead)
	}
	foreground := len(env.app.seen()) // however many fit into answer_within
	doktest.Eventually(t, "two more attempts", func() bool { return len(env.app.seen()) >= foreground+2 })
	env.app.setAnswer(nil)
	doktest.Eventually(t, "the notification's delivery", func() bool { waiting, _ := env.kept(t); return waiting == 0 })

	calls := env.app.seen()
	checkAttempts(t, calls, string(paid.Body))
	// DOKU tries again after half an hour: with the same external id, or another.
	env.notify(t, paid).expect(t, http.StatusOK, "2002500")
	env.notify(t, simulator.Outgoing{ExternalID: "E-2", Body: payment("P-1")}).expect(t, http.StatusOK, "2002500")
	if again := len(env.app.seen()); again != len(calls) {
		t.Errorf("the app was called again after it had taken the notification")
	}
}

// checkAttempts checks that the attempts at a notification are numbered, and that the last
// is like the first: without the header that is not signed.
func checkAttempts(t *testing.T, calls []appCall, body string) {
	t.Helper()
	for n, call := range calls {
		if attempt := call.header.Get("Doku-Delivery-Attempt"); attempt != fmt.Sprint(n+1) {
			t.Errorf("call %d is attempt %s", n+1, attempt)
		}
	}
	first, last := calls[0], calls[len(calls)-1]
	if first.body != body || last.body != body || last.target != first.target {
		t.Errorf("the app first saw %s, then %s", first.body, last.body)
	}
	for _, call := range []appCall{first, last} {
		call.header.Del("Doku-Delivery-Attempt")
		call.header.Del("Traceparent")
	}
	if fmt.Sprint(first.header) != fmt.Sprint(last.header) || first.header.Get("X-Extra") != "" ||
		first.header.Get("Idempotency-Key") == "" {
		t.Errorf("the app first saw\n%v, then\n%v", first.header, last.header)
	}
}

func TestTheSidecarTriesAgainWhileDOKUWaits(t *testing.T) {
	t.Parallel()
	for name, store := range inboxStores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := start(t, options{global: store(t), inbox: "{\n answer_within 2m\n}"})
			env.app.setAnswer(func(appCall) (int, string) {
				if len(env.app.seen()) < 3 {
					return http.StatusServiceUnavailable, ""
				}
				return http.StatusOK, `{"responseCode":"2002500"}`
			})
			paid := simulator.Outgoing{Body: payment("P-1"), Mutate: func(r *http.Request) { r.Header.Set("X-Extra", "not signed") }}
			env.notify(t, paid).expect(t, http.StatusOK, "2002500")
			calls := env.app.seen()
			if len(calls) != 3 {
				t.Errorf("the app was called %d times, expected two refused attempts and another", len(calls))
			}
			checkAttempts(t, calls, string(paid.Body))
			if waiting, dead := env.kept(t); waiting+dead != 0 {
				t.Errorf("%d wait and %d are dead", waiting, dead)
			}
		})
	}
}

func TestTheCountersOfAnInboxBeginAtZero(t *testing.T) {
	t.Parallel()
	env := start(t, options{inbox: "{\n}"})
	for _, event := range []string{"kept", "redelivered", "failed", "dead"} {
		env.awaitMetrics(t, `inbox_events_total{box="default",event="`+event+`"} 0`+"\n")
	}
}

func TestAnAppThatIsAwayForAMomentCostsNobodyAnything(t *testing.T) {
	t.Parallel()
	// The app does not even listen at first.
	address := doktest.FreeAddress(t)
	env := start(t, options{app: address, inbox: "{\n answer_within 2m\n}"})
	answers := make(chan answer)
	go func() { answers <- env.notify(t, simulator.Outgoing{}) }()
	env.log.Await(t, "connection refused", 1)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: env.app, ReadHeaderTimeout: time.Minute}}
	server.Start()
	t.Cleanup(server.Close)
	(<-answers).expect(t, http.StatusOK, "2002500")
	if calls := env.app.seen(); len(calls) != 1 || calls[0].header.Get("Doku-Delivery-Attempt") == "1" {
		t.Errorf("the app saw %d calls", len(calls))
	}
}

func TestDurableAcknowledgesWhatIsKept(t *testing.T) {
	t.Parallel()
	env := start(t, options{inbox: "{\n policy durable\n}"})
	release := make(chan struct{})
	env.app.setAnswer(func(appCall) (int, string) {
		<-release
		return answering(http.StatusOK)(appCall{})
	})
	got := env.notify(t, simulator.Outgoing{ExternalID: "E-1"})
	got.expect(t, http.StatusOK, "2002500")
	var parsed struct {
		VirtualAccountData map[string]any `json:"virtualAccountData"`
	}
	if err := json.Unmarshal([]byte(got.body), &parsed); err != nil || parsed.VirtualAccountData["paymentRequestId"] != "P-1" ||
		parsed.VirtualAccountData["virtualAccountNo"] != partnerServiceID+"1" {
		t.Errorf("DOKU got %s", got.body)
	}
	close(release)
	doktest.Eventually(t, "the delivery", func() bool { waiting, _ := env.kept(t); return waiting == 0 })
	env.notify(t, simulator.Outgoing{ExternalID: "E-1"}).expect(t, http.StatusOK, "2002500")
	if calls := env.app.seen(); len(calls) != 1 || calls[0].header.Get("Doku-Delivery-Attempt") != "1" {
		t.Errorf("the app saw %v", calls)
	}
}

func TestInquiriesAreNeverKept(t *testing.T) {
	t.Parallel()
	env := start(t, options{inbox: "{\n policy durable\n}"})
	env.app.setAnswer(answering(http.StatusServiceUnavailable))
	inquiry := simulator.Outgoing{URL: env.inward + inquiryPath, Body: []byte(`{"inquiryRequestId":"I-1"}`)}
	if got := env.notify(t, inquiry); got.status != http.StatusServiceUnavailable {
		t.Errorf("DOKU got HTTP %d %s", got.status, got.body)
	}
	if waiting, dead := env.kept(t); waiting+dead != 0 || len(env.app.seen()) != 1 {
		t.Errorf("%d wait, %d are dead, and the app was called %d times", waiting, dead, len(env.app.seen()))
	}
}

func TestTheOrderOfAVirtualAccountIsKept(t *testing.T) {
	t.Parallel()
	env := start(t, options{inbox: "{\n policy durable\n}"})
	env.app.setAnswer(func(call appCall) (int, string) {
		if strings.Contains(call.body, `"paymentRequestId":"P-0"`) && len(env.app.seen()) < 3 {
			return http.StatusServiceUnavailable, "" // the first is refused for a while
		}
		return answering(http.StatusOK)(call)
	})
	for n := range 5 {
		env.notify(t, simulator.Outgoing{Body: payment(fmt.Sprint("P-", n))}).expect(t, http.StatusOK, "2002500")
	}
	env.notify(t, simulator.Outgoing{Body: paymentTo("2", "Q-0")}).expect(t, http.StatusOK, "2002500")
	doktest.Eventually(t, "all deliveries", func() bool { waiting, _ := env.kept(t); return waiting == 0 })
	var taken []string
	seen := make(map[string]bool)
	for _, call := range env.app.seen() {
		var body struct{ PaymentRequestID, VirtualAccountNo string }
		if err := json.Unmarshal([]byte(call.body), &body); err != nil {
			t.Fatal(err)
		}
		if !seen[body.PaymentRequestID] && strings.HasSuffix(body.VirtualAccountNo, "1") {
			taken = append(taken, body.PaymentRequestID)
		}
		seen[body.PaymentRequestID] = true
	}
	if got := strings.Join(taken, " "); got != "P-0 P-1 P-2 P-3 P-4" {
		t.Errorf("the app saw first %s", got)
	}
}

func TestDeadLettersAreKeptForPeople(t *testing.T) {
	t.Parallel()
	env := start(t, options{inbox: "{\n answer_within 200ms\n give_up_after 1ms\n}"})
	env.app.setAnswer(answering(http.StatusInternalServerError))
	for n := range 3 {
		env.notify(t, simulator.Outgoing{Body: paymentTo(fmt.Sprint(n), fmt.Sprint("P-", n))}).
			expect(t, http.StatusInternalServerError, "5002502")
	}
	doktest.Eventually(t, "three dead letters", func() bool { _, dead := env.kept(t); return dead == 3 })
	env.log.Await(t, `"name":"doku_call_dead"`, 3)
	env.awaitMetrics(t, `inbox_calls{box="default",state="dead"} 3`,
		`inbox_events_total{box="default",event="dead"} 3`, `inbox_events_total{box="default",event="kept"} 3`)
	list, err := env.inboxCommand(t, "list")
	if err != nil || strings.Count(list, "dead") != 3 || !strings.Contains(list, "HTTP 500") {
		t.Fatalf("list: %v\n%s", err, list)
	}
	exported, err := env.inboxCommand(t, "export")
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for line := range strings.Lines(exported) {
		var call struct{ Key, Body string }
		if err := json.Unmarshal([]byte(line), &call); err != nil {
			t.Fatal(err)
		}
		if want := string(paymentTo(fmt.Sprint(len(keys)), fmt.Sprint("P-", len(keys)))); call.Body != want {
			t.Errorf("exported %s, expected the body %s", line, want)
		}
		keys = append(keys, call.Key)
	}
	if len(keys) != 3 {
		t.Fatalf("exported %d", len(keys))
	}
	page := get(t, http.MethodGet, env.admin+"/doku/inbox/default?limit=2")
	if link := page.header.Get("Link"); strings.Count(page.body, `"key"`) != 2 || !strings.HasPrefix(link, "</doku/inbox/default?after=") {
		t.Errorf("the first page of two: Link %q, %s", link, page.body)
	} else {
		target, _, _ := strings.Cut(link[1:], ">")
		if rest := get(t, http.MethodGet, env.admin+target); !strings.Contains(rest.body, keys[2]) || rest.header.Get("Link") != "" {
			t.Errorf("the second page: Link %q, %s", rest.header.Get("Link"), rest.body)
		}
	}
	shown, err := env.inboxCommand(t, "show", keys[1])
	if err != nil || !strings.Contains(shown, "POST "+paymentPath) || !strings.Contains(shown, `"paymentRequestId":"P-1"`) ||
		!strings.Contains(shown, "dead: given up") {
		t.Errorf("show: %v\n%s", err, shown)
	}
	if _, err := env.inboxCommand(t, "drop", keys[0]); err != nil {
		t.Error(err)
	}
	if _, err := env.inboxCommand(t, "drop", keys[0]); err == nil || !strings.Contains(err.Error(), "keeps no notification with the key") {
		t.Errorf("dropping it again: %v", err)
	}
	if _, err := env.inboxCommand(t, "list", "--inbox", "other"); err == nil || !strings.Contains(err.Error(), "no inbox is called") {
		t.Errorf("another inbox: %v", err)
	}
	before := len(env.app.seen())
	env.app.setAnswer(nil)
	if _, err := env.inboxCommand(t, "retry", keys[1]); err != nil {
		t.Error(err)
	}
	doktest.Eventually(t, "the delivery of the one", func() bool { _, dead := env.kept(t); return dead == 1 })
	if _, err := env.inboxCommand(t, "retry", "--dead"); err != nil {
		t.Error(err)
	}
	doktest.Eventually(t, "the delivery of the other", func() bool { waiting, dead := env.kept(t); return waiting+dead == 0 })
	if list, err := env.inboxCommand(t, "list"); err != nil || !strings.Contains(list, "is empty") {
		t.Errorf("list: %v\n%s", err, list)
	}
	if calls := len(env.app.seen()) - before; calls != 2 {
		t.Errorf("the app was called %d times for two notifications", calls)
	}
}

func TestAReloadGoesOnWithWhatIsKept(t *testing.T) {
	t.Parallel()
	env := start(t, options{inbox: "{\n answer_within 200ms\n}"})
	env.app.setAnswer(answering(http.StatusInternalServerError))
	env.notify(t, simulator.Outgoing{}).expect(t, http.StatusInternalServerError, "5002502")
	env.reload(t, "answer_within 200ms", "answer_within 300ms\n attempt_timeout 5s")
	if waiting, _ := env.kept(t); waiting != 1 {
		t.Fatalf("%d wait after the reload", waiting)
	}
	env.reload(t, "attempt_timeout 5s", "name other")
	env.log.Await(t, `"name":"default","beside":"other"`, 1)
	if inboxes := env.adminGet("/doku/inbox"); !strings.Contains(inboxes, `"orphan": true`) {
		t.Errorf("/doku/inbox answers %s", inboxes)
	}
	env.reload(t, "name other", "")
	env.app.setAnswer(nil)
	doktest.Eventually(t, "the delivery", func() bool { waiting, _ := env.kept(t); return waiting == 0 })
	env.notify(t, simulator.Outgoing{ExternalID: "again"}).expect(t, http.StatusOK, "2002500")
}

// TestAConfigurationThatCaddyRefusesDeliversNothing loads configurations with another app
// that fail after their start: for a reason that Caddy finds before everything in them has
// started, and for one that it finds only then.
func TestAConfigurationThatCaddyRefusesDeliversNothing(t *testing.T) {
	t.Parallel()
	env := start(t, options{inbox: "{\n policy durable\n}"})
	env.app.setAnswer(answering(http.StatusServiceUnavailable))
	env.notify(t, simulator.Outgoing{}).expect(t, http.StatusOK, "2002500")
	wrong := new(app)
	other := httptest.NewServer(wrong)
	defer other.Close()
	config := strings.Replace(env.config, env.appAddress, other.Listener.Addr().String(), 1)

	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for range 8 { // Caddy starts its apps in any order
		if out, err := env.load(t, config+fmt.Sprintf("\nhttp://%s {\n respond ok\n}\n", busy.Addr())); err == nil {
			t.Fatalf("expected the reload to fail because of the port: %s", out)
		}
	}

	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	adapted, err := exec.CommandContext(t.Context(), binary(t), "adapt", "--config", file, "--adapter", "caddyfile").Output()
	if err != nil {
		t.Fatal(err)
	}
	withLoader := bytes.Replace(
		adapted, []byte(`"config":{"persist":false}`), []byte(`"config":{"persist":false,"load":{"module":"http","url":"http://127.0.0.1:1/"}}`),
		1,
	)
	if bytes.Equal(withLoader, adapted) {
		t.Fatalf("there is no place for a loader in %s", adapted)
	}
	resp, err := http.Post(env.admin+"/load", "application/json", bytes.NewReader(withLoader))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		t.Fatal("expected the configuration to be refused")
	}

	env.app.setAnswer(nil)
	env.notify(t, simulator.Outgoing{ExternalID: "E-2", Body: paymentTo("2", "P-2")}).expect(t, http.StatusOK, "2002500")
	doktest.Eventually(t, "both deliveries", func() bool { waiting, _ := env.kept(t); return waiting == 0 })
	if n := len(wrong.seen()); n != 0 {
		t.Errorf("the app of a configuration that was refused has got %d calls", n)
	}
}

func TestACallUnderWayIsKeptThoughTheInboxMoves(t *testing.T) {
	t.Parallel()
	first, second := t.TempDir(), t.TempDir()
	// On a machine where the reload takes longer than answer_within, this proves less.
	env := start(t, options{inbox: "{\n answer_within 5s\n folder " + first + "\n}"})
	env.app.setAnswer(answering(http.StatusServiceUnavailable))
	answers := make(chan answer)
	go func() { answers <- env.notify(t, simulator.Outgoing{}) }()
	doktest.Eventually(t, "the app to be called", func() bool { return len(env.app.seen()) > 0 })
	env.reload(t, "folder "+first, "folder "+second)
	if got := <-answers; got.header.Get("X-Doku-Error") != "kept" {
		t.Errorf("DOKU got HTTP %d %s", got.status, got.header.Get("X-Doku-Error"))
	}
	env.app.setAnswer(nil)
	env.reload(t, "folder "+second, "folder "+first)
	doktest.Eventually(t, "the delivery", func() bool { waiting, _ := env.kept(t); return waiting == 0 })
}

func TestReportOnlyPassesTheInboxBy(t *testing.T) {
	t.Parallel()
	env := start(t, options{verify: "enforce report", inbox: "{\n policy durable\n}"})
	env.app.setAnswer(answering(http.StatusServiceUnavailable))
	if got := env.notify(t, simulator.Outgoing{}); got.status != http.StatusServiceUnavailable || len(env.app.seen()) != 1 {
		t.Errorf("DOKU got HTTP %d, and the app was called %d times", got.status, len(env.app.seen()))
	}
}

// startFails returns the output of a sidecar that does not start because of its
// configuration.
func (env *testEnv) startFails(t *testing.T, config string) string {
	t.Helper()
	out, err := env.command(t, config).CombinedOutput()
	if failure := (*exec.ExitError)(nil); !errors.As(err, &failure) {
		t.Fatalf("it started, or could not be tried: %v", err)
	}
	return string(out)
}

func TestAnInboxThatCannotBeIsNoneAtAll(t *testing.T) {
	t.Parallel()
	t.Run("in a folder that cannot be made", func(t *testing.T) {
		t.Parallel()
		env := newEnv(t)
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		output := env.startFails(t, env.caddyfile(options{inbox: "{\n folder " + file + "/inbox\n}"}))
		if !strings.Contains(output, "cannot be used") || !strings.Contains(output, "not a directory") {
			t.Errorf("it said %s", output)
		}
	})
	t.Run("in another sidecar's folder", func(t *testing.T) {
		t.Parallel()
		folder := t.TempDir()
		env := start(t, options{inbox: "{\n folder " + folder + "\n}"})
		other := env.another(t)
		if output := other.startFails(t, other.caddyfile(options{inbox: "{\n folder " + folder + "\n}"})); !strings.Contains(
			output, "give each sidecar a folder of its own",
		) {
			t.Errorf("it said %s", output)
		}
	})
	t.Run("with two settings under one name", func(t *testing.T) {
		t.Parallel()
		env := newEnv(t)
		output := env.startFails(t, env.caddyfile(options{inbox: "\ndoku_inbox /v1.1/transfer-va/payment 127.0.0.1:1 {\n policy durable\n}"}))
		if !strings.Contains(output, "two inboxes are called") {
			t.Errorf("it said %s", output)
		}
	})
	t.Run("when a checked configuration makes nothing", func(t *testing.T) {
		t.Parallel()
		env := newEnv(t)
		folder := filepath.Join(t.TempDir(), "inbox")
		cmd := env.command(t, env.caddyfile(options{inbox: "{\n folder " + folder + "\n}"}))
		cmd.Args[1] = "validate"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the folder: %v", err)
		}
	})
	t.Run("without doku_verify before it", func(t *testing.T) {
		t.Parallel()
		env := newEnv(t)
		config := env.withSite("doku_token " + tokenPath + "\ndoku_inbox " + env.appAddress)
		if out, err := env.command(t, config).CombinedOutput(); err == nil || !strings.Contains(string(out), "doku_verify has not verified") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("with a doku_verify that not every call comes to", func(t *testing.T) {
		t.Parallel()
		env := newEnv(t)
		config := env.withSite("@verify header X-Verify *\ndoku_token " + tokenPath + "\ndoku_verify @verify\ndoku_inbox " + env.appAddress)
		if out, err := env.command(t, config).CombinedOutput(); err == nil || !strings.Contains(string(out), "doku_verify has not verified") {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("where no check of the configuration looks", func(t *testing.T) {
		t.Parallel()
		env := startWith(t, func(env *testEnv) string {
			return "doku_token " + tokenPath + "\nerror /v1.1/* 500\nhandle_errors {\ndoku_inbox " + env.appAddress + "\n}"
		})
		if got := env.notify(t, simulator.Outgoing{}); got.status != http.StatusInternalServerError || len(env.app.seen()) != 0 {
			t.Errorf("DOKU got HTTP %d, and the app was called %d times", got.status, len(env.app.seen()))
		}
		env.log.Await(t, "expected doku_verify before doku_inbox", 1)
	})
}

func TestAFullDiskIsNeverAYes(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"after_app", "durable"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			env := start(t, options{inbox: "{\n policy " + policy + "\n answer_within 20ms\n max_size 256KiB\n}"})
			env.app.setAnswer(answering(http.StatusServiceUnavailable))
			large := strings.Repeat("x", 30_000)
			promised := make(map[string]bool) // durable: DOKU got 2xx; after_app: DOKU heard that it is kept
			full := false
			for n := range 40 {
				id := fmt.Sprint("P-", n, "-", large)
				got := env.notify(t, simulator.Outgoing{Body: paymentTo(fmt.Sprint(n), id)})
				switch reason := got.header.Get("X-Doku-Error"); {
				case policy == "durable" && got.status == http.StatusOK, policy == "after_app" && reason == "kept":
					promised[id] = true
				case got.status == http.StatusInternalServerError && (reason == "inbox" || reason == "not_kept"):
					full = true
				default:
					t.Fatalf("DOKU got HTTP %d %s (%s)", got.status, got.body, reason)
				}
			}
			if !full || len(promised) == 0 {
				t.Fatalf("%d were kept, and whether the file was full is %v", len(promised), full)
			}
			env.app.setAnswer(nil)
			doktest.Eventually(t, "the delivery of what was kept", func() bool { waiting, _ := env.kept(t); return waiting == 0 })
			taken := make(map[string]bool)
			for _, call := range env.app.seen() {
				for id := range promised {
					taken[id] = taken[id] || strings.Contains(call.body, id+`"`)
				}
			}
			if len(taken) != len(promised) {
				t.Errorf("%d were kept, and %d delivered", len(promised), len(taken))
			}
			// There is room again.
			env.notify(t, simulator.Outgoing{Body: payment("later")}).expect(t, http.StatusOK, "2002500")
		})
	}
}

func TestACorruptFileIsPutAside(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	file := filepath.Join(folder, "inbox.db")
	if err := os.WriteFile(file, bytes.Repeat([]byte("no database. "), 10_000), 0o600); err != nil {
		t.Fatal(err)
	}
	env := start(t, options{inbox: "{\n folder " + folder + "\n}"})
	env.log.Await(t, file+".corrupt-", 1)
	aside, err := filepath.Glob(file + ".corrupt-*")
	if err != nil || len(aside) != 1 || !strings.Contains(env.log.String(), aside[0]) {
		t.Errorf("put aside: %v", aside)
	}
	env.notify(t, simulator.Outgoing{}).expect(t, http.StatusOK, "2002500")
}
