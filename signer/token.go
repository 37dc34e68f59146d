package signer

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/caddy-doku/caddy-doku/snap"
)

// The token's dealings with DOKU ("Get Token B2B" on DOKU's pages), and what
// happens when they fail.
const (
	TokenPath = "/authorization/v1/access-token/b2b"

	defaultLife  = 900 * time.Second // what DOKU documents; used if the answer names none
	longestLife  = 24 * time.Hour
	refreshAfter = 2.0 / 3 // of a token's life
	refreshWidth = 0.1     // of a token's life, so that replicas don't refresh together

	fetchDeadline   = 20 * time.Second // for all attempts of one fetch
	attemptDeadline = 8 * time.Second
	attempts        = 3
	backoffShortest = 250 * time.Millisecond
	backoffLongest  = 3 * time.Second
	restShortest    = time.Second // after a failed fetch, before the next
	restLongest     = 30 * time.Second

	answerLargest = 64 << 10
)

// Errors of a token that can't be had. An error of [TokenSource.Token] wraps
// one of these or the context's error.
var (
	ErrTokenRefused     = errors.New("DOKU refused the token request")
	ErrTokenAnswer      = errors.New("DOKU's answer to the token request is unusable")
	ErrTokenUnreachable = errors.New("DOKU could not be reached for a token")
	ErrTokenClosed      = errors.New("the token source is closed")
)

// Token is a B2B token of an account.
type Token struct {
	Value   string    // without "Bearer "
	Issued  time.Time // when it was asked for
	Expires time.Time // it must not be used at or after this instant

	refresh time.Time // from then on it is renewed in the background
}

// TokenConfig says for whom and where tokens are obtained. All fields but
// the last three are required.
type TokenConfig struct {
	BaseURL  string // of DOKU's API, such as "https://api.doku.com"
	ClientID string
	Key      *rsa.PrivateKey // the merchant's

	Transport http.RoundTripper // default: http.DefaultTransport
	Now       func() time.Time  // default: time.Now
	Logger    *slog.Logger      // default: no log
}

