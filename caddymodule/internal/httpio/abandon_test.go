package httpio_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

func TestAConnectionGoesOnIfTheBodyOfARefusedCallHasArrived(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		httpio.Abandon(w, r)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer server.Close()
	for name, test := range map[string]struct {
		sent   string
		closes bool
	}{
		"no body":            {"Content-Length: 0\r\n\r\n", false},
		"the whole body":     {"Content-Length: 200\r\n\r\n" + strings.Repeat("x", 200), false},
		"a part of the body": {"Content-Length: 200\r\n\r\nxxx", true},
		"nothing of it":      {"Content-Length: 200\r\n\r\n", true},
		"a large body":       {"Content-Length: 200000\r\n\r\n" + strings.Repeat("x", 100), true},
		"a question":         {"Expect: 100-continue\r\nContent-Length: 200\r\n\r\n", true},
		"chunks":             {"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", true},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(doktest.Patience)); err != nil {
				t.Fatal(err)
			}
			answers := bufio.NewReader(conn)
			for range 2 {
				fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\n%s", test.sent)
				resp, err := http.ReadResponse(answers, nil)
				if err != nil || resp.StatusCode != http.StatusUnauthorized || resp.Close != test.closes {
					t.Fatalf("%v, error %v", resp, err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				if resp.Close {
					return
				}
			}
		})
	}
}
