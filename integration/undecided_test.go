package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// brokenAnswers are answers with HTTP 2xx that nobody can read to their end.
var brokenAnswers = []struct {
	name   string
	answer func(net.Conn)
	says   string // in the log
}{
	{"shorter than its Content-Length", wire("HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n" + yes200), "breaks off"},
	{"nothing of its Content-Length", wire("HTTP/1.1 201 Created\r\nContent-Length: 57\r\n\r\n"), "breaks off"},
	{
		"chunked, without its end",
		wire("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1a\r\n" + shortYes + "\r\n"), "breaks off",
	},
	{"chunked, with a bad chunk", wire("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + yes200), "breaks off"},
	{
		"chunked, with trailers that break off",
		wire("HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n1a\r\n" + shortYes + "\r\n0\r\nX-S"), "breaks off",
	},
	{
		"plain, and said to be gzip",
		wire("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\nContent-Length: 26\r\n\r\n" + shortYes), "Content-Encoding",
	},
	{
		"plain, and said to be br",
		wire("HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nConnection: close\r\nContent-Length: 26\r\n\r\n" + shortYes), "Content-Encoding",
	},
	{"reset in its middle", func(conn net.Conn) {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{\"respon")
		_ = conn.(*net.TCPConn).SetLinger(0)
	}, "breaks off"},
	{"early hints", wire("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{\"a"), "breaks off"},
	{"over the size limit", func(conn net.Conn) {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n{\"responseCode\":\"2002500\",\"x\":\"")
		for range 17 {
			if _, err := conn.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}, "has more than"},
	{"a JSON object without its end, over HTTP/1.0", wire("HTTP/1.0 200 OK\r\n\r\n{\"responseCode\":\"2002500\""), "without its end"},
	{"slower than attempt_timeout", func(conn net.Conn) {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{\"respon")
		_, _ = io.Copy(io.Discard, conn) // until the sidecar hangs up
	}, "in time"},
}

func TestA2xxThatNobodyCanReadMayBeBooked(t *testing.T) {
	t.Parallel()
	for n, x := range brokenAnswers {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			app := newWireApp(t)
			app.set(x.answer)
			env := start(t, options{app: app.address, inbox: "{\n attempt_timeout 2s\n}"}) // 20 s would allow many attempts
			notification := simulator.Outgoing{Body: paymentTo(fmt.Sprint(n), fmt.Sprint("P-", n))}
			got := env.notify(t, notification)
			got.expect(t, http.StatusInternalServerError, "5002502")
			if reason := got.header.Get("X-Doku-Error"); reason != "kept" {
				t.Errorf("X-Doku-Error %q", reason)
			}
			if calls := app.called(); calls != 1 {
				t.Errorf("the app was called %d times while DOKU waited", calls)
			}
			env.awaitLine(t, "the app may have booked it", `"reason":"kept"`, x.says, "30 min, 6 h and 12 h")
			doktest.Eventually(t, "one attempt after 2 s", func() bool { return app.called() == 2 })
			env.awaitLine(t, "has not said yes to a kept notification; it may have booked it")
			// The success of another one makes nothing due, and DOKU's own repeat calls nobody.
			app.set(nil)
			env.notify(t, simulator.Outgoing{Body: paymentTo("900", "P-other")}).expect(t, http.StatusOK, "2002500")
			again := env.notify(t, notification)
			again.expect(t, http.StatusInternalServerError, "5002502")
			if calls := app.called(); calls != 1 {
				t.Errorf("the app was called %d times", calls)
			}
			env.awaitLine(t, "may have booked it", "at an earlier attempt", "30 min, 6 h and 12 h")
			for line := range strings.Lines(env.log.String()) {
				if strings.Contains(line, `"reason":"kept"`) && (strings.Contains(line, "has not taken") || strings.Contains(line, "down or failing")) {
					t.Errorf("nobody knows that: %s", line)
				}
			}
			list, err := env.inboxCommand(t, "list")
			if err != nil || !strings.Contains(list, "MAYBE BOOKED") {
				t.Errorf("%v\n%s", err, list)
			}
			key := strings.Fields(strings.Split(list, "\n")[1])[0]
			shown, err := env.inboxCommand(t, "show", key)
			if err != nil || !strings.Contains(shown, "booked       maybe") {
				t.Errorf("%v\n%s", err, shown)
			}
			env.expectEnd(t, shown)
		})
	}
}

// expectEnd checks that a notification that may be booked is given up after the last of its
// few attempts, about 18.5 h after it came, as `inbox show` says.
func (env *testEnv) expectEnd(t *testing.T, shown string) {
	t.Helper()
	field := func(before string) time.Time {
		_, text, _ := strings.Cut(shown, before)
		at, err := time.Parse(time.RFC3339, strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '\n' })[0])
		if err != nil {
			t.Errorf("%v in %s", err, shown)
		}
		return at
	}
	if end := field("given up ").Sub(field("received     ")); end < 18*time.Hour || end > 19*time.Hour {
		t.Errorf("it is given up %s after it came: %s", end, shown)
	}
}

func TestWithoutAnInboxA2xxThatNobodyCanReadIsNoYes(t *testing.T) {
	t.Parallel()
	app := newWireApp(t)
	env := start(t, options{app: app.address, verify: "timeout 2s"})
	for n, x := range brokenAnswers {
		app.set(x.answer)
		got := env.notify(t, simulator.Outgoing{ExternalID: fmt.Sprint("E-", n), Body: paymentTo(fmt.Sprint(n), fmt.Sprint("P-", n))})
		if got.status < 500 || strings.Contains(got.body, "2002500") || got.header.Get("Content-Encoding") != "" {
			t.Errorf("%s: HTTP %d %v %s", x.name, got.status, got.header, got.body)
		}
		env.awaitLine(t, fmt.Sprintf(`"external_id":"E-%d"`, n), x.says, "DOKU tries again")
	}
}
