package tokens

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/internal/store/storetest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

const testClient = "BRN-0000-0000000000000"

// dokuFor returns a simulated DOKU that knows the merchant of these tests.
func dokuFor(t testing.TB, life time.Duration) *simulator.Simulator {
	t.Helper()
	merchant, doku := doktest.Key(t, doktest.MerchantKey), doktest.Key(t, doktest.DOKUKey)
	s, err := simulator.New(simulator.Config{TokenLife: life, Merchant: simulator.Merchant{
		ClientID: testClient, SecretKey: "SK-test", PublicKey: &merchant.PublicKey, DOKUKey: doku, PartnerServiceID: "    8808",
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sourceOf returns a token source that asks doku, with the log that it writes.
func sourceOf(t testing.TB, doku http.RoundTripper, shared store.Store) (*Source, *bytes.Buffer) {
	t.Helper()
	key := doktest.Key(t, doktest.MerchantKey)
	log := new(bytes.Buffer) // written by one fetch at a time, read when all have ended
	s, err := New(Config{
		BaseURL: "https://doku.example", ClientID: testClient, Key: key, Transport: doku, Store: shared,
		Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, log
}

// requests returns how many token requests doku has received.
func requests(doku *simulator.Simulator) (n int) {
	for _, e := range doku.Exchanges() {
		if e.Target == Path {
			n++
		}
	}
	return n
}

func TestAnswersToATokenRequest(t *testing.T) {
	t.Parallel()
	const good = 900 * time.Second
	fault := func(status int, body string) simulator.Fault { return simulator.Fault{Status: status, Body: body} }
	tests := []struct {
		name     string
		fault    simulator.Fault
		life     time.Duration
		err      error
		requests int
		logged   string // part of what the log says of it
	}{
		{"seconds as a number", fault(200, `{"responseCode":"2007300","accessToken":"t","expiresIn":900}`), good, nil, 1, ""},
		{"seconds as a string", fault(200, `{"responseCode":"2007300","accessToken":"t","expiresIn":"600"}`), 600 * time.Second, nil, 1, ""},
		{"no expiresIn is the documented 900 s", fault(200, `{"accessToken":"t"}`), good, nil, 1, ""},
		{"a huge expiresIn is not believed", fault(200, `{"accessToken":"t","expiresIn":1e18}`), good, nil, 1, "takes 900 s"},
		{"an expiresIn in milliseconds", fault(200, `{"accessToken":"t","expiresIn":900000}`), good, nil, 1, "milliseconds"},
		{"an hour is believed", fault(200, `{"accessToken":"t","expiresIn":3600}`), time.Hour, nil, 1, ""},
		{"an expiresIn with blanks", fault(200, `{"accessToken":"t","expiresIn":" 600 "}`), 600 * time.Second, nil, 1, ""},
		{"an expiresIn with a fraction", fault(200, `{"accessToken":"t","expiresIn":"600.0"}`), 600 * time.Second, nil, 1, ""},
		{"a byte order mark", fault(200, "\ufeff"+`{"responseCode":"2007300","accessToken":"t"}`), good, nil, 1, ""},
		{"HTTP 201", fault(201, `{"responseCode":"2017300","accessToken":"t"}`), good, nil, 1, ""},
		{"a token with white space around it", fault(200, `{"accessToken":" t\n"}`), good, nil, 1, ""},
		{"gzip that nobody asked for", gzipped(`{"accessToken":"t","expiresIn":"600"}`), 600 * time.Second, nil, 1, ""},
		{"a response code with blanks", fault(200, `{"responseCode":"2007300 ","accessToken":"t"}`), good, nil, 1, ""},
		{
			"a refusal with blanks", fault(200, `{"responseCode":" 4017300","accessToken":"secret-token"}`), 0, ErrUnusable, attempts, "401730",
		},
		{
			"an expiresIn beyond all numbers",
			fault(200, `{"accessToken":"secret-token","expiresIn":1e999}`),
			0,
			ErrUnusable,
			attempts,
			"expiresIn",
		},
		{"an expiresIn of zero", fault(200, `{"accessToken":"secret-token","expiresIn":0}`), 0, ErrUnusable, attempts, "expiresIn"},
		{"a negative expiresIn", fault(200, `{"accessToken":"secret-token","expiresIn":-5}`), 0, ErrUnusable, attempts, "expiresIn"},
		{"an expiresIn that is no number", fault(200, `{"accessToken":"secret-token","expiresIn":"soon"}`), 0, ErrUnusable, attempts, "soon"},
		{"an empty body", fault(200, ``), 0, ErrUnusable, attempts, "0 bytes"},
		{"no token", fault(200, `{"responseCode":"2007300"}`), 0, ErrUnusable, attempts, "without an access token"},
		{"an empty token", fault(200, `{"responseCode":"2007300","accessToken":""}`), 0, ErrUnusable, attempts, "without an access token"},
		{
			"a token that cannot stand in a header",
			fault(200, `{"accessToken":"secret-token\nX: y"}`),
			0,
			ErrUnusable,
			attempts,
			"without an access token",
		},
		{
			"HTML from a proxy",
			simulator.Fault{Status: 200, Body: "<html>", Header: http.Header{"Content-Type": {"text/html"}}},
			0,
			ErrUnusable,
			attempts,
			"text/html",
		},
		{
			"HTTP 200 with an error code",
			fault(200, `{"responseCode":"5007300","responseMessage":"General Error","accessToken":"secret-token"}`),
			0,
			ErrUnusable,
			attempts,
			"5007300",
		},
		{
			"a redirect is not followed",
			simulator.Fault{Status: 302, Body: "{}", Header: http.Header{"Location": {"https://elsewhere.example/"}}},
			0,
			ErrUnusable,
			attempts,
			"302",
		},
		{"500", fault(500, `{"responseCode":"5007300"}`), 0, ErrUnusable, attempts, "500"},
		{
			"a refusal is not repeated",
			fault(401, `{"responseCode":"4017300","responseMessage":"Unauthorized. [Signature]"}`),
			0,
			ErrRefused,
			1,
			"4017300",
		},
		{
			"more than 64 KiB",
			fault(200, `{"accessToken":"secret-token","x":"`+strings.Repeat("x", answerLargest)+`"}`),
			0,
			ErrUnusable,
			attempts,
			"65536 bytes",
		},
		{"the connection dropped", simulator.Fault{}, 0, ErrUnreachable, attempts, "dropped"},
		{
			"the connection dropped in the middle of the answer",
			simulator.Fault{Status: 200, Body: `{"accessToken":"secret-token"}`, Cut: 10},
			0,
			ErrUnusable,
			attempts,
			"unexpected EOF",
		},
		{"no answer", simulator.Fault{Status: 200, Delay: time.Hour}, 0, ErrUnreachable, attempts, "deadline exceeded"},
		{
			"an answer that drips",
			simulator.Fault{Status: 200, Body: `{"accessToken":"secret-token"}`, Drip: time.Second},
			0,
			ErrUnusable,
			attempts,
			"reading it",
		},
		{"503 once", simulator.Fault{Status: 503, Times: 1}, good, nil, 2, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				doku := dokuFor(t, 0)
				doku.SetFault(Path, &test.fault)
				s, log := sourceOf(t, doku, nil)
				defer s.Close()
				start := time.Now()
				token, err := s.Token(t.Context())
				if !errors.Is(err, test.err) {
					t.Fatalf("error %v, expected %v", err, test.err)
				}
				if took := time.Since(start); took > fetchDeadline {
					t.Errorf("it took %s", took)
				}
				if test.err == nil && token.Expires.Sub(token.Issued) != test.life {
					t.Errorf("token %+v, expected a life of %s", token, test.life)
				}
				if n := requests(doku); n > test.requests || n < 1 || test.fault.Delay == 0 && test.fault.Drip == 0 && n != test.requests {
					t.Errorf("%d requests, expected %d", n, test.requests)
				}
				if said := log.String(); !strings.Contains(said, test.logged) || strings.Contains(said, "secret-token") {
					t.Errorf("the log says %s", said)
				}
				if test.err == nil {
					return
				}
				before := requests(doku)
				if _, err := s.Token(t.Context()); !errors.Is(err, test.err) || requests(doku) != before {
					t.Errorf("right after a failure: error %v, %d requests", err, requests(doku)-before)
				}
			})
		})
	}
}

// gzipped is an answer in gzip.
func gzipped(body string) simulator.Fault {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = io.WriteString(w, body) // a buffer never fails
	_ = w.Close()
	return simulator.Fault{Status: http.StatusOK, Body: zipped.String(), Header: http.Header{"Content-Encoding": {"gzip"}}}
}

func TestTenThousandColdCallersCauseOneRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		doku := dokuFor(t, 0)
		doku.SetFault(Path, &simulator.Fault{Delay: 2 * time.Second, Normal: true})
		s, _ := sourceOf(t, doku, nil)
		defer s.Close()
		var wg sync.WaitGroup
		var had, gaveUp atomic.Int32
		for i := range 10_000 {
			wg.Go(func() {
				ctx, wait := t.Context(), 2*time.Second
				if i%10 == 0 { // these give up before the token comes
					wait = time.Duration(i) * 100 * time.Microsecond
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, wait)
					defer cancel()
				}
				start := time.Now()
				_, err := s.Token(ctx)
				switch {
				case err == nil:
					had.Add(1)
				case errors.Is(err, context.DeadlineExceeded):
					gaveUp.Add(1)
				default:
					t.Error(err)
				}
				if waited := time.Since(start); waited > wait {
					t.Errorf("caller %d waited for %s, longer than %s", i, waited, wait)
				}
			})
		}
		wg.Wait()
		if n := requests(doku); n != 1 || had.Load() != 9_000 || gaveUp.Load() != 1_000 {
			t.Errorf("%d requests; %d callers had the token, %d gave up", n, had.Load(), gaveUp.Load())
		}
	})
}

func TestInSteadyStateNobodyWaitsForAToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const life, lives, perSecond = 30 * time.Second, 20, 500
		doku := dokuFor(t, life)
		doku.SetFault(Path, &simulator.Fault{Delay: time.Second, Normal: true})
		s, _ := sourceOf(t, doku, nil)
		defer s.Close()
		if _, err := s.Token(t.Context()); err != nil {
			t.Fatal(err)
		}
		end := time.Now().Add(lives * life)
		used := make(map[string]bool)
		for time.Now().Before(end) {
			token, ok := s.Current(t.Context())
			if !ok {
				t.Fatal("a call had to wait for a token")
			}
			if !time.Now().Before(token.Expires) {
				t.Fatal("an expired token was given out")
			}
			used[token.Value] = true
			time.Sleep(time.Second / perSecond)
		}
		// Each token is replaced after about two thirds of its life, by one request.
		n := requests(doku)
		if lowest, highest := lives, lives*5/3+1; n < lowest || n > highest || n > len(used)+1 {
			t.Errorf("%d requests for %d tokens in %d lives", n, len(used), lives)
		}
	})
}

func TestATokenIsUsedToItsEndIfRenewingFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		doku := dokuFor(t, 0)
		s, _ := sourceOf(t, doku, nil)
		defer s.Close()
		first, err := s.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		doku.SetFault(Path, &simulator.Fault{Status: 500, Body: `{"responseCode":"5007300"}`})
		var last time.Time
		failed := 0
		for time.Now().Before(first.Expires.Add(10 * time.Minute)) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			start := time.Now()
			token, err := s.Token(ctx)
			cancel()
			switch {
			case err == nil && !time.Now().Before(token.Expires):
				t.Fatal("an expired token was given out")
			case err == nil:
				last = time.Now()
			case time.Since(start) > 10*time.Second:
				t.Fatalf("a caller waited for %s", time.Since(start))
			case !errors.Is(err, ErrUnusable):
				t.Fatal(err)
			default:
				failed++
			}
			time.Sleep(100 * time.Millisecond)
		}
		if first.Expires.Sub(last) > time.Second {
			t.Errorf("the token was last used at %s, though it was good until %s", last, first.Expires)
		}
		// Renewing began at some 600 s, and for 15 minutes each fetch of 3 attempts is
		// followed by a rest, soon of 30 s.
		if n := requests(doku) - 1; n > attempts*(15*60/30+6) || failed < 1000 {
			t.Errorf("DOKU got %d requests while %d callers failed", n, failed)
		}
		doku.SetFault(Path, nil)
		time.Sleep(maxBackoff)
		if _, err := s.Token(t.Context()); err != nil {
			t.Errorf("after DOKU came back: %v", err)
		}
	})
}

