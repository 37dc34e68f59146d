package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// answerTo sends the head of a request, and no body, and returns the answer.
func answerTo(t *testing.T, site, target string, header http.Header) *http.Response {
	t.Helper()
	conn := connect(t, site)
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n", target)
	_ = header.Write(conn)
	_, _ = io.WriteString(conn, "\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestATokenRequestIsCheckedBeforeItsBodyIsRead(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	var genuine http.Header
	if _, err := env.doku.RequestToken(t.Context(), func(r *http.Request) { genuine = r.Header.Clone() }); err != nil {
		t.Fatal(err)
	}
	genuine.Del("Content-Length")
	for name, change := range map[string]func(http.Header){
		"no headers":          func(h http.Header) { clear(h) },
		"a forged signature":  func(h http.Header) { h.Set("X-Signature", "AAAA"+h.Get("X-Signature")[4:]) },
		"an unknown client":   func(h http.Header) { h.Set("X-Client-Key", "BRN-0000") },
		"an old time":         func(h http.Header) { h.Set("X-Timestamp", "2020-01-01T00:00:00Z") },
		"a signature of text": func(h http.Header) { h.Set("X-Signature", "signature") },
	} {
		header := genuine.Clone()
		change(header)
		resp := answerTo(t, env.inward, tokenPath, header)
		if resp.StatusCode/100 != 4 || !resp.Close {
			t.Errorf("%s: HTTP %d, and the connection closes: %v", name, resp.StatusCode, resp.Close)
		}
	}
}

func TestStrangersCannotUseUpTheRoomForDOKUsBodies(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	// The site of the strangers takes any token, so that it reads their bodies.
	config := env.caddyfile(options{global: "unverified_calls 2"})
	end := strings.LastIndex(config, "}")
	env.run(
		t,
		config[:end]+"\tdoku_verify /open/* {\n\t\ttoken any\n\t\tservice 25\n\t\tbody_timeout 1h\n\t}\n"+
			"\treverse_proxy /open/* "+env.appAddress+"\n}\n",
	)
	var genuine http.Header
	open := simulator.Outgoing{URL: env.inward + "/open/pay", Mutate: func(r *http.Request) { genuine = r.Header.Clone() }}
	env.notify(t, open).expect(t, 200, "2002500")

	stop, gone := make(chan struct{}), make(chan struct{}, 2)
	for range 2 {
		go func() {
			endlessBodyTo(t, strings.TrimPrefix(env.inward, "http://"), "/open/pay", genuine, stop)
			gone <- struct{}{}
		}()
	}
	env.awaitInFlight(t, 2)
	open.Body, open.ExternalID = paymentTo("2", "P-2"), "E-2"
	if got := env.notify(t, open); got.status != http.StatusServiceUnavailable || got.header.Get("X-Doku-Error") != "busy" {
		t.Errorf("a third body without a token of ours: HTTP %d %s", got.status, got.body)
	}
	env.awaitMetrics(t, `calls_total{account="default",direction="inbound",outcome="busy",service="25"} 1`)
	env.notify(t, simulator.Outgoing{Body: paymentTo("3", "P-3"), ExternalID: "E-3"}).expect(t, 200, "2002500") // and its token
	close(stop)
	<-gone
	<-gone
	doktest.Eventually(t, "room for other callers", func() bool { return env.notify(t, open).status == http.StatusOK })
}

func TestTheLogHasAFewRefusalsInASecondAndCountsTheRest(t *testing.T) {
	t.Parallel()
	env := start(t, options{})
	const calls = 400
	conn := connect(t, env.inward)
	defer func() { conn.Close() }()
	answers := bufio.NewReader(conn)
	for range calls {
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n", paymentPath)
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.Close {
			conn.Close()
			conn = connect(t, env.inward)
			answers = bufio.NewReader(conn)
		}
	}
	type entry struct {
		Msg, Reason string
		More        int
		TS          float64
	}
	seconds, lines, more := map[int]int{}, 0, 0
	count := func() int {
		clear(seconds)
		lines, more = 0, 0
		for line := range strings.Lines(env.log.String()) {
			var e entry
			if json.Unmarshal([]byte(line), &e) != nil || e.Reason != "header_missing" {
				continue
			}
			if e.More > 0 {
				more += e.More
				continue
			}
			lines++
			seconds[int(e.TS)]++
		}
		return lines + more
	}
	doktest.Eventually(t, "all refusals to be in the log", func() bool { return count() == calls })
	for second, n := range seconds {
		if n > 10 { // five in each of the seconds that overlap with one of the clock
			t.Errorf("%d lines in second %d", n, second)
		}
	}
	env.awaitMetrics(t, fmt.Sprintf(`calls_total{account="default",direction="inbound",outcome="header_missing",service="25"} %d`, calls))
}
