package inbound

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/moduletest"
	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
	"github.com/caddy-doku/caddy-doku/snap"
)

// verify serves the handler v with an app behind it, and returns its address.
func serveVerify(t testing.TB, h *moduletest.Env, v *Verify, app caddyhttp.HandlerFunc) string {
	t.Helper()
	v.Token = "none"
	h.Provision(t, v)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "Caddy")
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, &caddyhttp.Server{})
		if err := v.ServeHTTP(w, r, app); err != nil {
			t.Error(err)
		}
	}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // of panics that are meant
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}

// notify has DOKU notify the handler at address of a payment.
func notify(t testing.TB, h *moduletest.Env, address string, out simulator.Outgoing) (simulator.Answer, error) {
	t.Helper()
	out.URL, out.Tokenless = address+moduletest.PaymentPath, true
	if out.Body == nil {
		out.Body = []byte(`{"partnerServiceId":"    8808","paymentRequestId":"P-1"}`)
	}
	return h.DOKU.Call(t.Context(), out)
}

func TestOnlyAFinalAnswerOfTheAppsIsDOKUs(t *testing.T) {
	t.Parallel()
	const yes = `{"responseCode":"2002500"}`
	write := func(w http.ResponseWriter, status int, body string) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Content-Length", "100")
		w.Header().Set("ETag", `"1"`)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
	for _, test := range []struct {
		name   string
		app    func(w http.ResponseWriter) error
		status int
		reason string
	}{
		{"nothing", func(http.ResponseWriter) error { return nil }, 500, "app_missing"},
		{"only an informational status", func(w http.ResponseWriter) error {
			w.WriteHeader(http.StatusProcessing)
			return nil
		}, 500, "app_missing"},
		{"only early hints", func(w http.ResponseWriter) error {
			w.WriteHeader(http.StatusEarlyHints)
			return nil
		}, 500, "app_missing"},
		{"only another protocol", func(w http.ResponseWriter) error {
			w.WriteHeader(http.StatusSwitchingProtocols)
			return nil
		}, 500, "app_missing"},
		{"an answer after early hints", func(w http.ResponseWriter) error {
			w.WriteHeader(http.StatusEarlyHints)
			_, err := io.WriteString(w, yes)
			return err
		}, 200, ""},
		{"a proxy that has waited in vain", func(http.ResponseWriter) error {
			return caddyhttp.Error(http.StatusGatewayTimeout, errors.New("timeout awaiting response headers"))
		}, 504, "app_timeout"},
		{"an answer that breaks off", func(w http.ResponseWriter) error {
			write(w, 200, yes[:5])
			panic(http.ErrAbortHandler)
		}, 500, "app_unreachable"},
		{"an answer that does not end", func(w http.ResponseWriter) error {
			for {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return err
				}
			}
		}, 500, "app_unreachable"},
		{"an error after the beginning of an answer", func(w http.ResponseWriter) error {
			write(w, 200, yes[:5])
			return errors.New("half of it")
		}, 500, "app_unreachable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := moduletest.New(t, moduletest.Options{})
			var calls atomic.Int32
			address := serveVerify(t, h, new(Verify), func(w http.ResponseWriter, _ *http.Request) error {
				if calls.Add(1) == 1 {
					return test.app(w)
				}
				_, err := io.WriteString(w, yes)
				return err
			})
			got, err := notify(t, h, address, simulator.Outgoing{ExternalID: "1"})
			if err != nil {
				t.Fatal(err)
			}
			if got.Status != test.status || got.Header.Get("X-Doku-Error") != test.reason {
				t.Errorf("HTTP %d %v %s", got.Status, got.Header, got.Body)
			}
			if test.reason == "" {
				return
			}
			if !strings.Contains(string(got.Body), fmt.Sprintf(`"responseCode":"%d250`, test.status)) || got.Header.Get("Content-Encoding") != "" ||
				got.Header.Get("ETag") != "" {
				t.Errorf("the app's headers go out with the sidecar's own answer: %v %s", got.Header, got.Body)
			}
			if again, err := notify(t, h, address, simulator.Outgoing{ExternalID: "1"}); err != nil || again.Status != 200 || calls.Load() != 2 {
				t.Errorf("HTTP %d, %v, after %d calls of the app", again.Status, err, calls.Load())
			}
		})
	}
	t.Run("an answer that breaks off because it takes too long", func(t *testing.T) {
		t.Parallel()
		h := moduletest.New(t, moduletest.Options{})
		address := serveVerify(t, h, &Verify{Timeout: caddy.Duration(50 * time.Millisecond)}, func(w http.ResponseWriter, r *http.Request) error {
			write(w, 200, yes[:5])
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		})
		if got, err := notify(t, h, address, simulator.Outgoing{}); err != nil || got.Status != 504 ||
			got.Header.Get("X-Doku-Error") != "app_timeout" {
			t.Errorf("HTTP %d %v, %v", got.Status, got.Header, err)
		}
	})
	t.Run("a panic of another kind goes on", func(t *testing.T) {
		t.Parallel()
		h := moduletest.New(t, moduletest.Options{})
		address := serveVerify(t, h, new(Verify), func(http.ResponseWriter, *http.Request) error { panic("a mistake") })
		if got, err := notify(t, h, address, simulator.Outgoing{}); err == nil {
			t.Errorf("HTTP %d %s", got.Status, got.Body)
		}
	})
}