func TestRetryAfterIsHeeded(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				doku := dokuFor(t, 0)
				doku.SetFault(Path, &simulator.Fault{Status: status, Times: 1, Header: http.Header{"Retry-After": {"2"}}})
				s, _ := sourceOf(t, doku, nil)
				defer s.Close()
				start := time.Now()
				if _, err := s.Token(t.Context()); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took < 2*time.Second || took > 4*time.Second {
					t.Errorf("tried again after %s, expected 2 s and a little", took)
				}
			})
		})
	}
}

func TestALongRetryAfterIsARestForAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		doku := dokuFor(t, 0)
		doku.SetFault(Path, &simulator.Fault{Status: 429, Times: 1, Header: http.Header{"Retry-After": {"60"}}})
		s, _ := sourceOf(t, doku, nil)
		defer s.Close()
		start := time.Now()
		for {
			if _, err := s.Token(t.Context()); err == nil {
				break
			}
			time.Sleep(time.Second)
		}
		if took := time.Since(start); took < time.Minute || took > 62*time.Second || requests(doku) != 2 {
			t.Errorf("asked again after %s, %d requests in all", took, requests(doku))
		}
	})
}

func TestARejectedTokenIsReplacedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		doku := dokuFor(t, 0)
		s, _ := sourceOf(t, doku, nil)
		defer s.Close()
		first, err := s.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.Invalidate("an earlier one")
		if _, ok := s.Current(t.Context()); !ok {
			t.Error("the token in use was dropped for an earlier one")
		}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				s.Invalidate(first.Value)
				if token, err := s.Token(t.Context()); err != nil || token.Value == first.Value {
					t.Errorf("token %v, %v", token, err)
				}
			})
		}
		wg.Wait()
		if n := requests(doku); n != 2 {
			t.Errorf("%d requests, expected one more", n)
		}
	})
}

func TestCloseEndsWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		doku := dokuFor(t, 0)
		doku.SetFault(Path, &simulator.Fault{Delay: time.Hour})
		s, _ := sourceOf(t, doku, nil)
		result := make(chan error, 1)
		go func() {
			_, err := s.Token(t.Context())
			result <- err
		}()
		synctest.Wait()
		s.Close()
		if err := <-result; !errors.Is(err, ErrClosed) {
			t.Errorf("error %v", err)
		}
		if _, err := s.Token(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("afterwards: error %v", err)
		}
	})
}

func TestSidecarsShareAToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := store.NewMemory()
		defer memory.Close()
		doku := dokuFor(t, 0)
		doku.SetFault(Path, &simulator.Fault{Delay: time.Second, Normal: true})
		sidecars := make([]*Source, 3)
		for i := range sidecars {
			sidecars[i], _ = sourceOf(t, doku, memory)
		}
		defer func() {
			for _, s := range sidecars {
				s.Close()
			}
		}()
		all := func() (values map[string]bool) {
			values = make(map[string]bool)
			var mu sync.Mutex
			var wg sync.WaitGroup
			for i := range 30 {
				wg.Go(func() {
					token, err := sidecars[i%3].Token(t.Context())
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					defer mu.Unlock()
					values[token.Value] = true
				})
			}
			wg.Wait()
			return values
		}
		if values := all(); len(values) != 1 || requests(doku) != 1 {
			t.Errorf("%d tokens by %d requests, expected one for all", len(values), requests(doku))
		}
		// Over many lives, with each calling once a second, they stay together.
		for range 10 * 900 {
			time.Sleep(time.Second)
			for _, s := range sidecars {
				if _, ok := s.Current(t.Context()); !ok {
					t.Fatal("a call had to wait for a token")
				}
			}
		}
		if n := requests(doku); n > 1+10*5/3+1 {
			t.Errorf("%d requests in 10 lives", n)
		}
		time.Sleep(5 * time.Second)
		all()
		time.Sleep(5 * time.Second)
		if values := all(); len(values) != 1 {
			t.Errorf("%d tokens in use, expected one", len(values))
		}
		// DOKU rejects the token: the first to notice replaces it for all.
		token, _ := sidecars[0].Current(t.Context())
		before := requests(doku)
		for _, s := range sidecars {
			s.Invalidate(token.Value)
		}
		if values := all(); len(values) != 1 || values[token.Value] || requests(doku) != before+1 {
			t.Errorf("after a rejection: %d tokens by %d more requests", len(values), requests(doku)-before)
		}
	})
}

