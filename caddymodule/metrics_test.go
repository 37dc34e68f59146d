package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/internal/tokens"
	"github.com/caddy-doku/caddy-doku/snap"
)

func TestMetricsAreNamedAsPrometheusWantsIt(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	countFromZero("linted")
	verifiedCalls.WithLabelValues("linted", "symmetric", "received")
	for _, vec := range []*prometheus.HistogramVec{upstreamDuration, appDuration} {
		vec.WithLabelValues("linted", "27")
	}
	addedDuration.WithLabelValues(directionOut)
	problems, err := testutil.GatherAndLint(h.ctx.GetMetricsRegistry())
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		if strings.HasPrefix(problem.Metric, metricsNamespace+"_"+metricsSubsystem) {
			t.Errorf("%s: %s", problem.Metric, problem.Text)
		}
	}
}

// described is the registry that notes what is registered.
type described struct{ descs []string }

func (d *described) Register(c prometheus.Collector) error {
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		c.Describe(descs)
	}()
	for desc := range descs {
		d.descs = append(d.descs, desc.String())
	}
	return nil
}

func (d *described) MustRegister(...prometheus.Collector) {}
func (d *described) Unregister(prometheus.Collector) bool { return false }

// guide returns docs/operations.md.
func guide(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// rows returns what stands in backquotes in the first two columns of the table
// under a heading of the guide: the first word of the one, and all of the other.
func rows(t *testing.T, heading string) map[string][]string {
	t.Helper()
	_, rest, found := strings.Cut(guide(t), "\n"+heading+"\n")
	if !found {
		t.Fatalf("expected the heading %q in the guide", heading)
	}
	table := make(map[string][]string)
	quoted := regexp.MustCompile("`([^`]+)`")
	for line := range strings.Lines(rest) {
		if strings.HasPrefix(line, "#") {
			break
		}
		cells := strings.Split(line, "|")
		if len(cells) < 4 || !strings.HasPrefix(strings.TrimSpace(cells[1]), "`") {
			continue
		}
		var second []string
		for _, word := range quoted.FindAllStringSubmatch(cells[2], -1) {
			second = append(second, word[1])
		}
		table[quoted.FindStringSubmatch(cells[1])[1]] = second
	}
	return table
}

func TestTheGuideHasEveryMetricWithItsLabels(t *testing.T) {
	t.Parallel()
	var all described
	if err := errors.Join(registerMetrics(&all, new(App)), all.Register(boxFigures{new(App)})); err != nil {
		t.Fatal(err)
	}
	table := rows(t, "## Metrics")
	parts := regexp.MustCompile(`^Desc{fqName: "([^"]+)", help: ".+", constLabels: {}, variableLabels: {([^}]*)}}$`)
	for _, desc := range all.descs {
		found := parts.FindStringSubmatch(desc)
		if found == nil {
			t.Fatalf("expected to find name and labels in %s", desc)
		}
		if got, want := strings.Join(table[found[1]], ","), found[2]; got != want {
			t.Errorf("%s: the guide has the labels %q, it has %q", found[1], got, want)
		}
		delete(table, found[1])
	}
	for name := range table {
		t.Errorf("the guide has %s, which there is not", name)
	}
}

func TestTheGuideHasEveryOutcome(t *testing.T) {
	t.Parallel()
	for heading, outcomes := range map[string][]string{"### Outcomes of calls to DOKU": outboundOutcomes, "### Outcomes of calls from DOKU": inboundOutcomes} {
		table := rows(t, heading)
		for _, outcome := range outcomes {
			if _, found := table[outcome]; !found {
				t.Errorf("expected %s under %q", outcome, heading)
			}
			delete(table, outcome)
		}
		for outcome := range table {
			t.Errorf("%s is under %q, but there is no such outcome", outcome, heading)
		}
	}
}

func TestAnOutcomeSaysWhatDOKUHasAnswered(t *testing.T) {
	t.Parallel()
	for status, outcome := range map[int]string{
		0: outcomeOther, 200: outcomeSucceeded, 201: outcomeSucceeded, 302: outcomeDOKUFailed, 400: outcomeDeclined, 401: outcomeUnauthorized,
		403: outcomeDeclined, 404: outcomeDeclined, 408: outcomeDOKUFailed, 409: outcomeDeclined, 425: outcomeDOKUFailed, 429: outcomeDOKUFailed,
		500: outcomeDOKUFailed, 503: outcomeDOKUFailed,
	} {
		if got := answeredBy(status); got != outcome {
			t.Errorf("HTTP %d: %s, expected %s", status, got, outcome)
		}
	}
}

func TestRefreshesAreCountedByReasonAndResult(t *testing.T) {
	t.Parallel()
	name := t.Name()
	s := new(session)
	s.name.Store(&name)
	for _, test := range []struct {
		err    error
		result string
		count  float64
	}{
		{nil, "ok", 1},
		{fmt.Errorf("%w: HTTP 401", tokens.ErrTokenRefused), "refused", 1},
		{tokens.ErrTokenAnswer, "unusable", 1},
		{tokens.ErrTokenUnreachable, "unreachable", 1},
		{tokens.ErrTokenClosed, outcomeOther, 0}, // the sidecar ends
		{errors.New("no entropy"), outcomeOther, 1},
	} {
		_, end := s.countRefresh(t.Context(), t.Context(), tokens.ReasonAhead)
		end(test.err)
		if got := testutil.ToFloat64(tokenRefreshes.WithLabelValues(name, "ahead", test.result)); got != test.count {
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

func (s brokenStore) Finish(context.Context, string, time.Duration, ...store.Entry) (bool, error) {
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
			before[operation] = testutil.ToFloat64(storeErrors.WithLabelValues(operation))
		}
		_, get := s.Get(test.ctx, "k")
		_, add := s.Add(test.ctx, "k", nil, time.Second)
		_, claim := s.Claim(test.ctx, "o", time.Second, "k")
		_, finish := s.Finish(test.ctx, "o", time.Second)
		errs := []error{get, s.Set(test.ctx, "k", nil, time.Second), add, claim, finish, s.Release(test.ctx, "o", "k")}
		for i, operation := range storeOperations {
			if !errors.Is(errs[i], test.err) {
				t.Errorf("%s: found %v, expected %v", operation, errs[i], test.err)
			}
			if got := testutil.ToFloat64(storeErrors.WithLabelValues(operation)) - before[operation]; got != test.count {
				t.Errorf("%s failed with %v: counted %v, expected %v", operation, test.err, got, test.count)
			}
		}
	}
}

// hands is a clock whose hands are moved.
type hands struct {
	mu  sync.Mutex
	now time.Time
}

func (h *hands) Now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *hands) move(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

// measured returns what a histogram has measured.
func measured(t *testing.T, o prometheus.Observer) *dto.Histogram {
	t.Helper()
	var m dto.Metric
	if err := o.(prometheus.Metric).Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetHistogram()
}

// slowBody takes a while to be read.
type slowBody struct {
	io.Reader
	clock *hands
	takes time.Duration
}

func (b *slowBody) Read(p []byte) (int, error) {
	b.clock.move(b.takes)
	b.takes = 0
	return b.Reader.Read(p)
}

func TestTheSidecarsOwnTimeIsThatOfNobodyElse(t *testing.T) { //nolint:paralleltest // other tests may measure meanwhile
	clock := &hands{now: time.Now()}
	simulated := newSimulator(t, time.Now)
	doku := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, tokens.TokenPath) {
			clock.move(3 * time.Second)
		} else {
			clock.move(2 * time.Second)
		}
		simulated.ServeHTTP(w, r)
	}))
	defer doku.Close()
	h := build(t, doku.URL)
	defer func() { _ = h.app.Cleanup() }()
	account := h.app.Accounts[0]
	account.Name, account.clock.Now = t.Name(), clock.Now
	s := new(Sign)
	handler := h.sign(t, s)
	s.now = clock.Now

	recorder := sdktrace.NewTracerProvider()
	ctx, span := recorder.Tracer("test").Start(t.Context(), "server")
	r := create(ctx, "INV-1")
	r.Body = io.NopCloser(&slowBody{Reader: r.Body, clock: clock, takes: 5 * time.Second})
	added := addedDuration.WithLabelValues(directionOut)
	before := measured(t, added)
	if w := serve(t, handler, r); w.Code != http.StatusOK {
		t.Fatalf("HTTP %d %s", w.Code, w.Body)
	}
	if h := measured(t, added); h.GetSampleCount() != before.GetSampleCount()+1 || h.GetSampleSum() != before.GetSampleSum() {
		t.Errorf("the sidecar's own time rose from %v to %v, in %d calls, expected a call that took none",
			before.GetSampleSum(), h.GetSampleSum(), h.GetSampleCount()-before.GetSampleCount())
	}
	upstream := measured(t, upstreamDuration.WithLabelValues(t.Name(), "27"))
	if upstream.GetSampleCount() != 1 || upstream.GetSampleSum() != 2 {
		t.Errorf("DOKU took %v s in %d attempts, expected 2 in one", upstream.GetSampleSum(), upstream.GetSampleCount())
	}
	if got := testutil.ToFloat64(calls.WithLabelValues(directionOut, t.Name(), "27", outcomeSucceeded)); got != 1 {
		t.Errorf("counted %v calls, expected 1", got)
	}
	i := slices.IndexFunc(upstream.GetBucket(), func(b *dto.Bucket) bool { return b.GetExemplar() != nil })
	if i < 0 || upstream.GetBucket()[i].GetExemplar().GetLabel()[0].GetValue() != span.SpanContext().TraceID().String() {
		t.Errorf("expected the trace as an example of %v", upstream)
	}
	if upstream.Schema == nil || len(upstream.GetPositiveSpan()) == 0 {
		t.Error("expected the buckets of a native histogram, too")
	}

	clock.move(time.Minute)
	age := gather(t, h)["caddy_doku_token_age_seconds"]
	if len(age) != 1 || age[0].GetGauge().GetValue() != 65 { // asked for 3 s before the call was sent
		t.Errorf("the token's age is %v, expected 65 s", age)
	}
	clock.move(time.Hour)
	if age := gather(t, h)["caddy_doku_token_age_seconds"]; age != nil {
		t.Errorf("the token has expired, but its age is %v", age)
	}
}

