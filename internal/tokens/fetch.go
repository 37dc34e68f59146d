package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/caddy-doku/caddy-doku/signer"
	"github.com/caddy-doku/caddy-doku/snap"
)

// A token request ("Get Token B2B" on DOKU's pages), and how often it is made.
const (
	Path = "/authorization/v1/access-token/b2b"

	defaultLife = 900 * time.Second // DOKU documents this; used if the answer names none
	longestLife = time.Hour         // a longer one is not believed: it is more likely in milliseconds

	fetchDeadline   = 20 * time.Second // for all attempts of one fetch
	attemptDeadline = 8 * time.Second
	attempts        = 3
	backoffShortest = 250 * time.Millisecond
	backoffLongest  = 3 * time.Second

	answerLargest = 64 << 10
)

func (s *Source) newClient(transport http.RoundTripper) *retryablehttp.Client {
	if transport == nil {
		transport = http.DefaultTransport
	}
	return &retryablehttp.Client{
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
}

// fetch asks DOKU for a token.
func (s *Source) fetch(ctx context.Context) (*Token, error) {
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
	if err := s.sign(req.Request); err != nil {
		return nil, err
	}
	resp, err := s.client.Do(req)
	if resp != nil {
		resp.Body.Close()
	}
	if err != nil {
		if s.ctx.Err() != nil {
			return nil, ErrClosed
		}
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return answer.token, answer.err
}

// sign gives a token request, at each attempt, its time and signature.
func (s *Source) sign(req *http.Request) error {
	req.Context().Value(answerKey{}).(*tokenAnswer).asked = s.clock.Now()
	req.Header = req.Header.Clone() // the attempt before may still be reading it
	return signer.SignTokenRequest(req.Header, s.key.Load(), s.clientID, s.clock.Time())
}

// answerKey carries a *tokenAnswer from fetch to check, which sees every response and
// reads its body.
type answerKey struct{}

type tokenAnswer struct {
	asked time.Time // when the last attempt was made
	token *Token
	err   error
}

// check reads an answer and decides whether to try again: yes if DOKU could
// not be reached, is overloaded or failing, or answered 200 without a token; no if it
// refused, because it would refuse the next attempt too.
func (s *Source) check(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		return retryablehttp.DefaultRetryPolicy(ctx, resp, err)
	}
	answer := ctx.Value(answerKey{}).(*tokenAnswer)
	s.clock.Observe(answer.asked, s.clock.Now(), resp.Header)
	answer.token, answer.err = s.read(ctx, resp, answer.asked)
	if wait := retryAfter(resp); answer.err != nil && wait > backoffLongest {
		answer.err = &laterError{answer.err, min(wait, maxRetryAfter)}
		return false, nil
	}
	return answer.err != nil && !errors.Is(answer.err, ErrRefused), nil
}

// read returns the token in a DOKU answer to a request made at asked.
func (s *Source) read(ctx context.Context, resp *http.Response, asked time.Time) (*Token, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, answerLargest+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: reading it: %w", ErrUnusable, err)
	case len(body) > answerLargest:
		return nil, fmt.Errorf("%w: HTTP %d with more than %d bytes", ErrUnusable, resp.StatusCode, answerLargest)
	}
	var fields struct {
		ResponseCode    snap.ResponseCode `json:"responseCode"`
		ResponseMessage string            `json:"responseMessage"`
		AccessToken     string            `json:"accessToken"`
		ExpiresIn       json.RawMessage   `json:"expiresIn"`
	}
	body = snap.PlainJSON(strings.Join(resp.Header.Values("Content-Encoding"), ", "), body, answerLargest)
	if err := json.Unmarshal(body, &fields); err != nil {
		kind := ErrUnusable
		if refusal(resp.StatusCode) {
			kind = ErrRefused
		}
		return nil, fmt.Errorf("%w: HTTP %d with %s of %d bytes, expected JSON", kind, resp.StatusCode, mediaType(resp.Header), len(body))
	}
	said := fmt.Sprintf("HTTP %d, response code %.7q, %.150q", resp.StatusCode, string(fields.ResponseCode), fields.ResponseMessage)
	if refusal(resp.StatusCode) {
		return nil, fmt.Errorf("%w: %s", ErrRefused, said)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 || saysNo(fields.ResponseCode) {
		return nil, fmt.Errorf("%w: %s", ErrUnusable, said)
	}
	token := strings.TrimSpace(fields.AccessToken)
	if !validToken(token) {
		return nil, fmt.Errorf("%w: %s, without an access token that fits a header", ErrUnusable, said)
	}
	life, err := lifetime(fields.ExpiresIn)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	if life > longestLife {
		s.log.WarnContext(ctx, "DOKU names a life of its token that cannot be; the sidecar takes 900 s", "client_id", s.clientID,
			"expires_in", life.Seconds(), "hint", "DOKU documents 900 s; it may have written milliseconds")
		life = defaultLife
	}
	// The life counts from before the request left, so that DOKU's end of it never comes first.
	return newToken(token, asked, asked.Add(life)), nil
}

// saysNo reports whether a response code, in any form, is one of a refusal or failure.
func saysNo(code snap.ResponseCode) bool {
	text := strings.TrimSpace(string(code))
	return text != "" && strings.IndexByte("1345", text[0]) >= 0
}

// newToken returns a token that is due for renewal after two thirds of its life,
// more or less.
func newToken(value string, issued, expires time.Time) *Token {
	share := refreshAfter + refreshWidth*(rand.Float64()-0.5) //nolint:gosec // spreads load, guards nothing
	return &Token{
		Value:   value,
		Issued:  issued,
		Expires: expires,
		refresh: issued.Add(time.Duration(float64(expires.Sub(issued)) * share)),
	}
}

// refusal reports whether the same token request would get the same answer again. 409
// is none: another sidecar may ask at the same moment.
func refusal(status int) bool {
	return 400 <= status && status < 500 && !snap.Retryable(status) && status != http.StatusConflict
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
// and software show both. Absent, it is the documented 900 s. More than a day is a day.
func lifetime(raw json.RawMessage) (time.Duration, error) {
	text := strings.TrimSpace(strings.Trim(string(raw), `"`))
	if text == "" || text == "null" {
		return defaultLife, nil
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(seconds) || seconds < 1 {
		return 0, fmt.Errorf("expiresIn: expected a positive number of seconds, found %.20q", text)
	}
	return time.Duration(min(seconds, (24*time.Hour).Seconds())) * time.Second, nil
}

// retryAfter returns the Retry-After of a 429 or 503, or 0.
func retryAfter(resp *http.Response) time.Duration {
	if resp == nil || resp.Header.Get("Retry-After") == "" {
		return 0
	}
	return retryablehttp.DefaultBackoff(0, 0, 0, resp)
}

// laterError is err, with the Retry-After of the answer.
type laterError struct {
	err   error
	after time.Duration
}

func (e *laterError) Error() string { return e.err.Error() }
func (e *laterError) Unwrap() error { return e.err }

// backoff doubles from backoffShortest to backoffLongest with jitter of up to
// half of it, or is a little more than Retry-After.
func backoff(shortest, longest time.Duration, attempt int, resp *http.Response) time.Duration {
	if wait := retryAfter(resp); wait > 0 {
		return wait + rand.N(shortest) //nolint:gosec // spreads load, guards nothing
	}
	wait := retryablehttp.DefaultBackoff(shortest, longest, attempt, nil)
	return wait/2 + rand.N(wait/2+1) //nolint:gosec // spreads load, guards nothing
}