func TestASidecarThatDiesWhileFetchingBlocksOthersForSecondsOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := store.NewMemory()
		defer memory.Close()
		if _, err := memory.Claim(t.Context(), "dead", fetchLease, tokenFetchKey); err != nil {
			t.Fatal(err)
		}
		doku := dokuFor(t, 0)
		s, _ := sourceOf(t, doku, memory)
		defer s.Close()
		start := time.Now()
		if _, err := s.Token(t.Context()); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(start); waited > 5*time.Second {
			t.Errorf("waited for %s", waited)
		}
	})
}

func TestWithoutItsStoreASidecarGetsATokenByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		doku := dokuFor(t, 0)
		s, log := sourceOf(t, doku, storetest.Away{})
		defer s.Close()
		if _, err := s.Token(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !strings.Contains(log.String(), "the store is away") {
			t.Errorf("the log says %s", log)
		}
	})
}

func TestTheStateOfATokenSource(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		doku := dokuFor(t, 0)
		s, log := sourceOf(t, doku, nil)
		defer s.Close()
		if got := s.Status(); got != (Status{}) {
			t.Errorf("at first %+v", got)
		}
		start := time.Now()
		doku.SetFault(Path, &simulator.Fault{Delay: time.Second, Times: 1, Status: 401, Body: "{}"})
		go func() { _, _ = s.Token(t.Context()) }()
		synctest.Wait()
		if got := s.Status(); !got.Fetching || !got.Fetched.IsZero() {
			t.Errorf("while fetching %+v", got)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		got := s.Status()
		if got.Fetching || got.Fetched.Sub(start) != time.Second || got.Reason != ReasonFirst || !errors.Is(got.Error, ErrRefused) ||
			got.Failures != 1 || got.NextFetch.Sub(got.Fetched) != minBackoff {
			t.Errorf("after a refusal %+v", got)
		}
		if said := log.String(); !strings.Contains(said, Hint(ErrRefused)) {
			t.Errorf("the log does not say what to do: %s", said)
		}
		time.Sleep(minBackoff)
		if _, err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		got = s.Status()
		if got.Reason != ReasonForced || got.Error != nil || got.Failures != 0 || !got.NextFetch.IsZero() || got.Issued.IsZero() ||
			!got.Refresh.Before(got.Expires) {
			t.Errorf("after a fetch %+v", got)
		}
	})
}

