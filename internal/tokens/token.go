package tokens

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/caddy-doku/caddy-doku/internal/store"
)

// The life of a token, and the pause after a fetch that failed.
const (
	refreshAfter = 2.0 / 3 // of a token's life
	refreshWidth = 0.1     // of a token's life, so that sidecars don't refresh together

	restShortest = time.Second
	restLongest  = 30 * time.Second
	restMost     = 5 * time.Minute // if DOKU asks for a longer one
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

// Reason is why a token is fetched.
type Reason string

// The reasons.
const (
	ReasonFirst    Reason = "first"    // there was none
	ReasonAhead    Reason = "ahead"    // the one in use is due for renewal
	ReasonExpired  Reason = "expired"  // renewing it ahead of its end has failed, or nobody called meanwhile
	ReasonRejected Reason = "rejected" // DOKU no longer takes it
	ReasonForced   Reason = "forced"   // somebody asked for it
)

// TokenConfig says for whom and where tokens are obtained. BaseURL, ClientID and
// Key are required.
type TokenConfig struct {
	BaseURL  string // of DOKU's API, such as "https://api.doku.com"
	ClientID string
	Key      *rsa.PrivateKey // the merchant's

	// Store is where sidecars share the account's token; see [store.Scope]. Nil:
	// this one is alone.
	Store store.Store

	Transport http.RoundTripper // default: http.DefaultTransport
	Clock     *Clock            // for X-TIMESTAMP and for lives; default: this machine's
	Logger    *slog.Logger      // default: no log

	// Around is called at the start of each fetch, and the function that it returns
	// at its end: for traces and figures. fetch is the fetch's context, which it
	// may extend; cause is that of the call that made it necessary. May be nil.
	Around func(fetch, cause context.Context, reason Reason) (context.Context, func(error))
}

// TokenSource holds an account's B2B token and renews it. DOKU promises only
// the latest token of a client id to work, so one source must serve all calls
// of an account, and the sources of several sidecars must share a store. It is
// safe for concurrent use; end it with [TokenSource.Close].
//
// The token is fetched when first asked for, by one request however many wait.
// From two thirds of its life, the next call starts its renewal in the
// background; until that has succeeded the token is used to its very end, and
// never after. A fetch makes up to 3 attempts, with exponential backoff and
// jitter, heeding Retry-After; after a fetch that failed, callers that need a
// new token get its error at once for 1 to 30 s, or as long as a Retry-After
// says, up to 5 minutes, so that DOKU isn't hammered.
type TokenSource struct {
	clientID string
	key      atomic.Pointer[rsa.PrivateKey]
	url      string
	client   *retryablehttp.Client
	store    store.Store
	owner    string // of leases
	clock    *Clock
	log      *slog.Logger
	around   func(fetch, cause context.Context, reason Reason) (context.Context, func(error))

	current  atomic.Pointer[Token]
	lastLook atomic.Int64 // at the token in the store, in nanoseconds

	mu       sync.Mutex
	flight   *flight   // the fetch under way, or nil
	rejected string    // the last token that DOKU no longer took
	failed   error     // of the last fetch, if it failed
	failures uint      // in a row
	restsTil time.Time // no fetch before, after a failure
	fetched  time.Time // when the last fetch ended
	reason   Reason    // of the last fetch

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// flight is a fetch under way: done is closed when token or err is set.
type flight struct {
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
		url:      strings.TrimSuffix(cfg.BaseURL, "/") + TokenPath,
		store:    cfg.Store,
		owner:    rand.Text(),
		clock:    cfg.Clock,
		log:      cfg.Logger,
		around:   cfg.Around,
	}
	s.key.Store(cfg.Key)
	if s.clock == nil {
		s.clock = &Clock{Now: time.Now} //nolint:forbidigo // the default of an injected clock
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.around == nil {
		s.around = func(fetch, _ context.Context, _ Reason) (context.Context, func(error)) { return fetch, func(error) {} }
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.client = s.newClient(cfg.Transport)
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

// SetKey replaces the merchant's key, for the next fetch on.
func (s *TokenSource) SetKey(key *rsa.PrivateKey) { s.key.Store(key) }

// Current returns the token if there is one that may be used now, without
// waiting. Once it is due, Current starts its renewal in the background. ctx is
// of the call that needs it; its end does not matter here.
func (s *TokenSource) Current(ctx context.Context) (Token, bool) {
	t := s.current.Load()
	now := s.clock.Now()
	if t == nil || !now.Before(t.Expires) {
		return Token{}, false
	}
	if !now.Before(t.refresh) {
		s.mu.Lock()
		_, _ = s.start(ctx, now, ReasonAhead) // if it can't start, the token is still good
		s.mu.Unlock()
	}
	s.look(now) //nolint:contextcheck // it outlives the call
	return *t, true
}

// Token returns a token that may be used now, fetching one if need be. It
// waits until ctx ends at the longest; a caller that stops waiting does not
// disturb the others.
func (s *TokenSource) Token(ctx context.Context) (Token, error) {
	if t, ok := s.Current(ctx); ok {
		return t, nil
	}
	return s.wait(ctx, "")
}

// Refresh fetches a token even if the one in use is good, as an operator may
// want, and waits for it until ctx ends.
func (s *TokenSource) Refresh(ctx context.Context) (Token, error) {
	return s.wait(ctx, ReasonForced)
}

// wait joins the fetch under way or starts one, for reason, or for the one that
// the present state gives.
func (s *TokenSource) wait(ctx context.Context, reason Reason) (Token, error) {
	s.mu.Lock()
	now := s.clock.Now()
	t := s.current.Load()
	switch {
	case reason != "":
	case t != nil && now.Before(t.Expires): // a fetch has ended between the two looks
		s.mu.Unlock()
		return *t, nil
	case t != nil:
		reason = ReasonExpired
	case s.rejected != "":
		reason = ReasonRejected
	default:
		reason = ReasonFirst
	}
	f, err := s.start(ctx, now, reason)
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
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.current.Load()
	if t == nil || t.Value != value {
		return
	}
	s.current.Store(nil)
	s.rejected = value
	s.log.Info("DOKU no longer accepts the token; fetching another", "client_id", s.clientID)
}

// start returns the fetch under way or starts one. s.mu is held.
func (s *TokenSource) start(cause context.Context, now time.Time, reason Reason) (*flight, error) {
	if s.flight != nil {
		return s.flight, nil
	}
	if s.ctx.Err() != nil {
		return nil, ErrTokenClosed
	}
	f := &flight{done: make(chan struct{})}
	have, rejected := s.current.Load(), s.rejected
	if s.failed != nil && now.Before(s.restsTil) {
		resting := fmt.Errorf("%w (next attempt in %s)", s.failed, s.restsTil.Sub(now).Round(100*time.Millisecond))
		if s.store == nil {
			return nil, resting
		}
		// Another sidecar may have had more luck.
		s.flight = f
		s.wg.Go(func() { //nolint:contextcheck // it outlives the call, as a fetch does
			ctx, cancel := context.WithTimeout(s.ctx, lookTimeout)
			defer cancel()
			if f.token = s.kept(ctx, have, rejected); f.token == nil {
				f.err = resting
			}
			s.settle(f)
		})
		return f, nil
	}
	s.flight = f
	ctx, end := s.around(s.ctx, cause, reason)
	s.wg.Go(func() {
		f.token, f.err = s.obtain(ctx, have, rejected, reason == ReasonForced)
		end(f.err)
		s.judge(ctx, f, reason)
		s.settle(f)
	})
	return f, nil
}

// judge takes note of how a fetch went. ctx is the fetch's.
func (s *TokenSource) judge(ctx context.Context, f *flight, reason Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetched, s.reason = s.clock.Now(), reason
	if f.err == nil {
		s.log.InfoContext(ctx, "got a B2B token", "client_id", s.clientID, "reason", reason, "expires", f.token.Expires)
		return
	}
	rest := min(restShortest<<min(s.failures, 5), restLongest)
	if later, ok := errors.AsType[*laterError](f.err); ok {
		rest = max(rest, later.after)
	}
	s.failed, s.failures, s.restsTil = f.err, s.failures+1, s.fetched.Add(rest)
	s.log.ErrorContext(ctx, "no B2B token", "client_id", s.clientID, "reason", reason, "error", f.err, "hint", Hint(f.err), "next_attempt_in", rest)
}

// Hint returns what an operator can do about an error of [TokenSource.Token].
func Hint(err error) string {
	switch {
	case errors.Is(err, ErrTokenRefused):
		return "check client_id and environment, that the public half of private_key is the one in DOKU's dashboard, and this machine's clock"
	case errors.Is(err, ErrTokenAnswer):
		return "DOKU, or a proxy on the way to it, is not well; if it lasts, ask DOKU"
	case errors.Is(err, ErrTokenClosed):
		return "the configuration was replaced meanwhile; try again"
	}
	return "check that this machine reaches DOKU: DNS, firewall, proxy, TLS"
}

// settle takes over the token that a flight has brought, if any, and wakes those
// who wait for it.
func (s *TokenSource) settle(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flight = nil
	if f.err == nil {
		s.current.Store(f.token)
		s.failed, s.failures, s.rejected = nil, 0, ""
	}
	close(f.done)
}

// TokenStatus is the state of a [TokenSource], for whoever looks after it.
type TokenStatus struct {
	Issued   time.Time // of the token in use; zero if there is none
	Expires  time.Time
	Refresh  time.Time // when it will be renewed, by the next call
	Error    error     // of the last fetch, if it failed
	Failures uint      // in a row
	RestsTil time.Time // after a failure, when the next fetch may begin
	Fetching bool      // whether a fetch is under way
	Fetched  time.Time // when the last fetch ended, well or not; zero before the first
	Reason   Reason    // of the last fetch
}

// Status returns the present state.
func (s *TokenSource) Status() TokenStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := TokenStatus{Error: s.failed, Failures: s.failures, Fetching: s.flight != nil, Fetched: s.fetched, Reason: s.reason}
	if s.failed != nil {
		status.RestsTil = s.restsTil
	}
	if t := s.current.Load(); t != nil {
		status.Issued, status.Expires, status.Refresh = t.Issued, t.Expires, t.refresh
	}
	return status
}
