package integration

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// earlierDOKU is where DOKU listens with Redis: what is in Redis is sealed for DOKU's
// address. The port is below those that other tests use.
const earlierDOKU = "127.0.0.1:15808"

// earlierTrace is the trace in which the version before created the virtual account 1.
const earlierTrace = "0af7651916cd43dd8448eb211c80319c"

// earlierAnswer is what the app answered to the version before, so that an answer that is
// given again is told from a new one.
func earlierAnswer(call appCall) (int, string) {
	code := "2002500"
	if strings.HasSuffix(call.target, "/inquiry") {
		code = "2002400"
	}
	return http.StatusOK, `{"responseCode":"` + code + `","responseMessage":"Successful","additionalInfo":{"by":"the version before"}}`
}

// earlierFacts are what the version before told, and what cannot be read in its data.
type earlierFacts struct {
	Token         string `json:"token"`          // of DOKU's
	MerchantToken string `json:"merchant_token"` // that it gave DOKU
	ExternalA     string `json:"external_a"`     // of the call with the idempotency key A
	ExternalB     string `json:"external_b"`
	AnswerA       string `json:"answer_a"`
}

// What the version before was called with, and is again. Payments whose name begins with W
// wait for the app; T was taken by the app after DOKU had been refused, P at once.
var (
	earlierBill    = bill("1", "T-1", "1000.00", "C", "")
	earlierUnsure  = bill("2", "T-2", "1000.00", "C", "")
	earlierPaid    = simulator.Outgoing{ExternalID: "E-P-1", Body: payment("P-1")}
	earlierTaken   = simulator.Outgoing{ExternalID: "E-T-1", Body: paymentTo("3", "T-1")}
	earlierDead    = simulator.Outgoing{ExternalID: "E-D-1", Body: paymentTo("4", "D-1")}
	earlierInquiry = simulator.Outgoing{ExternalID: "E-I-1", Body: []byte(`{"inquiryRequestId":"I-1"}`)}
	earlierWaiting = []simulator.Outgoing{
		{ExternalID: "E-W-1", Body: paymentTo("5", "W-1"), Mutate: func(r *http.Request) { r.Header.Set("X-Extra", "kept, too") }},
		{ExternalID: "E-W-2", Body: paymentTo("5", "W-2")},
		{ExternalID: "E-W-3", Body: paymentTo("6", "W-3")},
		{ExternalID: "E-W-4", Body: paymentTo("7", "W-4")}, // which the app has refused for good
	}
)

// earlier is a sidecar on data of the version before: in a file, or in Redis.
type earlier struct {
	*testEnv

	folder string // empty: Redis
	redis  *doktest.Redis
}

// newEarlier sets up what is around the sidecar. Its store is empty.
func newEarlier(t *testing.T, inRedis bool) *earlier {
	t.Helper()
	e := &earlier{testEnv: newEnv(t)}
	if !inRedis {
		e.folder = t.TempDir()
		return e
	}
	e.redis = doktest.StartRedis(t)
	var listener net.Listener
	doktest.Eventually(t, earlierDOKU+" to be free: another run of this test may have it", func() (free bool) {
		var err error
		listener, err = net.Listen("tcp", earlierDOKU)
		return err == nil
	})
	doku := &httptest.Server{Listener: listener, Config: &http.Server{Handler: e.doku, ReadHeaderTimeout: time.Minute}}
	doku.Start()
	t.Cleanup(doku.Close)
	e.dokuURL = "http://" + earlierDOKU
	return e
}

// begin starts the sidecar.
func (e *earlier) begin(t *testing.T, giveUpAfter string) {
	t.Helper()
	o := options{inbox: "{\n answer_within 2s\n attempt_timeout 10m\n give_up_after " + giveUpAfter + "\n"}
	if e.redis != nil {
		o.global = "store redis " + e.redis.URL
	} else {
		o.inbox += " folder " + e.folder + "\n"
	}
	o.inbox += "}"
	e.run(t, e.caddyfile(o))
	e.kept(t)
}