func TestEveryErrorOfATokenSourceHasAHint(t *testing.T) {
	t.Parallel()
	seen := make(map[string]error)
	for _, err := range []error{ErrRefused, ErrUnusable, ErrUnreachable, ErrClosed} {
		hint := Hint(fmt.Errorf("wrapped: %w", err))
		if hint == "" || seen[hint] != nil {
			t.Errorf("%v: %q, which is also that of %v", err, hint, seen[hint])
		}
		seen[hint] = err
	}
}

// The version before leased the key to owners without a label.
func TestASidecarWaitsForOneOfTheVersionBeforeThatFetches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := store.NewMemory()
		defer memory.Close()
		doku := dokuFor(t, 0)
		s, _ := sourceOf(t, doku, memory)
		defer s.Close()
		claim, err := memory.Claim(t.Context(), "EARLIERVERSION", time.Minute, tokenFetchKey)
		if err != nil || !claim.Held {
			t.Fatalf("%+v, %v", claim, err)
		}
		var got Token
		var wg sync.WaitGroup
		wg.Go(func() {
			if got, err = s.Token(t.Context()); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(time.Second)
		if n := requests(doku); n != 0 {
			t.Errorf("%d token requests while another sidecar fetches", n)
		}
		theirs := sharedToken{Value: "theirs", Issued: time.Now(), Expires: time.Now().Add(time.Minute)}
		value, err := json.Marshal(theirs)
		if err != nil {
			t.Fatal(err)
		}
		if err := memory.Set(t.Context(), tokenKey, value, time.Minute); err != nil {
			t.Fatal(err)
		}
		if err := memory.Release(t.Context(), "EARLIERVERSION", tokenFetchKey); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if n := requests(doku); got.Value != "theirs" || n != 0 {
			t.Errorf("got the token %q after %d requests of its own", got.Value, n)
		}
	})
}

func TestAWaitingSidecarTakesTheTokenSoonAfterAnotherOneHasIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := store.NewMemory()
		defer memory.Close()
		doku := dokuFor(t, 0)
		doku.SetFault(Path, &simulator.Fault{Delay: 3200 * time.Millisecond, Normal: true})
		fetching, _ := sourceOf(t, doku, memory)
		defer fetching.Close()
		waiting, _ := sourceOf(t, doku, memory)
		defer waiting.Close()
		var fetched, taken time.Time
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := fetching.Token(t.Context()); err != nil {
				t.Error(err)
			}
			fetched = time.Now()
		})
		synctest.Wait() // the first one has the lease
		wg.Go(func() {
			if _, err := waiting.Token(t.Context()); err != nil {
				t.Error(err)
			}
			taken = time.Now()
		})
		wg.Wait()
		if late := taken.Sub(fetched); late > fetchPoll {
			t.Errorf("it took the token %s after it was there, expected at most %s", late, fetchPoll)
		}
		if n := requests(doku); n != 1 {
			t.Errorf("%d token requests, expected one", n)
		}
	})
}

func TestAStartingSidecarUsesTheSharedTokenWhileAnotherOneRenewsIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := store.NewMemory()
		defer memory.Close()
		doku := dokuFor(t, 0)
		renewing, _ := sourceOf(t, doku, memory)
		defer renewing.Close()
		shared, err := renewing.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(12 * time.Minute) // it is due for renewal, and good for 3 minutes more
		doku.SetFault(Path, &simulator.Fault{Delay: 7 * time.Second, Normal: true})
		if _, ok := renewing.Current(t.Context()); !ok {
			t.Fatal("the token is not used until it expires")
		}
		synctest.Wait() // the renewal has the lease
		starting, _ := sourceOf(t, doku, memory)
		defer starting.Close()
		start := time.Now()
		got, err := starting.Token(t.Context())
		if err != nil || got.Value != shared.Value {
			t.Errorf("found another token than the shared one, error %v", err)
		}
		if waited := time.Since(start); waited > 0 {
			t.Errorf("a call waited %s for a token that was there", waited)
		}
	})
}
