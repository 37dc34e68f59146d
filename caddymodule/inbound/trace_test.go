package inbound

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/moduletest"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// merchant serves what DOKU calls, inside spans, and returns where.
func merchant(t *testing.T, h *moduletest.Env, tr *moduletest.Traces, verify *Verify, app http.HandlerFunc) string {
	t.Helper()
	token := new(Token)
	h.Provision(t, token)
	h.Provision(t, verify)
	nobody := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	answers := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		app(w, r)
		return nil
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, span := tr.Provider.Tracer("test").Start(r.Context(), "handler", trace.WithSpanKind(trace.SpanKindServer),
			trace.WithAttributes(attribute.String("user_agent.original", r.UserAgent()), attribute.String("url.path", r.URL.Path)))
		defer span.End()
		r = caddyhttp.PrepareRequest(r.WithContext(ctx), caddy.NewReplacer(), w, &caddyhttp.Server{})
		var err error
		if r.URL.Path == moduletest.TokenPath {
			err = token.ServeHTTP(w, r, nobody)
		} else {
			err = verify.ServeHTTP(w, r, answers)
		}
		if err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	h.DOKU.SetMerchantURLs(server.URL+moduletest.TokenPath, server.URL+moduletest.InquiryPath, server.URL+moduletest.PaymentPath)
	return server.URL
}

const paid = "POST " + moduletest.PaymentPath

func accept(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, `{"responseCode":"2002500","responseMessage":"Successful"}`)
}

func TestATraceShowsTheWayOfANotification(t *testing.T) {
	t.Parallel()
	h, tr := moduletest.New(t, moduletest.Options{}), moduletest.NewTraces()
	var told string
	address := merchant(t, h, tr, new(Verify), func(w http.ResponseWriter, r *http.Request) {
		told = r.Header.Get("Traceparent")
		accept(w, r)
	})
	call := simulator.Outgoing{URL: address + moduletest.PaymentPath, Body: moduletest.Notification(), ExternalID: "VA880890909090-1"}
	keys := []attribute.Key{
		telemetry.KeyService,
		telemetry.KeyOutcome,
		telemetry.KeyResponseCode,
		telemetry.KeySignatureForm,
		telemetry.KeyBodyForm,
		telemetry.KeyLedger,
		"http.response.status_code",
	}
	for _, want := range []string{
		paid + ` 25 accepted 2002500
  doku.verify 25 symmetric received
  doku.ledger new
    ` + paid + ` 200`,
		paid + ` 25 replayed 2002500
  doku.verify 25 symmetric received
  doku.ledger repeat`,
	} {
		if _, err := h.DOKU.Call(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		moduletest.Same(t, "the trace", tr.Tree(paid, keys...), want)
	}
	var delivery sdktrace.ReadOnlySpan
	for _, span := range tr.Ended() {
		if span.SpanKind() == trace.SpanKindClient {
			delivery = span
		}
	}
	if delivery == nil || told != moduletest.Traceparent(delivery.SpanContext()) {
		t.Errorf("the app was told the trace %q, expected the span that calls it", told)
	}
	verified := tr.Last(t, "doku.verify")
	if moduletest.AttributeOf(verified, telemetry.KeyClockDifference) == "" {
		t.Errorf("expected the difference of the clocks, found %v", verified.Attributes())
	}
	moduletest.Same(t, "the external id, which has the number in it", moduletest.AttributeOf(verified, telemetry.KeyExternalID),
		"VA****9090-1")
	moduletest.Same(t, "the number", moduletest.AttributeOf(verified, "doku.virtual_account_no"), "****9090")
	moduletest.Same(t, "the token request",
		tr.Tree("POST "+moduletest.TokenPath, telemetry.KeyAccount, telemetry.KeyService, telemetry.KeyOutcome, telemetry.KeyResponseCode),
		"POST "+moduletest.TokenPath+" default 73 issued 2007300\n  doku.issue_token")
}

func TestATraceShowsWhyACallOfDOKUsWasRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		call   simulator.Outgoing
		enough string // what else must be on the span of the verification
		want   string
	}{
		{"a forged signature", simulator.Outgoing{Mutate: func(r *http.Request) {
			r.Header.Set("X-SIGNATURE", strings.Repeat("A", 86)+"==")
		}}, "", "POST signature signature 4012500\n  doku.verify signature"},
		{
			"an old call",
			simulator.Outgoing{Timestamp: time.Now().Add(-time.Hour).Format(time.RFC3339)},
			"36",
			"POST timestamp_old timestamp_old 4002501\n  doku.verify timestamp_old",
		},
		{
			"a call from the future",
			simulator.Outgoing{Timestamp: time.Now().Add(time.Hour).Format(time.RFC3339)},
			"-3",
			"POST timestamp_future timestamp_future 4002501\n  doku.verify timestamp_future",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h, tr := moduletest.New(t, moduletest.Options{}), moduletest.NewTraces()
			test.call.URL, test.call.Body = merchant(t, h, tr, new(Verify), accept)+moduletest.PaymentPath, moduletest.Notification()
			if _, err := h.DOKU.Call(t.Context(), test.call); err != nil {
				t.Fatal(err)
			}
			moduletest.Same(t, "the trace", tr.Tree("POST", telemetry.KeyOutcome, telemetry.KeyReason, telemetry.KeyResponseCode), test.want)
			verified := tr.Last(t, "doku.verify")
			if difference := moduletest.AttributeOf(verified, telemetry.KeyClockDifference); !strings.HasPrefix(difference, test.enough) ||
				verified.Status().Code != codes.Error {
				t.Errorf("difference of clocks %s, status %v", difference, verified.Status())
			}
		})
	}
}