func TestAnExternalIDIsTakenForOneWIBDay(t *testing.T) {
	t.Parallel()
	h := moduletest.New(t, moduletest.Options{})
	v := new(Verify)
	address := serveVerify(t, h, v, func(w http.ResponseWriter, _ *http.Request) error {
		_, err := io.WriteString(w, `{"responseCode":"2002500"}`)
		return err
	})
	v.now = func() time.Time { return time.Date(2024, 8, 27, 17, 0, 0, 0, time.UTC) } // midnight
	for i, call := range []struct {
		timestamp string
		status    int
	}{
		{"2024-08-27T23:59:58+07:00", 200},
		{"2024-08-27T23:59:59+07:00", 409},
		{"2024-08-28T00:00:01+07:00", 200},
		{"2024-08-27T17:00:02Z", 409},
	} {
		body := fmt.Appendf(nil, `{"partnerServiceId":"    8808","paymentRequestId":"P","trxId":"%d"}`, i)
		got, err := notify(t, h, address, simulator.Outgoing{ExternalID: "1", Timestamp: call.timestamp, Body: body})
		if err != nil || got.Status != call.status {
			t.Errorf("at %s: HTTP %d %s, %v", call.timestamp, got.Status, got.Body, err)
		}
	}
}

func TestWhatAnAsymmetricSignatureNeeds(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		services []string
		verify   Verify
		want     string // in the error; "" if there is none
	}{
		{"partner service ids", []string{"8808"}, Verify{Signatures: []string{"symmetric", "asymmetric"}}, ""},
		{"none of them", nil, Verify{Signatures: []string{"asymmetric"}}, "partner_service_id"},
		{"none of them, though symmetric is accepted too", nil, Verify{Signatures: []string{"symmetric", "asymmetric"}}, "partner_service_id"},
		{"none of them, if it is not accepted", nil, Verify{Signatures: []string{"symmetric"}}, ""},
		{"a service whose bodies have one", []string{"8808"}, Verify{Signatures: []string{"asymmetric"}, Service: "25"}, ""},
		{"a service whose bodies have none", []string{"8808"}, Verify{Signatures: []string{"asymmetric"}, Service: "56"}, "service 56"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := moduletest.New(t, moduletest.Options{Account: moduletest.Object{"partner_service_ids": test.services}})
			v := test.verify
			if err := v.Provision(h.Ctx); err != nil {
				t.Fatal(err)
			}
			err := v.Validate()
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, expected it to tell of %q", err, test.want)
			}
		})
	}
}