// path returns the path of a file with data of the version before.
func (e *earlier) path(t *testing.T, name string) string {
	t.Helper()
	place := "file"
	if e.redis != nil {
		place = "redis"
	}
	return doktest.Path(t, filepath.Join("earlier", place+"-"+name))
}

// inquire asks the app, as DOKU does before a customer pays.
func (e *earlier) inquire(t *testing.T) answer {
	t.Helper()
	out := earlierInquiry
	out.URL = e.inward + inquiryPath
	return e.notify(t, out)
}

// recordEarlier has a sidecar leave data behind, and keeps them. The sidecar should be of
// the version before, with a clock that is years ahead: see tools/earlier.sh.
func recordEarlier(t *testing.T, inRedis bool) {
	t.Helper()
	e := newEarlier(t, inRedis)
	e.app.setAnswer(earlierAnswer)
	e.begin(t, "1ms")
	var facts earlierFacts

	created := e.call(t, http.MethodPost, createPath, earlierBill, "Idempotency-Key", "A", "Traceparent",
		"00-"+earlierTrace+"-b7ad6b7169203331-01")
	created.expect(t, http.StatusOK, "2002700")
	facts.ExternalA, facts.AnswerA = created.header.Get("X-Doku-External-Id"), created.body
	facts.Token = strings.TrimPrefix(e.received(t).Header.Get("Authorization"), "Bearer ")
	e.doku.SetFault(createPath, &simulator.Fault{Times: 1})
	lost := e.call(t, http.MethodPost, createPath, earlierUnsure, "Idempotency-Key", "B")
	lost.expect(t, http.StatusGatewayTimeout, "5042700")
	facts.ExternalB = lost.header.Get("X-Doku-External-Id")

	e.notify(t, earlierPaid).expect(t, http.StatusOK, "2002500")
	e.inquire(t).expect(t, http.StatusOK, "2002400")
	facts.MerchantToken = e.token(t)
	e.forgetTaken(t)

	e.app.setAnswer(answering(http.StatusInternalServerError))
	e.notify(t, earlierDead).expect(t, http.StatusInternalServerError, "5002502")
	doktest.Eventually(t, "a dead letter", func() bool { _, dead := e.kept(t); return dead == 1 })
	e.reload(t, "give_up_after 1ms", "give_up_after 720h")

	e.notify(t, earlierTaken).expect(t, http.StatusInternalServerError, "5002502")
	e.app.setAnswer(earlierAnswer)
	doktest.Eventually(t, "the delivery", func() bool { waiting, _ := e.kept(t); return waiting == 0 })

	e.app.setAnswer(answering(http.StatusServiceUnavailable))
	for _, out := range earlierWaiting {
		e.notify(t, out).expect(t, http.StatusInternalServerError, "5002502")
	}
	e.app.setAnswer(func(call appCall) (int, string) {
		if strings.Contains(call.body, `"W-4"`) {
			return answering(http.StatusUnprocessableEntity)(call)
		}
		return answering(http.StatusServiceUnavailable)(call)
	})
	doktest.Eventually(t, "a refusal", func() bool { return strings.Contains(e.adminGet("/doku/inbox/default"), `"refused": true`) })
	if !e.sidecar.Stop() {
		t.Fatal("the sidecar did not end")
	}

	e.save(t)
	text, err := json.MarshalIndent(facts, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	write(t, e.path(t, "facts.json"), append(text, '\n'))
}

// forgetTaken removes the inbox's records of what the app took at once, so that only the
// ledger can answer for it.
func (e *earlier) forgetTaken(t *testing.T) {
	t.Helper()
	if e.redis == nil {
		return
	}
	client := connectRedis(t, e.redis.URL)
	keys, err := client.Keys(t.Context(), "*}:taken:*").Result()
	if err == nil {
		err = client.Del(t.Context(), keys...).Err()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// save keeps what is in the store.
func (e *earlier) save(t *testing.T) {
	t.Helper()
	if e.redis != nil {
		text, err := json.MarshalIndent(dumpRedis(t, e.redis.URL), "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		write(t, e.path(t, "dump.json"), append(text, '\n'))
		return
	}
	content, err := os.ReadFile(filepath.Join(e.folder, "inbox.db"))
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	to, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := to.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, e.path(t, "inbox.db.gz"), packed.Bytes())
}

// restore puts into the store what was kept of it.
func (e *earlier) restore(t *testing.T) {
	t.Helper()
	if e.redis != nil {
		var values []redisValue
		readJSON(t, e.path(t, "dump.json"), &values)
		restoreRedis(t, e.redis.URL, values)
		return
	}
	packed, err := os.Open(e.path(t, "inbox.db.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	from, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(e.folder, "inbox.db"), content)
}

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// redisValue is what is at a key in Redis. It is kept by what it is made of, since the
// format of DUMP and of files depends on the version of Redis.
type redisValue struct {
	Key    string   `json:"key"`
	Kind   string   `json:"kind"`
	Live   int64    `json:"live,omitempty"` // in milliseconds from when it is restored; 0: for ever
	Values [][]byte `json:"values"`         // of a hash and a sorted set: field and value, member and score
}

// momentary is how long a value lives at most that no restart would find.
const momentary = time.Minute

func connectRedis(t *testing.T, url string) *redis.Client {
	t.Helper()
	settings, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(settings)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// dumpRedis returns all that is in Redis and lives for more than a moment.
func dumpRedis(t *testing.T, url string) (values []redisValue) {
	t.Helper()
	client, ctx := connectRedis(t, url), t.Context()
	keys, err := client.Keys(ctx, "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	for _, key := range keys {
		live, err := client.PTTL(ctx, key).Result()
		if err != nil {
			t.Fatal(err)
		}
		if live > 0 && live < momentary {
			continue
		}
		v := redisValue{Key: key, Live: max(live.Milliseconds(), 0)}
		if v.Kind, v.Values, err = readRedis(ctx, client, key); err != nil {
			t.Fatal(err)
		}
		values = append(values, v)
	}
	return values
}

func readRedis(ctx context.Context, client *redis.Client, key string) (kind string, values [][]byte, err error) {
	if kind, err = client.Type(ctx, key).Result(); err != nil {
		return kind, nil, err
	}
	var parts []string
	switch kind {
	case "string":
		var value string
		value, err = client.Get(ctx, key).Result()
		parts = []string{value}
	case "list":
		parts, err = client.LRange(ctx, key, 0, -1).Result()
	case "set":
		parts, err = client.SMembers(ctx, key).Result()
		slices.Sort(parts)
	case "hash":
		var fields map[string]string
		fields, err = client.HGetAll(ctx, key).Result()
		for name, value := range fields {
			parts = append(parts, name, value)
		}
	case "zset":
		var members []redis.Z
		members, err = client.ZRangeWithScores(ctx, key, 0, -1).Result()
		for _, member := range members {
			parts = append(parts, fmt.Sprint(member.Member), fmt.Sprintf("%.0f", member.Score))
		}
	default:
		err = fmt.Errorf("%s is a %s, which is not expected", key, kind)
	}
	for _, part := range parts {
		values = append(values, []byte(part))
	}
	return kind, values, err
}

func restoreRedis(t *testing.T, url string, values []redisValue) {
	t.Helper()
	client, ctx := connectRedis(t, url), t.Context()
	commands := map[string]string{"string": "SET", "list": "RPUSH", "set": "SADD", "hash": "HSET", "zset": "ZADD"}
	for _, v := range values {
		command := []any{commands[v.Kind], v.Key}
		for i, value := range v.Values {
			if v.Kind == "zset" { // the score comes first there
				value = v.Values[i^1]
			}
			command = append(command, value)
		}
		if err := client.Do(ctx, command...).Err(); err != nil {
			t.Fatalf("%s: %v", v.Key, err)
		}
		if v.Live == 0 {
			continue
		}
		if err := client.PExpire(ctx, v.Key, time.Duration(v.Live)*time.Millisecond).Err(); err != nil {
			t.Fatalf("%s: %v", v.Key, err)
		}
	}
}

// keptCall is a line of `doku inbox export`.
type keptCall struct {
	Key       string      `json:"key"`
	Lane      string      `json:"lane"`
	PaymentID string      `json:"payment_id"`
	Target    string      `json:"target"`
	Header    http.Header `json:"header"`
	Attempts  int         `json:"attempts"`
	Dead      bool        `json:"dead"`
	Trace     string      `json:"trace"`
	Body      string      `json:"body"`
}

// export returns what `doku inbox export` writes, and what it says, without when the next
// attempt is due: at the start of a sidecar, everything is.
func (e *earlier) export(t *testing.T) (text string, calls []keptCall) {
	t.Helper()
	exported, err := e.inboxCommand(t, "export")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	for line := range strings.Lines(exported) {
		var fields map[string]any
		var call keptCall
		if err := cmp.Or(json.Unmarshal([]byte(line), &fields), json.Unmarshal([]byte(line), &call)); err != nil {
			t.Fatal(err)
		}
		delete(fields, "due")
		if err := encoder.Encode(fields); err != nil {
			t.Fatal(err)
		}
		calls = append(calls, call)
	}
	return b.String(), calls
}

// TestWhatTheVersionBeforeHasLeftIsUsed starts a sidecar on data that the version before
// has written: an upgrade must not lose a payment, nor hand one over twice.
func TestWhatTheVersionBeforeHasLeftIsUsed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		inRedis bool
	}{
		{"in a file", false},
		{"in Redis", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			recording := os.Getenv("DOKU_RECORD_EARLIER") != ""
			if recording && !t.Run("recording", func(t *testing.T) { recordEarlier(t, test.inRedis) }) {
				return
			}
			e := newEarlier(t, test.inRedis)
			e.restore(t)
			release := make(chan struct{})
			answer := sync.OnceFunc(func() { close(release) })
			t.Cleanup(answer)
			e.app.setAnswer(func(call appCall) (int, string) {
				if strings.Contains(call.body, `"paymentRequestId":"W-`) {
					<-release
				}
				return answering(http.StatusOK)(call)
			})
			e.begin(t, "720h")
			kept := e.checkKept(t, recording)
			var facts earlierFacts
			readJSON(t, e.path(t, "facts.json"), &facts)
			e.checkInbound(t, facts)
			if test.inRedis {
				e.checkOutbound(t, facts)
				e.checkLedger(t)
			}
			e.checkQueue(t)
			e.hurry(t, kept)
			answer()
			e.checkDelivered(t, kept)
			e.checkTraces(t, kept)
		})
	}
}

// checkKept compares what the inbox keeps with what the version before said of it. No
// attempt is made meanwhile: the app does not answer.
func (e *earlier) checkKept(t *testing.T, recording bool) []keptCall {
	t.Helper()
	path := e.path(t, "kept.jsonl")
	exported, calls := e.export(t)
	if recording {
		write(t, path, []byte(exported))
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if exported != string(want) {
		t.Errorf("the inbox keeps\n%s\nthe version before kept\n%s", exported, want)
	}
	list, err := e.inboxCommand(t, "list")
	if err != nil || strings.Count(list, "\n") != 1+len(calls) || strings.Count(list, "dead") != 1 {
		t.Errorf("list: %v\n%s", err, list)
	}
	for _, call := range calls {
		shown, err := e.inboxCommand(t, "show", call.Key)
		if err != nil || !strings.Contains(shown, "POST "+call.Target+"\n") || !strings.Contains(shown, call.Body) ||
			strings.Contains(shown, "dead") != call.Dead {
			t.Errorf("show: %v\n%s", err, shown)
		}
	}
	if waiting, dead := e.kept(t); waiting != len(earlierWaiting) || dead != 1 {
		t.Errorf("%d wait and %d are dead", waiting, dead)
	}
	return calls
}

// expectEarlier checks that an answer is one that the app gave to the version before.
func (a answer) expectEarlier(t *testing.T, code string) {
	t.Helper()
	a.expect(t, http.StatusOK, code)
	if !strings.Contains(a.body, "the version before") {
		t.Errorf("DOKU got a new answer: %s", a.body)
	}
}

// checkInbound has DOKU try again what the app took from the inbox, with the token that
// the version before gave it, and with another external id.
func (e *earlier) checkInbound(t *testing.T, facts earlierFacts) {
	t.Helper()
	again := earlierTaken
	again.Bearer = facts.MerchantToken
	e.notify(t, again).expectEarlier(t, "2002500")
	again.ExternalID = "E-T-2"
	e.notify(t, again).expectEarlier(t, "2002500")
	if calls := e.handedOver("T-1"); len(calls) != 0 {
		t.Errorf("the app was called again: %v", calls)
	}
}

// handedOver returns the calls of the app that are about a payment.
func (e *earlier) handedOver(paymentID string) (calls []appCall) {
	for _, call := range e.app.seen() {
		if strings.Contains(call.body, `"paymentRequestId":"`+paymentID+`"`) {
			calls = append(calls, call)
		}
	}
	return calls
}

// checkOutbound has the app repeat its calls. DOKU is a new one, which does not know the
// token of before.
func (e *earlier) checkOutbound(t *testing.T, facts earlierFacts) {
	t.Helper()
	again := e.call(t, http.MethodPost, createPath, earlierBill, "Idempotency-Key", "A")
	again.expect(t, http.StatusOK, "2002700")
	if again.body != facts.AnswerA || again.header.Get("X-Doku-Replayed") != "true" ||
		again.header.Get("X-Doku-External-Id") != facts.ExternalA {
		t.Errorf("the repeat got %v %s", again.header, again.body)
	}
	e.call(t, http.MethodPost, createPath, earlierUnsure, "Idempotency-Key", "A").expect(t, http.StatusUnprocessableEntity, "4222700")
	if n := len(e.created()); n != 0 {
		t.Fatalf("DOKU received %d calls", n)
	}

	e.call(t, http.MethodPost, createPath, earlierUnsure, "Idempotency-Key", "B").expect(t, http.StatusOK, "2002700")
	calls := e.created()
	if got := calls[0].Header.Get("Authorization"); got != "Bearer "+facts.Token {
		t.Error("the token of the version before was not used")
	}
	for _, call := range calls {
		if id := call.Header.Get("X-External-Id"); id != facts.ExternalB {
			t.Errorf("external id %s, the version before used %s", id, facts.ExternalB)
		}
	}
}

// checkLedger has DOKU repeat what the app took at once.
func (e *earlier) checkLedger(t *testing.T) {
	t.Helper()
	again := earlierPaid
	e.notify(t, again).expectEarlier(t, "2002500")
	again.ExternalID = "E-P-2"
	e.notify(t, again).expectEarlier(t, "2002500")
	e.inquire(t).expectEarlier(t, "2002400")
	if calls := e.handedOver("P-1"); len(calls) != 0 {
		t.Errorf("the app was called again: %v", calls)
	}
	// Another body is another notification, and it is noticed that the payment is the same.
	changed := simulator.Outgoing{ExternalID: "E-P-3", Body: bytes.Replace(earlierPaid.Body, []byte("11500.00"), []byte("12500.00"), 1)}
	e.notify(t, changed).expect(t, http.StatusOK, "2002500")
	if calls := e.handedOver("P-1"); len(calls) != 1 {
		t.Errorf("the app was called %d times", len(calls))
	}
	if line := "\ncaddy_doku_changed_payments_total{account=\"default\"} 1\n"; !strings.Contains(e.adminGet("/metrics"), line) {
		t.Errorf("the metrics do not say%s", line)
	}
}

// checkQueue has DOKU tell of another payment to the virtual account whose payments wait:
// it is kept behind them.
func (e *earlier) checkQueue(t *testing.T) {
	t.Helper()
	e.notify(t, simulator.Outgoing{ExternalID: "E-W-5", Body: paymentTo("5", "W-5")}).expect(t, http.StatusInternalServerError, "5002502")
	_, calls := e.export(t)
	lanes := make(map[string]string)
	for _, call := range calls {
		lanes[call.PaymentID] = call.Lane
	}
	if lanes["W-5"] != lanes["W-1"] || lanes["W-5"] == "" {
		t.Errorf("the payments to one virtual account are in order within %v", lanes)
	}
}

// hurry has the second call of a virtual account tried as soon as its turn comes. In Redis,
// a start of a sidecar does that for the first call only, and the second one's time is years
// ahead, as the clock of the version before was.
func (e *earlier) hurry(t *testing.T, kept []keptCall) {
	t.Helper()
	for _, call := range kept {
		if call.PaymentID != "W-2" {
			continue
		}
		if _, err := e.inboxCommand(t, "retry", call.Key); err != nil {
			t.Error(err)
		}
	}
}

// checkDelivered checks what the app gets of what waited, and then of what is dead.
func (e *earlier) checkDelivered(t *testing.T, kept []keptCall) {
	t.Helper()
	doktest.Eventually(t, "all deliveries", func() bool { waiting, _ := e.kept(t); return waiting == 0 })
	if list, err := e.inboxCommand(t, "list"); err != nil || strings.Count(list, "\n") != 2 || !strings.Contains(list, "dead") {
		t.Errorf("list: %v\n%s", err, list)
	}
	if _, err := e.inboxCommand(t, "retry", "--dead"); err != nil {
		t.Error(err)
	}
	doktest.Eventually(t, "the delivery of the dead one",
		func() bool { _, dead := e.kept(t); return dead == 0 && len(e.handedOver("D-1")) > 0 })
	for _, call := range kept {
		seen := e.handedOver(call.PaymentID)
		if len(seen) != 1 {
			t.Errorf("the app saw %s %d times", call.PaymentID, len(seen))
			continue
		}
		if seen[0].body != call.Body || seen[0].target != call.Target ||
			seen[0].header.Get("Doku-Delivery-Attempt") != fmt.Sprint(call.Attempts+1) {
			t.Errorf("the app saw %+v, expected %+v", seen[0], call)
		}
		seen[0].header.Del("Accept-Encoding") // Caddy's own
		for name, values := range call.Header {
			switch { // the version before kept every header of DOKU's
			case name == "User-Agent":
				values = []string{"caddy-doku"}
			case !slices.Contains(allowedHeaders, name):
				values = nil
			}
			if !slices.Equal(seen[0].header[name], values) {
				t.Errorf("the app saw %s: %q, expected %q", name, seen[0].header[name], values)
			}
		}
	}
	var order []string
	for _, call := range e.app.seen() {
		for _, id := range []string{"W-1", "W-2", "W-5"} { // of one virtual account
			if strings.Contains(call.body, id) {
				order = append(order, id)
			}
		}
	}
	if !slices.Equal(order, []string{"W-1", "W-2", "W-5"}) {
		t.Errorf("the app saw %v", order)
	}
}

// checkTraces looks for links to the traces of the version before: of what was kept, and in
// Redis from a payment to the creation of its virtual account. What is delivered before the
// first request of a sidecar has no span, so only what came later is looked at.
func (e *earlier) checkTraces(t *testing.T, kept []keptCall) {
	t.Helper()
	linked := make(map[string]string)
	for _, call := range kept {
		if call.PaymentID == "W-2" || call.PaymentID == "D-1" {
			linked[strings.Split(call.Trace, "-")[1]] = call.PaymentID
		}
	}
	if e.redis != nil {
		linked[earlierTrace] = "the virtual account 1"
		e.notify(t, simulator.Outgoing{Body: payment("P-9")}).expect(t, http.StatusOK, "2002500")
	}
	if !e.sidecar.Stop() { // which exports what is left
		t.Fatal("the sidecar did not end")
	}
	for trace, of := range linked {
		if !strings.Contains(e.log.String(), `"SpanContext":{"TraceID":"`+trace+`"`) {
			t.Errorf("no span is linked with the trace %s of %s", trace, of)
		}
	}
}