// gather returns what the registry of a configuration exports, by name.
func gather(t *testing.T, h *house) map[string][]*dto.Metric {
	t.Helper()
	families, err := h.ctx.GetMetricsRegistry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string][]*dto.Metric)
	for _, family := range families {
		all[family.GetName()] = family.GetMetric()
	}
	return all
}

func TestTheAppsTimeIsNotTheSidecars(t *testing.T) { //nolint:paralleltest // other tests may measure meanwhile
	h := newHouse(t)
	clock := &hands{now: time.Now()}
	account := h.app.Accounts[0]
	account.Name = t.Name()
	in := &inbound{account: account, service: snap.ServiceVAPayment, began: clock.Now(), span: trace.SpanFromContext(t.Context())}
	for _, failed := range []refusal{{}, {reason: "app_timeout", err: context.DeadlineExceeded}, {reason: "app_unreachable", err: io.ErrUnexpectedEOF}} {
		in.tookApp(time.Second, failed)
	}
	for _, policy := range []string{policyAfterApp, policyDurable} {
		in.boxed = policy
		in.tookApp(time.Second, refusal{})
	}
	app := measured(t, appDuration.WithLabelValues(t.Name(), "25"))
	if app.GetSampleCount() != 2 || app.GetSampleSum() != 2 || in.elsewhere != 4*time.Second {
		t.Errorf("the app took %v s in %d calls, and %s of the time, expected 2 in 2, and 4s", app.GetSampleSum(), app.GetSampleCount(), in.elsewhere)
	}
}

func TestCountersOfAnAccountBeginAtZero(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.app.Accounts[0].Name = t.Name()
	if err := h.app.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.app.Stop() }()
	found := make(map[string]int)
	for name, metrics := range gather(t, h) {
		for _, m := range metrics {
			// Not by m.String(), which writes to labels that other tests read.
			if slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == t.Name() }) {
				found[name]++
			}
		}
	}
	for name, count := range map[string]int{
		"caddy_doku_calls_total":            4*len(outboundOutcomes) + 3*len(inboundOutcomes),
		"caddy_doku_token_refreshes_total":  5 * len(refreshResults),
		"caddy_doku_credential_loads_total": 2,
		"caddy_doku_changed_payments_total": 1,
	} {
		if found[name] != count {
			t.Errorf("%s has %d series, expected %d", name, found[name], count)
		}
	}
}