// dying returns the address of an app that takes a call and, in the middle of an
// answer that has no length, dies: as over HTTP/1.0, that closes the connection.
func dying(t *testing.T, answer string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.Copy(io.Discard, r.Body)
				_, _ = io.WriteString(conn, "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"+answer)
			}
			_ = conn.Close()
		}
	}()
	return listener.Addr().String()
}

func TestAnAnswerWithoutALengthThatBreaksOffIsNoAnswer(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, answer string
		status       int
	}{
		{"in the middle of a text", `{"responseCode":"20025`, 500},
		{"before the last brace", `{"responseCode":"2002500","virtualAccountData":{}`, 500},
		{"in the middle of a number", `{"responseCode":2002`, 500},
		{"not at all", `{"responseCode":"2002500"}`, 200},
		{"not at all, with white space behind", "{\"responseCode\":\"2002500\"}\r\n", 200},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := moduletest.New(t, moduletest.Options{})
			proxy := &reverseproxy.Handler{Upstreams: reverseproxy.UpstreamPool{{Dial: dying(t, test.answer)}}}
			h.Provision(t, proxy)
			t.Cleanup(func() { _ = proxy.Cleanup() })
			address := serveVerify(t, h, new(Verify), func(w http.ResponseWriter, r *http.Request) error {
				return proxy.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil }))
			})
			got, err := notify(t, h, address, simulator.Outgoing{})
			if err != nil || got.Status != test.status || (got.Header.Get("X-Doku-Error") == "app_unreachable") != (test.status == 500) {
				t.Errorf("HTTP %d %v %s, %v", got.Status, got.Header, got.Body, err)
			}
		})
	}
}

func TestARefusalIsAShortLineInTheLogWhateverAStrangerSends(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100_000)
	h := moduletest.New(t, moduletest.Options{})
	v, token := &Verify{Token: "none"}, new(Token)
	h.Provision(t, v)
	h.Provision(t, token)
	two := moduletest.New(t, moduletest.Options{App: moduletest.Object{"accounts": []moduletest.Object{
		{"name": "kopi", "client_id": "BRN-1", "secret_keys": []string{"SK-1"}, "private_key": doktest.Path(t, doktest.MerchantKey)},
		{"name": "jamu", "client_id": "BRN-2", "secret_keys": []string{"SK-2"}, "private_key": doktest.Path(t, doktest.MerchantKey)},
	}}})
	brands := &Verify{Token: "none"}
	two.Provision(t, brands)
	for _, test := range []struct {
		name    string
		handler caddyhttp.MiddlewareHandler
		base    *Base
		method  string
		change  func(r *http.Request)
		reason  string
	}{
		{"a long method", v, &v.base, long, func(*http.Request) {}, "method"},
		{"a long method, for a token", token, &token.base, long, func(*http.Request) {}, "method"},
		{"a long target", v, &v.base, http.MethodPost, func(r *http.Request) { r.RequestURI += "?" + long }, "signature"},
		{"a long external id", v, &v.base, http.MethodPost, func(r *http.Request) { r.Header.Set("X-EXTERNAL-ID", long) }, "header_format"},
		{"many accounts", brands, &brands.base, http.MethodPost, func(r *http.Request) {
			r.Header["X-Partner-Id"] = strings.Split(long, "")
		}, "header_repeated"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log strings.Builder
			test.base.Log = slog.New(slog.NewJSONHandler(&log, nil))
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, moduletest.PaymentPath, strings.NewReader(`{}`))
			r.Method = test.method
			r.Header.Set("X-TIMESTAMP", snap.Timestamp(time.Now()))
			r.Header.Set("X-PARTNER-ID", moduletest.ClientID)
			r.Header.Set("X-EXTERNAL-ID", "1")
			r.Header.Set("X-SIGNATURE", base64.StdEncoding.EncodeToString(make([]byte, snap.SignatureSize)))
			test.change(r)
			moduletest.Serve(t,
				caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error { return test.handler.ServeHTTP(w, r, nil) }), r)
			if !strings.Contains(log.String(), `"reason":"`+test.reason+`"`) || log.Len() > 2000 {
				t.Errorf("%d bytes: %.2000s", log.Len(), log.String())
			}
		})
	}
}
