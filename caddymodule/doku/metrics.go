package doku

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/internal/tokens"
)

// countFromZero creates the account's counters with the value 0; see
// [telemetry.CountFromZero].
func countFromZero(account string) {
	telemetry.CountFromZero(account)
	for _, reason := range []tokens.Reason{
		tokens.ReasonFirst, tokens.ReasonAhead, tokens.ReasonExpired, tokens.ReasonRejected, tokens.ReasonForced,
	} {
		for _, result := range refreshResults {
			telemetry.TokenRefreshes.WithLabelValues(account, string(reason), result.name)
		}
	}
	for _, result := range []string{"loaded", "failed"} {
		telemetry.CredentialLoads.WithLabelValues(account, result)
	}
	for _, operation := range storeOperations {
		telemetry.StoreErrors.WithLabelValues(operation)
	}
}

// refreshResults are the results of a token fetch.
var refreshResults = []struct {
	err  error
	name string
}{
	{nil, "ok"},
	{tokens.ErrRefused, "refused"},
	{tokens.ErrUnusable, "unusable"},
	{tokens.ErrUnreachable, "unreachable"},
}

// countRefresh counts a token fetch when it ends: see [tokens.Config].
func (rt *runtime) countRefresh(fetch, _ context.Context, reason tokens.Reason) (context.Context, func(error)) {
	return fetch, func(err error) {
		result := reasons.Other
		for _, r := range refreshResults {
			if errors.Is(err, r.err) {
				result = r.name
			}
		}
		if !errors.Is(err, tokens.ErrClosed) {
			telemetry.TokenRefreshes.WithLabelValues(*rt.name.Load(), string(reason), result).Inc()
		}
	}
}

// The operations of a store.
const (
	storeGet     = "get"
	storeSet     = "set"
	storeAdd     = "add"
	storeClaim   = "claim"
	storeCommit  = "finish"
	storeRelease = "release"
)

var storeOperations = []string{storeGet, storeSet, storeAdd, storeClaim, storeCommit, storeRelease}

// countingStore counts a store's errors.
type countingStore struct{ store.Store }

// failed counts and returns err. An error because the caller has gone does not count.
func (countingStore) failed(ctx context.Context, operation string, err error) error {
	if errors.Is(err, store.ErrStore) && !errors.Is(ctx.Err(), context.Canceled) {
		telemetry.StoreErrors.WithLabelValues(operation).Inc()
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

// Commit implements [store.Store].
func (s countingStore) Commit(ctx context.Context, owner string, ttl time.Duration, entries ...store.Entry) (bool, error) {
	done, err := s.Store.Commit(ctx, owner, ttl, entries...)
	return done, s.failed(ctx, storeCommit, err)
}

// Release implements [store.Store].
func (s countingStore) Release(ctx context.Context, owner string, keys ...string) error {
	return s.failed(ctx, storeRelease, s.Store.Release(ctx, owner, keys...))
}

// gauges are the figures of a configuration's accounts at the moment of the scrape.
type gauges struct{ app *App }

// Describe implements [prometheus.Collector].
func (gauges) Describe(to chan<- *prometheus.Desc) {
	to <- telemetry.TokenAge
	to <- telemetry.ClockOffset
	to <- telemetry.KeyInfo
}

// Collect implements [prometheus.Collector].
func (g gauges) Collect(to chan<- prometheus.Metric) {
	for _, account := range g.app.Accounts {
		if token, now := account.runtime.tokens.Status(), account.runtime.clock.Now(); now.Before(token.Expires) {
			to <- prometheus.MustNewConstMetric(telemetry.TokenAge, prometheus.GaugeValue, now.Sub(token.Issued).Seconds(), account.Name)
		}
		to <- prometheus.MustNewConstMetric(telemetry.ClockOffset, prometheus.GaugeValue, account.runtime.clock.Offset().Seconds(), account.Name)
		keys := account.Credentials().Summary()
		to <- prometheus.MustNewConstMetric(telemetry.KeyInfo, prometheus.GaugeValue, 1, account.Name, "merchant", keys.Merchant)
		seen := make(map[string]bool, len(keys.DOKU)) // the same key may be given twice
		for _, fingerprint := range keys.DOKU {
			if !seen[fingerprint] {
				seen[fingerprint] = true
				to <- prometheus.MustNewConstMetric(telemetry.KeyInfo, prometheus.GaugeValue, 1, account.Name, "doku", fingerprint)
			}
		}
	}
}
