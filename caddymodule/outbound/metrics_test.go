package outbound

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/moduletest"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
)

// slowBody takes a while to be read.
type slowBody struct {
	io.Reader
	clock *moduletest.Clock
	takes time.Duration
}

func (b *slowBody) Read(p []byte) (int, error) {
	b.clock.Move(b.takes)
	b.takes = 0
	return b.Reader.Read(p)
}

func TestTheSidecarsOwnTimeIsThatOfNobodyElse(t *testing.T) { //nolint:paralleltest // other tests may measure meanwhile
	clock := moduletest.NewClock(time.Now())
	simulated := moduletest.NewSimulator(t, clock.Now)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, moduletest.TokenPath) {
			clock.Move(3 * time.Second)
		} else {
			clock.Move(2 * time.Second)
		}
		simulated.ServeHTTP(w, r)
	}))
	defer server.Close()
	h := moduletest.Build(t, server.URL, moduletest.Options{})
	defer func() { _ = app(t, h).Cleanup() }()
	account := account(t, h)
	account.Name, account.Clock().Now = t.Name(), clock.Now
	s := new(Sign)
	handler := signHandler(t, h, s)
	s.now = clock.Now

	recorder := sdktrace.NewTracerProvider()
	ctx, span := recorder.Tracer("test").Start(t.Context(), "server")
	r := moduletest.CreateRequest(ctx, "INV-1")
	r.Body = io.NopCloser(&slowBody{Reader: r.Body, clock: clock, takes: 5 * time.Second})
	added, calls := telemetry.AddedOutbound, telemetry.Calls.WithLabelValues(telemetry.Outbound, t.Name(), "27", reasons.Succeeded)
	before, counted := moduletest.Measured(t, added), testutil.ToFloat64(calls)
	dokuTook := telemetry.UpstreamDuration.WithLabelValues(t.Name(), "27")
	earlier := moduletest.Measured(t, dokuTook)
	if w := moduletest.Serve(t, handler, r); w.Code != http.StatusOK {
		t.Fatalf("HTTP %d %s", w.Code, w.Body)
	}
	if after := moduletest.Measured(t, added); after.GetSampleCount() != before.GetSampleCount()+1 ||
		after.GetSampleSum() != before.GetSampleSum() {
		t.Errorf("the sidecar's own time rose from %v to %v, in %d calls, expected a call that took none",
			before.GetSampleSum(), after.GetSampleSum(), after.GetSampleCount()-before.GetSampleCount())
	}
	upstream := moduletest.Measured(t, dokuTook)
	attempts, took := upstream.GetSampleCount()-earlier.GetSampleCount(), upstream.GetSampleSum()-earlier.GetSampleSum()
	if attempts != 1 || took != 2 {
		t.Errorf("DOKU took %v s in %d attempts, expected 2 in one", took, attempts)
	}
	if got := testutil.ToFloat64(calls) - counted; got != 1 {
		t.Errorf("counted %v calls, expected 1", got)
	}
	i := slices.IndexFunc(upstream.GetBucket(), func(b *dto.Bucket) bool { return b.GetExemplar() != nil })
	if i < 0 || upstream.GetBucket()[i].GetExemplar().GetLabel()[0].GetValue() != span.SpanContext().TraceID().String() {
		t.Errorf("expected the trace as an example of %v", upstream)
	}
	if upstream.Schema == nil || len(upstream.GetPositiveSpan()) == 0 {
		t.Error("expected the buckets of a native histogram, too")
	}

	clock.Move(time.Minute)
	age := h.Gather(t)["caddy_doku_token_age_seconds"]
	if len(age) != 1 || age[0].GetGauge().GetValue() != 65 { // asked for 3 s before the call was sent
		t.Errorf("the token's age is %v, expected 65 s", age)
	}
	clock.Move(time.Hour)
	if age := h.Gather(t)["caddy_doku_token_age_seconds"]; age != nil {
		t.Errorf("the token has expired, but its age is %v", age)
	}
}
