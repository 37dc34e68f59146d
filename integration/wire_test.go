package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/simulator"
)

const shortYes = `{"responseCode":"2002500"}`

// wireApp is an app that writes its answers to the connection as they stand.
type wireApp struct {
	address string

	mu     sync.Mutex
	calls  []time.Time
	answer func(net.Conn) // it may leave the connection open; nil: a yes
}

func newWireApp(t *testing.T) *wireApp {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	a := &wireApp{address: listener.Addr().String()}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go a.serve(conn)
		}
	}()
	return a
}

func (a *wireApp) serve(conn net.Conn) {
	defer conn.Close()
	r, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
	a.mu.Lock()
	a.calls = append(a.calls, time.Now())
	answer := a.answer
	a.mu.Unlock()
	if answer == nil {
		answer = wire("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 26\r\n\r\n" + shortYes)
	}
	answer(conn)
}

func (a *wireApp) set(answer func(net.Conn)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer, a.calls = answer, nil
}

func (a *wireApp) called() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.calls)
}

// wire returns an app that writes text and closes the connection.
func wire(text string) func(net.Conn) {
	return func(conn net.Conn) { _, _ = io.WriteString(conn, text) }
}

func TestTheLogSaysWhyAnInquiryGotNoBill(t *testing.T) {
	t.Parallel()
	for name, inbox := range map[string]string{"behind reverse_proxy": "", "behind doku_inbox": "{\n}"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := start(t, options{inbox: inbox})
			for n, x := range []struct {
				status int
				body   string
				doku   int
				code   string
				says   []string
			}{
				{401, `{"responseCode":"4012400"}`, 500, "5002402", []string{"asks for a login or a key", "exempt this path"}},
				{200, `{"responseCode":"4012400"}`, 500, "5002402", []string{"asks for a login or a key", "exempt this path"}},
				{429, `{"responseCode":"4292400"}`, 503, "5032400", []string{"too busy", "limits"}},
				{408, `{"responseCode":"4082400"}`, 504, "5042400", []string{"too busy"}},
				{503, `{"responseCode":"5032400"}`, 503, "5032400", []string{"the app cannot answer", "the app has failed", "own log"}},
				{200, `{"responseCode":"5002400"}`, 500, "5002400", []string{"the app cannot answer", "the app has failed"}},
				{200, "", 500, "5002402", []string{"the answer is empty", `\"2002400\"`, "virtualAccountData"}},
				{400, "", 500, "5002402", []string{"without a SNAP answer", "4042412"}},
			} {
				env.app.setAnswer(func(appCall) (int, string) { return x.status, x.body })
				id := fmt.Sprint("I-", n)
				env.notify(t, simulator.Outgoing{
					URL: env.inward + inquiryPath, ExternalID: id, Body: fmt.Appendf(nil, `{"inquiryRequestId":"%s"}`, id),
				}).expect(t, x.doku, x.code)
				env.awaitLine(t, append(x.says, `"external_id":"`+id+`"`, "DOKU does not repeat an inquiry")...)
			}
			for line := range strings.Lines(env.log.String()) {
				if strings.Contains(line, "the app has refused") || strings.Contains(line, "2002500") || strings.Contains(line, "4042512") {
					t.Errorf("that is not so: %s", line)
				}
			}
		})
	}
}

func TestWhatMayBeANoIsNoBareYes(t *testing.T) {
	t.Parallel()
	for name, o := range looseAnswers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			app := newWireApp(t)
			o.app = app.address
			env := start(t, o)
			for n, x := range []struct{ header, body string }{
				{"", "4042512"},
				{"", "5002500"},
				{"", "responseCode=4042512&responseMessage=x"},
				{"", "responseCode: 5002500"},
				{"", `responseCode":"4042512"}`},
				{"", "%34%30%34%32%35%31%32"},
				{"", "NDA0MjUxMg=="},
				{"", "&#52;042512"},
				{"", "４０４２５１２"},
				{"", "reſponseCode"},
				{"application/json", "false"},
				{"", "null"},
				{"", "0"},
				{"image/gif", "GIF89a"},
				{"application/octet-stream", "OK"},
				{"", "OK\x00"},
				{"", "ERROR 17"},
				{"", "FAILED"},
				{"text/plain\r\nLocation: /login", "OK"},
				{"text/plain\r\nRefresh: 0; url=/login", "OK"},
			} {
				header := ""
				if x.header != "" {
					header = "Content-Type: " + x.header + "\r\n"
				}
				app.set(wire(fmt.Sprintf("HTTP/1.1 200 OK\r\n%sConnection: close\r\nContent-Length: %d\r\n\r\n%s", header, len(x.body), x.body)))
				got := env.notifyFor(t, n)
				if got.status != http.StatusInternalServerError || got.header.Get("X-Doku-Error") == "" {
					t.Errorf("%q %q: DOKU got HTTP %d", x.header, x.body, got.status)
				}
				env.awaitLine(t, fmt.Sprintf(`"external_id":"E-answer-%d"`, n), "no bare yes, since")
			}
			app.set(wire("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 2\r\n\r\nOK"))
			if got := env.notifyFor(t, 100); got.status != http.StatusOK {
				t.Errorf("OK: DOKU got HTTP %d", got.status)
			}
		})
	}
}