// TestWhatIsNoTextCannotSpoilATrace: an exporter refuses all spans of a batch if one of
// them has a string that is not UTF-8.
func TestWhatIsNoTextCannotSpoilATrace(t *testing.T) {
	t.Parallel()
	h, tr := moduletest.New(t, moduletest.Options{}), moduletest.NewTraces()
	address := merchant(t, h, tr, &Verify{Enforce: enforceReport}, accept)
	for _, path := range []string{"/%ff/transfer-va/payment", moduletest.TokenPath} {
		_, err := h.DOKU.Call(
			t.Context(),
			simulator.Outgoing{URL: address + path, Body: moduletest.Notification(), ExternalID: "\xff", Mutate: func(r *http.Request) {
				r.Header.Set("User-Agent", "\xff")
				r.Header.Set("X-PARTNER-ID", "\xff")
			}},
		)
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, span := range tr.Ended() {
		texts := append(span.Attributes(), attribute.String("name", span.Name()), attribute.String("status", span.Status().Description))
		for _, attr := range texts {
			if !utf8.ValidString(attr.Value.String()) {
				t.Errorf("%s has %s %q", span.Name(), attr.Key, attr.Value.String())
			}
		}
	}
}

func TestATraceShowsAnAppThatFails(t *testing.T) {
	t.Parallel()
	h, tr := moduletest.New(t, moduletest.Options{}), moduletest.NewTraces()
	address := merchant(t, h, tr, new(Verify), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	call := simulator.Outgoing{URL: address + moduletest.PaymentPath, Body: moduletest.Notification()}
	if _, err := h.DOKU.Call(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	moduletest.Same(t, "the trace", tr.Tree(paid, telemetry.KeyOutcome, "http.response.status_code", "error.type"),
		paid+" app_undecided\n  doku.verify\n  doku.ledger\n    "+paid+" 503 503")
}

func TestTracesGoToTheAppAlsoWhileNothingIsEnforced(t *testing.T) {
	t.Parallel()
	h, tr := moduletest.New(t, moduletest.Options{}), moduletest.NewTraces()
	var told string
	address := merchant(t, h, tr, &Verify{Enforce: enforceReport}, func(w http.ResponseWriter, r *http.Request) {
		told = r.Header.Get("Traceparent")
		accept(w, r)
	})
	call := simulator.Outgoing{URL: address + moduletest.PaymentPath, Body: moduletest.Notification()}
	if _, err := h.DOKU.Call(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	moduletest.Same(t, "the trace", tr.Tree(paid), paid+"\n  doku.verify\n  "+paid)
	moduletest.Same(t, "the app's trace", told, moduletest.Traceparent(tr.Ended()[len(tr.Ended())-2].SpanContext()))
	moduletest.Same(t, "the outcome", moduletest.AttributeOf(tr.Last(t, paid), telemetry.KeyOutcome), "reported_verified")

	call.Timestamp = "2024-01-01T00:00:00Z"
	if _, err := h.DOKU.Call(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	moduletest.Same(t, "the outcome of a call that is not DOKU's", moduletest.AttributeOf(tr.Last(t, "POST"), telemetry.KeyOutcome),
		"reported_timestamp_old")
	moduletest.Same(t, "the reason", moduletest.AttributeOf(tr.Last(t, "POST"), telemetry.KeyReason), "timestamp_old")
}

// withoutTracing calls everything that traces an inbound call.
func withoutTracing(in *call, r *http.Request) {
	ctx := r.Context()
	in.span = trace.SpanFromContext(ctx)
	in.traceLinks(ctx)
	telemetry.Cleanse(in.span)
	in.traceOutcome(ctx, "accepted", nil)
	rejecter{}.trace(r, "signature", nil)
	traceIssued(r, "default")
}

func TestWithoutTracingTracesCostNoAllocation(t *testing.T) {
	in, r := &call{}, httptest.NewRequestWithContext(context.Background(), http.MethodPost, moduletest.PaymentPath, http.NoBody)
	if n := testing.AllocsPerRun(100, func() { withoutTracing(in, r) }); n != 0 {
		t.Errorf("%v allocations for each call", n)
	}
}