// TokenSource holds an account's B2B token and renews it. DOKU promises only
// the latest token of a client id to work, so one source must serve all calls
// of an account. It is safe for concurrent use; end it with [TokenSource.Close].
//
// The token is fetched when first asked for, by one request however many wait.
// From two thirds of its life, the next call starts its renewal in the
// background; until that has succeeded the token is used to its very end, and
// never after. A fetch makes up to 3 attempts, with exponential backoff and
// jitter, heeding Retry-After; after a fetch that failed, callers that need a
// new token get its error at once for 1 to 30 s, so that DOKU isn't hammered.
type TokenSource struct {
	clientID string
	key      *rsa.PrivateKey
	url      string
	client   *retryablehttp.Client
	now      func() time.Time
	log      *slog.Logger

	current atomic.Pointer[Token]

	mu       sync.Mutex
	flight   *fetch    // in progress, or nil
	failed   error     // of the last fetch, if it failed
	failures uint      // in a row
	restsTil time.Time // no fetch before, after a failure

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// fetch is a token request under way: done is closed when token or err is set.
type fetch struct {
	done  chan struct{}
	token *Token
	err   error
}

// NewTokenSource returns a source without a token. It does not use the network.
func NewTokenSource(cfg TokenConfig) (*TokenSource, error) {
	if cfg.BaseURL == "" || cfg.ClientID == "" || cfg.Key == nil {
		return nil, errors.New("token source: base URL, client id and private key are required")
	}
	s := &TokenSource{
		clientID: cfg.ClientID,
		key:      cfg.Key,
		url:      strings.TrimSuffix(cfg.BaseURL, "/") + TokenPath,
		now:      cfg.Now,
		log:      cfg.Logger,
	}
	if s.now == nil {
		s.now = time.Now //nolint:forbidigo // the default of an injected clock
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	transport := cfg.Transport
	if transport == nil {
		transport = http.DefaultTransport
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.client = &retryablehttp.Client{
		HTTPClient: &http.Client{
			Transport:     transport,
			Timeout:       attemptDeadline,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		RetryMax:     attempts - 1,
		RetryWaitMin: backoffShortest,
		RetryWaitMax: backoffLongest,
		Backoff:      backoff,
		CheckRetry:   s.check,
		PrepareRetry: s.sign,
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
	return s, nil
}

// Close ends a fetch under way and waits for it. Callers waiting for a token
// get [ErrTokenClosed].
func (s *TokenSource) Close() {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	s.wg.Wait()
	s.client.HTTPClient.CloseIdleConnections()
}

// Current returns the token if there is one that may be used now, without
// waiting. Once it is due, Current starts its renewal in the background.
func (s *TokenSource) Current() (Token, bool) {
	t := s.current.Load()
	now := s.now()
	if t == nil || !now.Before(t.Expires) {
		return Token{}, false
	}
	if !now.Before(t.refresh) {
		s.mu.Lock()
		_, _ = s.startFetch(now)
		s.mu.Unlock()
	}
	return *t, true
}

// Token returns a token that may be used now, fetching one if need be. It
// waits until ctx ends at the longest; a caller that stops waiting does not
// disturb the others.
func (s *TokenSource) Token(ctx context.Context) (Token, error) {
	if t, ok := s.Current(); ok {
		return t, nil
	}
	s.mu.Lock()
	// The fetch waited for may have ended between the two looks.
	if t := s.current.Load(); t != nil && s.now().Before(t.Expires) {
		s.mu.Unlock()
		return *t, nil
	}
	f, err := s.startFetch(s.now())
	s.mu.Unlock()
	if err != nil {
		return Token{}, err
	}
	select {
	case <-f.done:
		if f.err != nil {
			return Token{}, f.err
		}
		return *f.token, nil
	case <-ctx.Done():
		return Token{}, fmt.Errorf("waiting for a token: %w", context.Cause(ctx))
	}
}

// Invalidate drops the token whose value is given, which DOKU has called
// invalid, if it is still the current one. The next call then fetches anew.
func (s *TokenSource) Invalidate(value string) {
	t := s.current.Load()
	if t != nil && t.Value == value && s.current.CompareAndSwap(t, nil) {
		s.log.Info("DOKU no longer accepts the token; fetching another", "client_id", s.clientID)
	}
}

// startFetch returns the fetch under way or starts one. s.mu is held.
func (s *TokenSource) startFetch(now time.Time) (*fetch, error) {
	if s.flight != nil {
		return s.flight, nil
	}
	if s.ctx.Err() != nil {
		return nil, ErrTokenClosed
	}
	if s.failed != nil && now.Before(s.restsTil) {
		return nil, fmt.Errorf("%w (next attempt in %s)", s.failed, s.restsTil.Sub(now).Round(100*time.Millisecond))
	}
	f := &fetch{done: make(chan struct{})}
	s.flight = f
	s.wg.Go(func() {
		f.token, f.err = s.fetch(s.ctx)
		s.settle(f)
	})
	return f, nil
}

// settle takes over what a fetch has brought and wakes those who wait for it.
func (s *TokenSource) settle(f *fetch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flight = nil
	if f.err == nil {
		s.current.Store(f.token)
		s.failed, s.failures = nil, 0
		s.log.Info("got a B2B token", "client_id", s.clientID, "expires", f.token.Expires)
	} else {
		rest := min(restShortest<<min(s.failures, 5), restLongest)
		s.failed, s.failures, s.restsTil = f.err, s.failures+1, s.now().Add(rest)
		s.log.Error("no B2B token", "client_id", s.clientID, "error", f.err, "next_attempt_in", rest)
	}
	close(f.done)
}

// fetch asks DOKU for a token.
func (s *TokenSource) fetch(ctx context.Context) (*Token, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchDeadline)
	defer cancel()

	answer := new(tokenAnswer)
	req, err := retryablehttp.NewRequestWithContext(context.WithValue(ctx, answerKey{}, answer),
		http.MethodPost, s.url, []byte(`{"grantType":"client_credentials"}`))
	if err != nil {
		return nil, fmt.Errorf("making token request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set(snap.HeaderClientKey, s.clientID)
	if err := s.sign(req.Request); err != nil {
		return nil, err
	}
	resp, err := s.client.Do(req)
	if resp != nil {
		resp.Body.Close()
	}
	if err != nil {
		if s.ctx.Err() != nil {
			return nil, ErrTokenClosed
		}
		return nil, fmt.Errorf("%w: %w", ErrTokenUnreachable, err)
	}
	return answer.token, answer.err
}

// sign gives a token request, at each attempt, its time and signature.
func (s *TokenSource) sign(req *http.Request) error {
	timestamp := snap.Timestamp(s.now())
	signature, err := Asymmetric(s.key, s.clientID, timestamp)
	if err != nil {
		return err
	}
	req.Header = req.Header.Clone() // the attempt before may still be reading it
	req.Header.Set(snap.HeaderTimestamp, timestamp)
	req.Header.Set(snap.HeaderSignature, signature)
	return nil
}

// answerKey carries a *tokenAnswer from fetch to check, which sees every
// response and so is the place where its body is read.
type answerKey struct{}

type tokenAnswer struct {
	token *Token
	err   error
}

// check reads an answer and decides whether to try again: yes if DOKU could
// not be reached, is overloaded or failing, or answered 200 without a token;
// no if it refused, for then the next attempt would be refused too.
func (s *TokenSource) check(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		return retryablehttp.DefaultRetryPolicy(ctx, resp, err)
	}
	answer := ctx.Value(answerKey{}).(*tokenAnswer)
	answer.token, answer.err = s.read(resp)
	return answer.err != nil && !errors.Is(answer.err, ErrTokenRefused), nil
}

// read turns an answer of DOKU's into a token.
func (s *TokenSource) read(resp *http.Response) (*Token, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, answerLargest+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: reading it: %w", ErrTokenAnswer, err)
	case len(body) > answerLargest:
		return nil, fmt.Errorf("%w: HTTP %d with more than %d bytes", ErrTokenAnswer, resp.StatusCode, answerLargest)
	}
	var fields struct {
		ResponseCode    snap.ResponseCode `json:"responseCode"`
		ResponseMessage string            `json:"responseMessage"`
		AccessToken     string            `json:"accessToken"`
		ExpiresIn       json.RawMessage   `json:"expiresIn"`
	}
	if err := json.Unmarshal(body, &fields); err != nil {
		kind := ErrTokenAnswer
		if refusal(resp.StatusCode) {
			kind = ErrTokenRefused
		}
		return nil, fmt.Errorf("%w: HTTP %d with %s of %d bytes, expected JSON", kind, resp.StatusCode, mediaType(resp.Header), len(body))
	}
	said := fmt.Sprintf("HTTP %d, response code %.7q, %.150q", resp.StatusCode, string(fields.ResponseCode), fields.ResponseMessage)
	if refusal(resp.StatusCode) {
		return nil, fmt.Errorf("%w: %s", ErrTokenRefused, said)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: %s", ErrTokenAnswer, said)
	}
	if status, _, ok := fields.ResponseCode.Case(); ok && status != http.StatusOK {
		return nil, fmt.Errorf("%w: %s", ErrTokenAnswer, said)
	}
	if !validToken(fields.AccessToken) {
		return nil, fmt.Errorf("%w: %s, without an access token that fits a header", ErrTokenAnswer, said)
	}
	life, err := lifetime(fields.ExpiresIn)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTokenAnswer, err)
	}
	// The life counts from before the request left, so that DOKU's end of it never comes first.
	asked, err := snap.ParseTimestamp(resp.Request.Header.Get(snap.HeaderTimestamp))
	if err != nil {
		return nil, err
	}
	share := refreshAfter + refreshWidth*(rand.Float64()-0.5) //nolint:gosec // spreads load, guards nothing
	return &Token{
		Value:   fields.AccessToken,
		Issued:  asked,
		Expires: asked.Add(life),
		refresh: asked.Add(time.Duration(float64(life) * share)),
	}, nil
}

// refusal reports whether a token request answered with status would be
// answered the same if repeated as it is.
func refusal(status int) bool {
	return 400 <= status && status < 500 &&
		status != http.StatusRequestTimeout && status != http.StatusTooManyRequests && status != http.StatusConflict
}

func mediaType(h http.Header) string {
	if t, _, err := mime.ParseMediaType(h.Get("Content-Type")); err == nil {
		return t
	}
	return "an unnamed type"
}

// validToken reports whether token is not empty and can stand in a header and
// in a string to sign: visible ASCII.
func validToken(token string) bool {
	for i := range len(token) {
		if token[i] <= ' ' || token[i] > '~' {
			return false
		}
	}
	return token != ""
}

// lifetime reads expiresIn, seconds as a number or as a string: DOKU's pages
// and software show both. Absent, it is the documented 900 s.
func lifetime(raw json.RawMessage) (time.Duration, error) {
	text := strings.Trim(string(raw), `"`)
	if text == "" || text == "null" {
		return defaultLife, nil
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(seconds) || seconds < 1 {
		return 0, fmt.Errorf("expiresIn: expected a positive number of seconds, found %.20q", text)
	}
	return time.Duration(min(seconds, longestLife.Seconds())) * time.Second, nil
}

// backoff doubles from backoffShortest to backoffLongest with jitter of up to
// a half, or waits as long as a Retry-After says, within backoffLongest: a
// longer one is left to the pause between fetches.
func backoff(shortest, longest time.Duration, attempt int, resp *http.Response) time.Duration {
	wait := retryablehttp.DefaultBackoff(shortest, longest, attempt, resp)
	if wait > longest {
		return longest
	}
	return wait/2 + rand.N(wait/2+1) //nolint:gosec // spreads load, guards nothing
}
