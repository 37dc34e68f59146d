package doku

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/moduletest"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/internal/tokens"
)

func TestRefreshesAreCountedByReasonAndResult(t *testing.T) {
	t.Parallel()
	name := t.Name()
	s := new(runtime)
	s.name.Store(&name)
	for _, test := range []struct {
		err    error
		result string
		count  float64
	}{
		{nil, "ok", 1},
		{fmt.Errorf("%w: HTTP 401", tokens.ErrRefused), "refused", 1},
		{tokens.ErrUnusable, "unusable", 1},
		{tokens.ErrUnreachable, "unreachable", 1},
		{tokens.ErrClosed, reasons.Other, 0}, // the sidecar ends
		{errors.New("no entropy"), reasons.Other, 1},
	} {
		counter := telemetry.TokenRefreshes.WithLabelValues(name, "ahead", test.result)
		before := testutil.ToFloat64(counter)
		_, end := s.countRefresh(t.Context(), t.Context(), tokens.ReasonAhead)
		end(test.err)
		if got := testutil.ToFloat64(counter) - before; got != test.count {
			t.Errorf("%v: %v of %s, expected %v", test.err, got, test.result, test.count)
		}
	}
}

// brokenStore is a store that fails always.
type brokenStore struct{ err error }

func (s brokenStore) Get(context.Context, string) ([]byte, error)              { return nil, s.err }
func (s brokenStore) Set(context.Context, string, []byte, time.Duration) error { return s.err }
func (s brokenStore) Add(context.Context, string, []byte, time.Duration) ([]byte, error) {
	return nil, s.err
}
func (s brokenStore) Release(context.Context, string, ...string) error { return s.err }

func (s brokenStore) Claim(context.Context, string, time.Duration, ...string) (store.Claim, error) {
	return store.Claim{}, s.err
}

func (s brokenStore) Commit(context.Context, string, time.Duration, ...store.Entry) (bool, error) {
	return false, s.err
}

func TestErrorsOfTheStoreAreCountedAndThoseOfCallersAreNot(t *testing.T) { //nolint:paralleltest // other tests may count meanwhile
	gone, leave := context.WithCancel(t.Context())
	leave()
	late, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	for _, test := range []struct {
		ctx   context.Context //nolint:containedctx // of the caller
		err   error
		count float64
	}{
		{t.Context(), fmt.Errorf("%w: connection refused", store.ErrStore), 1},
		{late, fmt.Errorf("%w: redis: %w", store.ErrStore, context.DeadlineExceeded), 1},
		{gone, fmt.Errorf("%w: redis: %w", store.ErrStore, context.Canceled), 0},
		{t.Context(), context.Canceled, 0},
		{t.Context(), nil, 0},
	} {
		s := countingStore{brokenStore{test.err}}
		before := make(map[string]float64)
		for _, operation := range storeOperations {
			before[operation] = testutil.ToFloat64(telemetry.StoreErrors.WithLabelValues(operation))
		}
		_, get := s.Get(test.ctx, "k")
		_, add := s.Add(test.ctx, "k", nil, time.Second)
		_, claim := s.Claim(test.ctx, "o", time.Second, "k")
		_, finish := s.Commit(test.ctx, "o", time.Second)
		errs := []error{get, s.Set(test.ctx, "k", nil, time.Second), add, claim, finish, s.Release(test.ctx, "o", "k")}
		for i, operation := range storeOperations {
			if !errors.Is(errs[i], test.err) {
				t.Errorf("%s: found %v, expected %v", operation, errs[i], test.err)
			}
			if got := testutil.ToFloat64(telemetry.StoreErrors.WithLabelValues(operation)) - before[operation]; got != test.count {
				t.Errorf("%s failed with %v: counted %v, expected %v", operation, test.err, got, test.count)
			}
		}
	}
}

func TestCountersOfAnAccountBeginAtZero(t *testing.T) {
	t.Parallel()
	h := moduletest.New(t, moduletest.Options{})
	h.App().(*App).Accounts[0].Name = t.Name()
	if err := h.App().(*App).Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.App().(*App).Stop() }()
	found := make(map[string]int)
	for name, metrics := range h.Gather(t) {
		for _, m := range metrics {
			// Not by m.String(), which writes to labels that other tests read.
			if slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == t.Name() }) {
				found[name]++
			}
		}
	}
	for name, count := range map[string]int{
		"caddy_doku_calls_total":            4*len(reasons.Outbound) + 3*len(reasons.Inbound),
		"caddy_doku_token_refreshes_total":  5 * len(refreshResults),
		"caddy_doku_credential_loads_total": 2,
		"caddy_doku_changed_payments_total": 1,
	} {
		if found[name] != count {
			t.Errorf("%s has %d series, expected %d", name, found[name], count)
		}
	}
}

func TestMetricsAreNamedAsPrometheusWantsIt(t *testing.T) {
	t.Parallel()
	h := moduletest.New(t, moduletest.Options{})
	countFromZero("linted")
	telemetry.VerifiedCalls.WithLabelValues("linted", "symmetric", "received")
	for _, vec := range []*prometheus.HistogramVec{telemetry.UpstreamDuration, telemetry.AppDuration} {
		vec.WithLabelValues("linted", "27")
	}
	telemetry.AddedDuration.WithLabelValues(telemetry.Outbound)
	problems, err := testutil.GatherAndLint(h.Ctx.GetMetricsRegistry())
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		if strings.HasPrefix(problem.Metric, "caddy_doku") {
			t.Errorf("%s: %s", problem.Metric, problem.Text)
		}
	}
}
