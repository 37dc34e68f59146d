package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/internal/tokens"
	"github.com/caddy-doku/caddy-doku/signer"
	"github.com/caddy-doku/caddy-doku/snap"
	"github.com/caddy-doku/caddy-doku/verifier"
)

const (
	metricsNamespace = "caddy"
	metricsSubsystem = "doku"
)

// Which way a call goes.
const (
	directionOut = "outbound" // from the app to DOKU
	directionIn  = "inbound"  // from DOKU to the app
)

// The counters and histograms live as long as the process and are registered with
// each configuration's registry, so that a reload does not set them back. Their
// labels are of closed sets: the accounts of the configuration, service codes, and
// words of this package and the verifier's, never what a caller has sent.
var (
	calls = counter("calls_total", "Calls to and from DOKU, by what has become of them.", "direction", "account", "service", "outcome")

	upstreamDuration = histogram("upstream_duration_seconds",
		"Time from sending an attempt of a call until DOKU's answer was read or none came; without attempts that did not reach DOKU.",
		[]float64{.025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 40, 60}, "account", "service")
	appDuration = histogram("app_duration_seconds",
		"Time that the app took to answer a call of DOKU's or in which it did not; without calls that did not reach it.",
		[]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20}, "account", "service")
	addedDuration = histogram("added_duration_seconds",
		"Time that the sidecar itself has added to a call that was answered: without DOKU, the app, the caller's sending, and waiting for a token.",
		[]float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1}, "direction")

	addedOut = addedDuration.WithLabelValues(directionOut)
	addedIn  = addedDuration.WithLabelValues(directionIn)

	tokenRefreshes = counter("token_refreshes_total",
		"Fetches of a B2B token, by why it was needed and how it went.", "account", "reason", "result")
	storeErrors = counter("store_errors_total",
		"Operations of the store that have failed.", "operation")

	verifiedCalls = counter("verified_calls_total",
		"Calls of DOKU's that were verified, by the form of the signature and of the body that matched.", "account", "signature", "body")
	changedPayments = counter("changed_payments_total",
		"Notifications of a payment that the app had accepted with another body before.", "account")

	credentialLoads = counter("credential_loads_total",
		"Changed files of keys and secrets, by whether they were taken up (loaded) or of no use (failed).", "account", "result")
)

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name, Help: help,
	}, labels)
}

// histogram returns one with the given buckets, and those of a native histogram
// for a Prometheus that asks for them.
func histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
	}, labels)
}

// observe takes note of a duration, with the trace that span belongs to, if it is
// recorded, as its example.
func observe(span trace.Span, o prometheus.Observer, d time.Duration) {
	if with, ok := o.(prometheus.ExemplarObserver); ok && span.SpanContext().IsSampled() {
		with.ObserveWithExemplar(d.Seconds(), prometheus.Labels{"trace_id": span.SpanContext().TraceID().String()})
		return
	}
	o.Observe(d.Seconds())
}

