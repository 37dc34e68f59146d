package main

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/snap"
)

func TestABodyHasTheWantedSizeAndIsJSON(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		size int
		with filling
	}{{1 << 10, fillItems}, {1025, fillItems}, {64 << 10, fillItems}, {1 << 10, fillText}, {64 << 10, fillText}} {
		size := test.size
		create, err := createBody(size, test.with)
		if err != nil || len(create) != size || !json.Valid([]byte(create)) {
			t.Errorf("creating an account: expected JSON of %d bytes, found %d: %v", size, len(create), err)
		}
		payment, err := paymentBody(size, test.with)
		payment += paymentTail(strings.Repeat("0", paymentIDSize))
		if err != nil || len(payment) != size || !json.Valid([]byte(payment)) {
			t.Errorf("telling of a payment: expected JSON of %d bytes, found %d: %v", size, len(payment), err)
		}
	}
}

func TestABodyTooSmallForItsFieldsIsRefused(t *testing.T) {
	t.Parallel()
	if body, err := createBody(100, fillItems); err == nil {
		t.Errorf("expected an error, found %q", body)
	}
	if _, err := appCalls(100, 1, fillItems); err == nil {
		t.Error("expected an error from appCalls")
	}
	if _, err := (&dokuCalls{size: 100, secret: snap.NewSecret(nil)}).sign(1, time.Time{}); err == nil {
		t.Error("expected an error from sign")
	}
}

func TestEveryCallOfDOKUsIsSignedAndLikeNoOther(t *testing.T) {
	t.Parallel()
	now := time.Date(2024, 3, 26, 9, 1, 41, 0, time.UTC)
	calls := dokuCalls{clientID: clientID, secret: snap.NewSecret([]byte(secretKey)), token: "the.token", size: 2000}
	ids := make(map[string]bool)
	for range 2 { // batches
		b, err := calls.sign(3, now)
		if err != nil {
			t.Fatal(err)
		}
		for i := range b.calls {
			req, body := parseCall(t, b, i)
			if got := req.Header.Get("X-TIMESTAMP"); got != "2024-03-26T16:01:41+07:00" {
				t.Errorf("X-TIMESTAMP: found %q", got)
			}
			digest := sha256.Sum256(body)
			mac := hmac.New(sha512.New, []byte(secretKey))
			mac.Write([]byte("POST:/v1.1/transfer-va/payment:the.token:" + hex.EncodeToString(digest[:]) + ":2024-03-26T16:01:41+07:00"))
			if got, want := req.Header.Get("X-SIGNATURE"), base64.StdEncoding.EncodeToString(mac.Sum(nil)); got != want {
				t.Errorf("X-SIGNATURE: expected %q, found %q", want, got)
			}
			var fields struct {
				PaymentRequestID string `json:"paymentRequestId"`
			}
			if err := json.Unmarshal(body, &fields); err != nil {
				t.Fatal(err)
			}
			if id := req.Header.Get("X-EXTERNAL-ID"); id == "" || ids[id] || fields.PaymentRequestID != id {
				t.Errorf("expected a new id in header and body, found %q and %q", id, fields.PaymentRequestID)
			}
			ids[req.Header.Get("X-EXTERNAL-ID")] = true
		}
	}
}

// parseCall reads call i of b as a server does.
func parseCall(t *testing.T, b batch, i int) (*http.Request, []byte) {
	t.Helper()
	r := bufio.NewReader(bytes.NewReader(b.appendCall(nil, i)))
	req, err := http.ReadRequest(r)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		t.Fatal(err)
	}
	if r.Buffered() > 0 {
		t.Fatalf("%d bytes follow the call", r.Buffered())
	}
	return req, body
}

