// Package tokens holds an account's B2B token: it fetches it from DOKU, renews it ahead
// of its end, and shares it with the account's other sidecars. It also keeps DOKU's
// clock, as far as answers tell it.
package tokens

import (
	"context"
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

// When a token is renewed, and the pause after a failed fetch.
const (
	refreshAfter = 2.0 / 3 // of a token's life
	refreshWidth = 0.1     // of a token's life, so that sidecars do not refresh together

	minBackoff    = time.Second
	maxBackoff    = 30 * time.Second
	maxRetryAfter = 5 * time.Minute // of the pauses that DOKU asks for
)

// Errors of a token that is not available. An error of [Source.Token] wraps one of these
// or the context's error.
var (
	ErrRefused     = errors.New("DOKU refused the token request")
	ErrUnusable    = errors.New("DOKU's answer to the token request is unusable")
	ErrUnreachable = errors.New("DOKU could not be reached for a token")
	ErrClosed      = errors.New("the token source is closed")
)

// Token is a B2B token of an account.
type Token struct {
	Value   string    // without "Bearer "
	Issued  time.Time // when the sidecar asked for it
	Expires time.Time // it must not be used at or after this instant

	refresh time.Time // from then on, the next call renews it in the background
}

// Reason is why a token is fetched.
type Reason string

// The reasons.
const (
	ReasonFirst    Reason = "first"    // there was none
	ReasonAhead    Reason = "ahead"    // the one in use is due for renewal
	ReasonExpired  Reason = "expired"  // its renewal failed, or there was no call meanwhile
	ReasonRejected Reason = "rejected" // DOKU no longer accepts it
	ReasonForced   Reason = "forced"   // an operator asked for it
)

// Config says for whom and where a source fetches tokens. BaseURL, ClientID and Key are
// required.
type Config struct {
	BaseURL  string // of DOKU's API, such as "https://api.doku.com"
	ClientID string
	Key      *rsa.PrivateKey // the merchant's

	// Store is where sidecars share the account's token; see [store.Scope]. Nil: there is
	// no other sidecar.
	Store store.Store

	Transport http.RoundTripper // default: http.DefaultTransport
	Clock     *Clock            // for X-TIMESTAMP and for lives; default: this machine's
	Logger    *slog.Logger      // default: no log

	// Around is called at the start of each fetch, and the function that it returns at its
	// end, for traces and metrics. fetch is the fetch's context, which it may extend. cause
	// is the context of the call that needs the token. May be nil.
	Around func(fetch, cause context.Context, reason Reason) (context.Context, func(error))
}

// Source holds an account's B2B token and renews it. DOKU promises only that the latest
// token of a client id works: one source must serve all calls of an account, and the
// sources of several sidecars must share a store. It is safe for concurrent use; end it
// with [Source.Close].
//
// The first call fetches the token, with one request for all callers that wait. After
// two thirds of its life, the next call renews it in the background. If that fails, the
// token is used until it expires, and never after. A fetch makes up to 3 attempts, with
// exponential backoff and jitter, and obeys Retry-After. After a failed fetch, callers
// that need a new token get its error at once for 1 to 30 s, or as long as Retry-After
// says, up to 5 minutes, so that DOKU is not flooded.
type Source struct {
	clientID string
	key      atomic.Pointer[rsa.PrivateKey]
	url      string
	client   *retryablehttp.Client
	store    store.Store
	locks    *store.Locks // of the store; nil without one
	clock    *Clock
	log      *slog.Logger
	around   func(fetch, cause context.Context, reason Reason) (context.Context, func(error))

	current  atomic.Pointer[Token]
	lastLook atomic.Int64 // time of the last look into the store, in nanoseconds

	mu        sync.Mutex
	flight    *flight   // the fetch under way, or nil
	rejected  string    // the last token that DOKU no longer accepted
	failed    error     // of the last fetch, if it failed
	failures  uint      // in a row
	nextFetch time.Time // after a failure: no fetch before
	fetched   time.Time // when the last fetch ended
	reason    Reason    // of the last fetch

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

// New returns a source without a token. It does not use the network.
func New(cfg Config) (*Source, error) {
	if cfg.BaseURL == "" || cfg.ClientID == "" || cfg.Key == nil {
		return nil, errors.New("token source: base URL, client id and private key are required")
	}
	s := &Source{
		clientID: cfg.ClientID,
		url:      strings.TrimSuffix(cfg.BaseURL, "/") + Path,
		store:    cfg.Store,
		clock:    cfg.Clock,
		log:      cfg.Logger,
		around:   cfg.Around,
	}
	s.key.Store(cfg.Key)
	if s.store != nil {
		s.locks = store.NewLocks(s.store, fetchLease)
	}
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

// Close ends a fetch under way and waits for it. Callers that wait for a token get
// [ErrClosed].
func (s *Source) Close() {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	s.wg.Wait()
	s.client.HTTPClient.CloseIdleConnections()
}

// SetKey replaces the merchant's key, from the next fetch on.
func (s *Source) SetKey(key *rsa.PrivateKey) { s.key.Store(key) }

// Current returns the token if there is a valid one, without waiting. If it is due,
// Current starts its renewal in the background. ctx is the context of the call that
// needs it; Current ignores its end.
func (s *Source) Current(ctx context.Context) (Token, bool) {
	t := s.current.Load()
	now := s.clock.Now()
	if t == nil || !now.Before(t.Expires) {
		return Token{}, false
	}
	if !now.Before(t.refresh) {
		s.mu.Lock()
		_, _ = s.start(ctx, now, ReasonAhead) // if it cannot start, the token is still valid
		s.mu.Unlock()
	}
	s.look(now) //nolint:contextcheck // it outlives the call
	return *t, true
}

// Token returns a valid token, and fetches one if there is none. It waits until ctx ends.
// A caller that stops waiting does not disturb the others.
func (s *Source) Token(ctx context.Context) (Token, error) {
	if t, ok := s.Current(ctx); ok {
		return t, nil
	}
	return s.wait(ctx, "")
}

// Refresh fetches a token even if the one in use is valid, and waits for it until ctx
// ends.
func (s *Source) Refresh(ctx context.Context) (Token, error) {
	return s.wait(ctx, ReasonForced)
}

// wait waits for the fetch under way, or starts one. Without a reason, the state gives
// it.
func (s *Source) wait(ctx context.Context, reason Reason) (Token, error) {
	s.mu.Lock()
	now := s.clock.Now()
	t := s.current.Load()
	switch {
	case reason != "":
	case t != nil && now.Before(t.Expires): // a fetch has ended meanwhile
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

// Invalidate drops the token with this value, which DOKU has rejected, if it is still
// the current one. The next call fetches another.
func (s *Source) Invalidate(value string) {
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
func (s *Source) start(cause context.Context, now time.Time, reason Reason) (*flight, error) {
	if s.flight != nil {
		return s.flight, nil
	}
	if s.ctx.Err() != nil {
		return nil, ErrClosed
	}
	f := &flight{done: make(chan struct{})}
	have, rejected := s.current.Load(), s.rejected
	if s.failed != nil && now.Before(s.nextFetch) {
		pausing := fmt.Errorf("%w (next attempt in %s)", s.failed, s.nextFetch.Sub(now).Round(100*time.Millisecond))
		if s.store == nil {
			return nil, pausing
		}
		// Another sidecar may have fetched one.
		s.flight = f
		s.wg.Go(func() { //nolint:contextcheck // it outlives the call, as a fetch does
			ctx, cancel := context.WithTimeout(s.ctx, lookTimeout)
			defer cancel()
			if f.token = s.kept(ctx, have, rejected); f.token == nil {
				f.err = pausing
			}
			s.finish(f)
		})
		return f, nil
	}
	s.flight = f
	ctx, end := s.around(s.ctx, cause, reason)
	s.wg.Go(func() {
		f.token, f.err = s.obtain(ctx, have, rejected, reason == ReasonForced)
		end(f.err)
		s.noteResult(ctx, f, reason)
		s.finish(f)
	})
	return f, nil
}

// noteResult records the result of a fetch, whose context is ctx.
func (s *Source) noteResult(ctx context.Context, f *flight, reason Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetched, s.reason = s.clock.Now(), reason
	if f.err == nil {
		s.log.InfoContext(ctx, "got a B2B token", "client_id", s.clientID, "reason", reason, "expires", f.token.Expires)
		return
	}
	backoff := min(minBackoff<<min(s.failures, 5), maxBackoff)
	if later, ok := errors.AsType[*laterError](f.err); ok {
		backoff = max(backoff, later.after)
	}
	s.failed, s.failures, s.nextFetch = f.err, s.failures+1, s.fetched.Add(backoff)
	s.log.ErrorContext(ctx, "no B2B token", "client_id", s.clientID, "reason", reason, "error", f.err, "hint", Hint(f.err), "next_attempt_in",
		backoff)
}

// Hint returns what an operator can do about an error of [Source.Token].
func Hint(err error) string {
	switch {
	case errors.Is(err, ErrRefused):
		return "check client_id and environment, that the public half of private_key is the one in DOKU's dashboard, and this machine's clock; " +
			"a changed file is used within seconds, a changed variable ({env.…}) after a restart"
	case errors.Is(err, ErrUnusable):
		return "DOKU, or a proxy on the way to it, is not well; if it lasts, ask DOKU"
	case errors.Is(err, ErrClosed):
		return "the configuration was replaced meanwhile; try again"
	}
	return "check that this machine reaches DOKU: DNS, firewall, proxy, TLS"
}

// finish makes the fetched token the current one, and wakes the callers that wait.
func (s *Source) finish(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flight = nil
	if f.err == nil {
		s.current.Store(f.token)
		s.failed, s.failures, s.rejected = nil, 0, ""
	}
	close(f.done)
}

// Status is the state of a [Source].
type Status struct {
	Issued    time.Time // of the token in use; zero if there is none
	Expires   time.Time
	Refresh   time.Time // from when on the next call renews it
	Error     error     // of the last fetch, if it failed
	Failures  uint      // in a row
	NextFetch time.Time // after a failure: when the next fetch may start
	Fetching  bool      // whether a fetch is under way
	Fetched   time.Time // when the last fetch ended, with or without success; zero before the first
	Reason    Reason    // of the last fetch
}

// Status returns the present state.
func (s *Source) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := Status{Error: s.failed, Failures: s.failures, Fetching: s.flight != nil, Fetched: s.fetched, Reason: s.reason}
	if s.failed != nil {
		status.NextFetch = s.nextFetch
	}
	if t := s.current.Load(); t != nil {
		status.Issued, status.Expires, status.Refresh = t.Issued, t.Expires, t.refresh
	}
	return status
}
