package signer

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/snap"
)

// clock is a clock that tests move.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.at.Store(time.Date(2024, 3, 26, 16, 0, 0, 0, snap.WIB).UnixNano())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

// source returns a token source whose requests are answered by handler, and the
// count of them.
func source(t *testing.T, c *clock, handler http.HandlerFunc) (*TokenSource, *atomic.Int32) {
	t.Helper()
	key, err := ParsePrivateKey([]byte(testKey(t, "test-merchant-private.pem")), nil)
	if err != nil {
		t.Fatal(err)
	}
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		handler(w, r)
	}))
	t.Cleanup(server.Close)
	s, err := NewTokenSource(TokenConfig{BaseURL: server.URL, ClientID: "BRN-0", Key: key, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, &requests
}

func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

func TestTokenAnswers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		status   int
		body     string
		life     time.Duration
		err      error
		requests int32
	}{
		{"seconds as a number", 200, `{"responseCode":"2007300","accessToken":"t","expiresIn":900}`, 900 * time.Second, nil, 1},
		{"seconds as a string", 200, `{"responseCode":"2007300","accessToken":"t","expiresIn":"600"}`, 600 * time.Second, nil, 1},
		{"no expiresIn is the documented 900 s", 200, `{"accessToken":"t"}`, 900 * time.Second, nil, 1},
		{"a huge expiresIn is cut", 200, `{"accessToken":"t","expiresIn":1e18}`, 24 * time.Hour, nil, 1},
		{"zero", 200, `{"accessToken":"t","expiresIn":0}`, 0, ErrTokenAnswer, attempts},
		{"negative", 200, `{"accessToken":"t","expiresIn":-5}`, 0, ErrTokenAnswer, attempts},
		{"an empty body", 200, ``, 0, ErrTokenAnswer, attempts},
		{"no token", 200, `{"responseCode":"2007300"}`, 0, ErrTokenAnswer, attempts},
		{"a token that cannot stand in a header", 200, `{"accessToken":"a\nb"}`, 0, ErrTokenAnswer, attempts},
		{"HTML", 200, `<html>`, 0, ErrTokenAnswer, attempts},
		{"HTTP 200 with an error code", 200, `{"responseCode":"5007300","accessToken":"t"}`, 0, ErrTokenAnswer, attempts},
		{"a redirect is not followed", 302, `{}`, 0, ErrTokenAnswer, attempts},
		{"500", 500, `{"responseCode":"5007300"}`, 0, ErrTokenAnswer, attempts},
		{"a refusal is not repeated", 401, `{"responseCode":"4017300"}`, 0, ErrTokenRefused, 1},
		{"too large", 200, `{"accessToken":"` + string(make([]byte, answerLargest)) + `"}`, 0, ErrTokenAnswer, attempts},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newClock()
			s, requests := source(t, c, answer(test.status, test.body))
			token, err := s.Token(t.Context())
			if !errors.Is(err, test.err) {
				t.Fatalf("error %v, expected %v", err, test.err)
			}
			if test.err == nil && (token.Value != "t" || !token.Expires.Equal(token.Issued.Add(test.life))) {
				t.Errorf("token %+v, expected a life of %s", token, test.life)
			}
			if n := requests.Load(); n != test.requests {
				t.Errorf("%d requests, expected %d", n, test.requests)
			}
			if test.err != nil {
				if _, err := s.Token(t.Context()); !errors.Is(err, test.err) || requests.Load() != test.requests {
					t.Errorf("right after a failure: error %v, %d requests", err, requests.Load())
				}
			}
		})
	}
}

func TestTokenLife(t *testing.T) {
	t.Parallel()
	c := newClock()
	s, requests := source(t, c, answer(200, `{"accessToken":"t","expiresIn":900}`))
	if _, err := s.Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.advance(500 * time.Second)
	if _, ok := s.Current(); !ok || requests.Load() != 1 {
		t.Error("a fresh token was renewed")
	}
	c.advance(200 * time.Second)
	first := s.current.Load()
	if got, ok := s.Current(); !ok || got.Value != "t" {
		t.Error("a token due for renewal could not be used")
	}
	s.wg.Wait()
	if s.current.Load() == first || requests.Load() != 2 {
		t.Errorf("it was not renewed in the background: %d requests", requests.Load())
	}
	c.advance(900 * time.Second)
	if _, ok := s.Current(); ok {
		t.Error("an expired token was given out")
	}
}