func TestLoadMakesEveryCallOnce(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(newUpstream())
	defer server.Close()
	app, err := appCalls(1<<10, 100, fillItems)
	if err != nil {
		t.Fatal(err)
	}
	doku, err := (&dokuCalls{secret: snap.NewSecret([]byte(secretKey)), size: 64 << 10}).sign(50, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	l, err := dial(t.Context(), server.Listener.Addr().String(), 4)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	for _, turn := range []struct {
		b    batch
		want []byte
	}{{app, answerTo(seenPlain)}, {doku, answerTo(seenSigned)}} {
		took, err := l.run(t.Context(), turn.b, turn.want)
		if err != nil {
			t.Fatal(err)
		}
		if len(took) != len(turn.b.calls) || slices.Min(took) <= 0 {
			t.Errorf("expected %d durations above zero, found %v", len(turn.b.calls), took)
		}
	}
	resp, err := server.Client().Get(server.URL + servedPath)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if served, err := io.ReadAll(resp.Body); err != nil || string(served) != strconv.Itoa(len(app.calls)+len(doku.calls)) {
		t.Errorf("expected the upstream to have answered %d calls, found %s: %v", len(app.calls)+len(doku.calls), served, err)
	}
}

func TestLoadReportsAnAnswerThatIsNotTheExpectedOne(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(newUpstream())
	defer server.Close()
	b, err := appCalls(1<<10, 10, fillText)
	if err != nil {
		t.Fatal(err)
	}
	l, err := dial(t.Context(), server.Listener.Addr().String(), 2)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if _, err := l.run(t.Context(), b, answerTo(seenSigned)); !errors.Is(err, errBody) {
		t.Errorf("expected %v, found %v", errBody, err)
	}
}

func TestAnAnswerIsReadAndCompared(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, answer string
		want         error
	}{
		{"the expected answer", "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\n\r\n{}", nil},
		{"a header name in lower case", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", nil},
		{"another body", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", errBody},
		{"a body that goes on", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{} ", errBody},
		{"another status", "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}", errStatus},
		{"another status without a body", "HTTP/1.1 502 Bad Gateway\r\n\r\n", errStatus},
		{"no length", "HTTP/1.1 200 OK\r\n\r\n{}", errLength},
		{"a length that is no number", "HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n{}", errLength},
		{"an end in the header", "HTTP/1.1 200 OK\r\nContent", io.EOF},
		{"an end in the body", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", io.EOF},
		{"nothing", "", io.EOF},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := bufio.NewReader(strings.NewReader(test.answer))
			if err := readAnswer(r, []byte("{}")); !errors.Is(err, test.want) {
				t.Errorf("expected %v, found %v", test.want, err)
			} else if err == nil && r.Buffered() > 0 {
				t.Errorf("%d bytes left", r.Buffered())
			}
		})
	}
}

func TestCPUTimeIsReadPastANameWithParentheses(t *testing.T) {
	t.Parallel()
	stat := "4242 (caddy (x) y) S 1 4242 4242 0 -1 4194560 1 0 0 0 123 45 0 0 20 0 9 0 100 1 1"
	if got, err := statTicks([]byte(stat)); err != nil || got != 123+45 {
		t.Errorf("expected %d, found %d: %v", 123+45, got, err)
	}
	if got, err := statTicks([]byte("4242 (caddy) S 1")); err == nil {
		t.Errorf("expected an error, found %d", got)
	}
}

func TestTheCPUIsNamed(t *testing.T) {
	t.Parallel()
	if got := cpuModel("processor\t: 0\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel name\t: other\n"); got != "AMD EPYC" {
		t.Errorf("found %q", got)
	}
	if got := cpuModel("processor\t: 0\n"); got != runtime.GOARCH {
		t.Errorf("without a name, expected the architecture, found %q", got)
	}
}

func TestTheSignTestGivesTheIntervalOfTheMedian(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		n         int
		low, high float64 // of the values 1 … n; from tables of the sign test
	}{{5, 0, 0}, {6, 1, 6}, {8, 1, 8}, {9, 2, 8}, {25, 8, 18}, {40, 14, 27}} {
		values := make([]float64, test.n)
		for i := range values {
			values[i] = float64(test.n - i)
		}
		low, high, ok := interval(values)
		if low != test.low || high != test.high || ok != (test.low > 0) {
			t.Errorf("%d values: expected %g to %g, found %g to %g, %t", test.n, test.low, test.high, low, high, ok)
		}
	}
}

func TestMedianAndPercentile(t *testing.T) {
	t.Parallel()
	if got := median([]float64{3, 1, 2}); got != 2 {
		t.Errorf("median of three: found %g", got)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median of four: found %g", got)
	}
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for p, want := range map[int]time.Duration{50: 50, 99: 99, 100: 100} {
		if got := percentile(hundred, p); got != want {
			t.Errorf("percentile %d: expected %d, found %d", p, want, got)
		}
	}
	if got := percentile(hundred[:1], 50); got != 1 {
		t.Errorf("percentile of one: found %d", got)
	}
}

func TestALineHasMediansAndPairedRatios(t *testing.T) {
	t.Parallel()
	rounds := func(cpu ...time.Duration) (all []round) {
		for _, one := range cpu {
			all = append(all, round{perSecond: 1e9 / float64(one), p50: time.Millisecond, p99: 2 * time.Millisecond, cpu: one})
		}
		return all
	}
	// The machine slows down between the rounds; the ratio does not.
	rows := []*row{
		{
			kind:   kind{name: "reverse_proxy", base: 0},
			rounds: rounds(100_000, 200_000, 300_000, 400_000, 500_000, 600_000),
			memory: 64 << 20,
		},
		{kind: kind{name: "doku_sign", base: 0}, rounds: rounds(110_000, 220_000, 330_000, 440_000, 550_000, 660_000), memory: 65 << 20},
		{kind: kind{name: "doku_verify", base: 0}, err: errors.New("no\nlonger | there")},
	}
	for i, want := range []string{
		"| reverse_proxy | 32 | 2917 | 1.00 | 2.00 | 350 | 64 | 1 | 1 |\n",
		"| doku_sign | 32 | 2652 | 1.00 | 2.00 | 385 | 65 | 0.91 | 1.10 (1.10–1.10) |\n",
		"| doku_verify | 32 | invalid: no longer / there… |\n",
	} {
		if got := rows[i].line(32, rows); got != want {
			t.Errorf("expected %q, found %q", want, got)
		}
	}
}

func TestTheCommandLineIsChecked(t *testing.T) {
	t.Parallel()
	s, err := parse([]string{"-quick", "-sizes", "2048", "-conns", "1, 8"}, io.Discard)
	if err != nil || s.rounds != 6 || !slices.Equal(s.sizes, []int{2048}) || !slices.Equal(s.conns, []int{1, 8}) {
		t.Errorf("found %+v: %v", s, err)
	}
	for _, args := range [][]string{
		{"-rounds", "0"}, {"-seconds", "0"}, {"-seconds", "60"}, {"-sizes", "1k"}, {"-fill", "x"}, {"-conns", "1,0"}, {"more"},
	} {
		if s, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q: expected an error, found %+v", args, s)
		}
	}
}

func TestTheEndOfALogIsKept(t *testing.T) {
	t.Parallel()
	log := new(tail)
	for range 100 {
		if _, err := io.WriteString(log, strings.Repeat("a", 100)+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(log, "the end\n"); err != nil {
		t.Fatal(err)
	}
	if got := log.String(); !strings.HasSuffix(got, "\nthe end") || len(got) > tailKept {
		t.Errorf("found %d bytes, ending in %q", len(got), got[max(0, len(got)-20):])
	}
}