// registerMetrics registers counters and histograms, and the gauges of a
// configuration.
func registerMetrics(registry prometheus.Registerer, app *App) error {
	for _, collector := range []prometheus.Collector{
		calls, upstreamDuration, appDuration, addedDuration, tokenRefreshes, storeErrors, verifiedCalls, changedPayments,
		credentialLoads, inboxEvents,
		gauges{app},
	} {
		var already prometheus.AlreadyRegisteredError
		if err := registry.Register(collector); err != nil && !errors.As(err, &already) {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	return nil
}

// What becomes of a call: the values of the label outcome. With `enforce report`,
// the outcome is one of the verifier's reasons or outcomeVerified, behind
// outcomeReported.
const (
	outcomeSucceeded    = "succeeded"    // outbound: DOKU has answered 2xx
	outcomeDeclined     = "declined"     // outbound: DOKU has answered that it will not
	outcomeUnauthorized = "unauthorized" // outbound: DOKU does not believe us
	outcomeDOKUFailed   = "doku_failed"  // outbound: DOKU cannot, now
	outcomeCancelled    = "cancelled"    // outbound: the app has hung up before anything was sent

	outcomeAccepted   = "accepted"    // inbound: the app has answered 2xx
	outcomeAppRefused = "app_refused" // inbound: the app has answered otherwise
	outcomeIssued     = "issued"      // inbound: DOKU has been given a token
	outcomeReported   = "reported_"   // inbound: what begins so was passed on whatever was found
	outcomeVerified   = "verified"

	outcomeReplayed = "replayed" // a repeat has been given the answer of the first
	outcomeOther    = "other"
)

// All outcomes, but for those that begin with outcomeReported. The rest of them are
// the reasons in X-Doku-Error and in the log.
var (
	outboundOutcomes = []string{
		outcomeSucceeded, outcomeDeclined, outcomeUnauthorized, outcomeDOKUFailed, outcomeCancelled, outcomeReplayed, outcomeOther,
		"account", "body_too_large", "body_unreadable", "body_not_json", "body_unsafe", "external_id", "idempotency_key", "idempotency_key_reused",
		"in_flight", "store", "token", "unreachable", "outcome_unknown",
	}
	inboundOutcomes = append([]string{
		outcomeAccepted, outcomeAppRefused, "app_timeout", "app_unreachable", "app_missing", "kept", "not_kept", "inbox",
		outcomeReplayed, "in_flight", "store", "conflict",
		outcomeIssued, "issuing", "method", "service_unknown", "body_too_large", "body_unreadable",
	}, verifier.Reasons()...)
)

// answeredBy returns the outcome of a call that DOKU has answered with an HTTP
// status, or something else in its place, if that is 0.
func answeredBy(status int) string {
	switch {
	case status == 0:
		return outcomeOther
	case 200 <= status && status < 300:
		return outcomeSucceeded
	case status == http.StatusUnauthorized:
		return outcomeUnauthorized
	case 400 <= status && status < 500 &&
		status != http.StatusRequestTimeout && status != http.StatusTooEarly && status != http.StatusTooManyRequests:
		return outcomeDeclined
	}
	return outcomeDOKUFailed
}

// countFromZero has an account's counters of what an operator must hear of begin
// at 0, since the first time that a counter is seen tells nothing of a rise.
func countFromZero(account string) {
	for _, service := range []snap.Service{snap.ServiceVACreate, snap.ServiceVAUpdate, snap.ServiceVAStatus, snap.ServiceVADelete} {
		for _, outcome := range outboundOutcomes {
			calls.WithLabelValues(directionOut, account, string(service), outcome)
		}
	}
	for _, service := range []snap.Service{snap.ServiceVAInquiry, snap.ServiceVAPayment, snap.ServiceB2BToken} {
		for _, outcome := range inboundOutcomes {
			calls.WithLabelValues(directionIn, account, string(service), outcome)
		}
	}
	for _, reason := range []tokens.Reason{tokens.ReasonFirst, tokens.ReasonAhead, tokens.ReasonExpired, tokens.ReasonRejected, tokens.ReasonForced} {
		for _, result := range refreshResults {
			tokenRefreshes.WithLabelValues(account, string(reason), result.name)
		}
	}
	for _, result := range []string{"loaded", "failed"} {
		credentialLoads.WithLabelValues(account, result)
	}
	changedPayments.WithLabelValues(account)
	for _, operation := range storeOperations {
		storeErrors.WithLabelValues(operation)
	}
}

// refreshResults are the ways in which a fetch of a token can end.
var refreshResults = []struct {
	err  error
	name string
}{
	{nil, "ok"},
	{tokens.ErrTokenRefused, "refused"},
	{tokens.ErrTokenAnswer, "unusable"},
	{tokens.ErrTokenUnreachable, "unreachable"},
}

// countRefresh counts a fetch of a token when it has ended: see
// [tokens.TokenConfig].
func (s *session) countRefresh(fetch, _ context.Context, reason tokens.Reason) (context.Context, func(error)) {
	return fetch, func(err error) {
		result := outcomeOther
		for _, r := range refreshResults {
			if errors.Is(err, r.err) {
				result = r.name
			}
		}
		if !errors.Is(err, tokens.ErrTokenClosed) {
			tokenRefreshes.WithLabelValues(*s.name.Load(), string(reason), result).Inc()
		}
	}
}

// The operations of a store.
const (
	storeGet     = "get"
	storeSet     = "set"
	storeAdd     = "add"
	storeClaim   = "claim"
	storeFinish  = "finish"
	storeRelease = "release"
)

var storeOperations = []string{storeGet, storeSet, storeAdd, storeClaim, storeFinish, storeRelease}

// countingStore counts a store's errors.
type countingStore struct{ store.Store }

// failed counts err, if it is the store's and not because the caller has gone, and
// returns it.
func (countingStore) failed(ctx context.Context, operation string, err error) error {
	if errors.Is(err, store.ErrStore) && !errors.Is(ctx.Err(), context.Canceled) {
		storeErrors.WithLabelValues(operation).Inc()
	}
	return err
}

// Get implements [store.Store].
func (s countingStore) Get(ctx context.Context, key string) ([]byte, error) {
	value, err := s.Store.Get(ctx, key)
	return value, s.failed(ctx, storeGet, err)
}

// Set implements [store.Store].
func (s countingStore) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	return s.failed(ctx, storeSet, s.Store.Set(ctx, key, value, ttl))
}

// Add implements [store.Store].
func (s countingStore) Add(ctx context.Context, key string, value []byte, ttl time.Duration) ([]byte, error) {
	earlier, err := s.Store.Add(ctx, key, value, ttl)
	return earlier, s.failed(ctx, storeAdd, err)
}

// Claim implements [store.Store].
func (s countingStore) Claim(ctx context.Context, owner string, lease time.Duration, keys ...string) (store.Claim, error) {
	claim, err := s.Store.Claim(ctx, owner, lease, keys...)
	return claim, s.failed(ctx, storeClaim, err)
}

// Finish implements [store.Store].
func (s countingStore) Finish(ctx context.Context, owner string, ttl time.Duration, entries ...store.Entry) (bool, error) {
	done, err := s.Store.Finish(ctx, owner, ttl, entries...)
	return done, s.failed(ctx, storeFinish, err)
}

// Release implements [store.Store].
func (s countingStore) Release(ctx context.Context, owner string, keys ...string) error {
	return s.failed(ctx, storeRelease, s.Store.Release(ctx, owner, keys...))
}

// gauges are what is so at the moment it is asked for. They belong to a
// configuration, as its accounts do.
type gauges struct{ app *App }

var (
	tokenAge = prometheus.NewDesc("caddy_doku_token_age_seconds",
		"For how long the B2B token in use has been there; absent if there is none that is good.", []string{"account"}, nil)
	clockOffset = prometheus.NewDesc("caddy_doku_clock_offset_seconds",
		"By how much DOKU's clock is ahead of this machine's, negative if behind; median of the last answers.", []string{"account"}, nil)
	keyInfo = prometheus.NewDesc("caddy_doku_key_info",
		"Keys in use, by their fingerprint; always 1.", []string{"account", "key", "fingerprint"}, nil)
)

// Describe implements [prometheus.Collector].
func (gauges) Describe(to chan<- *prometheus.Desc) {
	to <- tokenAge
	to <- clockOffset
	to <- keyInfo
}

// Collect implements [prometheus.Collector].
func (g gauges) Collect(to chan<- prometheus.Metric) {
	for _, account := range g.app.Accounts {
		if token, now := account.tokens.Status(), account.clock.Now(); now.Before(token.Expires) {
			to <- prometheus.MustNewConstMetric(tokenAge, prometheus.GaugeValue, now.Sub(token.Issued).Seconds(), account.Name)
		}
		to <- prometheus.MustNewConstMetric(clockOffset, prometheus.GaugeValue, account.clock.Offset().Seconds(), account.Name)
		c := account.credentials()
		to <- prometheus.MustNewConstMetric(keyInfo, prometheus.GaugeValue, 1, account.Name, "merchant", signer.Fingerprint(&c.privateKey.PublicKey))
		told := make(map[string]bool, len(c.dokuKeys)) // the same key may be given twice
		for _, fingerprint := range fingerprints(c) {
			if !told[fingerprint] {
				told[fingerprint] = true
				to <- prometheus.MustNewConstMetric(keyInfo, prometheus.GaugeValue, 1, account.Name, "doku", fingerprint)
			}
		}
	}
}