func TestManyCallersCauseOneRequest(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	s, requests := source(t, newClock(), func(w http.ResponseWriter, r *http.Request) {
		<-release
		answer(200, `{"accessToken":"t","expiresIn":900}`)(w, r)
	})
	var wg sync.WaitGroup
	given, cancel := context.WithCancel(t.Context())
	for i := range 1000 {
		wg.Go(func() {
			if i%10 == 0 {
				if _, err := s.Token(given); err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("caller %d, who gave up: %v", i, err)
				}
				return
			}
			if _, err := s.Token(t.Context()); err != nil {
				t.Errorf("caller %d: %v", i, err)
			}
		})
	}
	cancel()
	close(release)
	wg.Wait()
	if n := requests.Load(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestInvalidateDropsOnlyTheCurrentToken(t *testing.T) {
	t.Parallel()
	s, requests := source(t, newClock(), answer(200, `{"accessToken":"t","expiresIn":900}`))
	if _, err := s.Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Invalidate("an earlier one")
	if _, ok := s.Current(); !ok {
		t.Error("the current token was dropped")
	}
	s.Invalidate("t")
	if _, err := s.Token(t.Context()); err != nil || requests.Load() != 2 {
		t.Errorf("error %v, %d requests", err, requests.Load())
	}
}

func TestCloseEndsWaiting(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	s, _ := source(t, newClock(), func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the client has gone
		close(entered)
		<-r.Context().Done()
	})
	result := make(chan error, 1)
	go func() {
		_, err := s.Token(t.Context())
		result <- err
	}()
	<-entered
	s.Close()
	if err := <-result; !errors.Is(err, ErrTokenClosed) {
		t.Errorf("error %v", err)
	}
}

func TestSignatures(t *testing.T) {
	t.Parallel()
	key, err := ParsePrivateKey([]byte(testKey(t, "test-merchant-private.pem")), nil)
	if err != nil {
		t.Fatal(err)
	}
	// Known answers, computed independently; see also testdata/vectors.json.
	got, err := Asymmetric(key, "BRN-0000-0000000000000", "2022-10-07T14:18:39+07:00")
	if err != nil || got[:32] != "IYENnQH3LVshB4bmXGqh2wEblxpi4P0s" {
		t.Errorf("asymmetric signature %s, %v", got, err)
	}
	symmetric := Symmetric(snap.NewSecret([]byte("SK-test-0123456789ABCDEF")), Call{
		Method: "GET", Target: "/orders/v1.0/transfer-va/status", Token: "testB2BtokenABC123",
		Digest: snap.Digest(nil), Timestamp: "2024-03-26T16:01:41+07:00",
	})
	if symmetric != "Ien035oWG10CP7o+Y5ThBUBeptiQBWIVe0hrVzvgcacETQEnRUeXuY5rKz3oVuNAZxflyq03AsH0RIgcsuG8MQ==" {
		t.Errorf("symmetric signature %s", symmetric)
	}
}

func TestExternalIDs(t *testing.T) {
	t.Parallel()
	now := newClock().now()
	seen := make(map[string]bool)
	for range 10_000 {
		id, err := ExternalID(now, rand.Reader)
		if err != nil || len(id) != 32 || !ValidExternalID(id) || seen[id] {
			t.Fatalf("external id %q, %v", id, err)
		}
		seen[id] = true
	}
	for id, ok := range map[string]bool{"1": true, "": false, "12a": false, "123456789012345678901234567890123456": true, "1234567890123456789012345678901234567": false} {
		if ValidExternalID(id) != ok {
			t.Errorf("ValidExternalID(%q) = %v", id, !ok)
		}
	}
}
