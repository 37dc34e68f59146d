package outbound

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/moduletest"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/tokens"
	"github.com/caddy-doku/caddy-doku/simulator"
)

const post = "POST " + moduletest.CreatePath

func TestATraceShowsTheWayOfACall(t *testing.T) {
	t.Parallel()
	h, tr := moduletest.New(t, moduletest.Options{}), moduletest.NewTraces()
	handler := signHandler(t, h, new(Sign))
	for _, trxID := range []string{"INV-1", "INV-2"} {
		if w := tr.Serve(t, handler, moduletest.CreateRequest(context.Background(), trxID)); w.Code != http.StatusOK {
			t.Fatalf("HTTP %d %s", w.Code, w.Body)
		}
		want := "POST " + moduletest.CreatePath + " 27 succeeded 2002700\n  doku.sign 27\n"
		if trxID == "INV-1" { // only the first call waits for a token
			want += "    doku.token first\n      doku.token.fetch first\n        POST /authorization/v1/access-token/b2b 73\n"
		}
		moduletest.Same(t, trxID,
			tr.Tree(post, telemetry.KeyService, telemetry.KeyOutcome, telemetry.KeyResponseCode, telemetry.KeyRefreshReason),
			want+"  POST "+moduletest.CreatePath+" 27 succeeded 2002700")
	}
	span := tr.Last(t, post) // of the server
	client := slices.IndexFunc(tr.Ended(), func(s sdktrace.ReadOnlySpan) bool {
		return s.Parent().SpanID() == span.SpanContext().SpanID() && s.Name() == post
	})
	attempt := tr.Ended()[client]
	base := account(t, h).BaseURL()
	for key, want := range map[attribute.Key]string{
		"http.request.method": "POST", "url.template": moduletest.CreatePath, "url.full": base.String() + moduletest.CreatePath,
		"server.address": base.Hostname(), "server.port": base.Port(),
		"http.response.status_code": "200", "network.protocol.version": "1.1", "http.request.resend_count": "", "error.type": "",
		telemetry.KeyAccount: "default", telemetry.KeyAttempt: "1", "doku.trx_id": "INV-2",
		telemetry.KeyExternalID: moduletest.AttributeOf(span, telemetry.KeyExternalID),
	} {
		moduletest.Same(t, string(key), moduletest.AttributeOf(attempt, key), want)
	}
	if attempt.SpanKind() != trace.SpanKindClient || attempt.Status().Code != codes.Unset {
		t.Errorf("kind %s, status %v", attempt.SpanKind(), attempt.Status())
	}
	if moduletest.AttributeOf(attempt, telemetry.KeyTokenAge) == "" || moduletest.AttributeOf(attempt, telemetry.KeyExternalID) == "" {
		t.Errorf("expected the token's age and the external id, found %v", attempt.Attributes())
	}
}

func TestATraceShowsThatACallWasMadeBefore(t *testing.T) {
	t.Parallel()
	h, tr := moduletest.New(t, moduletest.Options{}), moduletest.NewTraces()
	handler := signHandler(t, h, new(Sign))
	tr.Serve(t, handler, moduletest.CreateRequest(context.Background(), "INV-0")) // for the token
	for _, want := range []string{
		post + " succeeded 2002700\n  doku.sign\n    doku.repeat\n  " + post + " succeeded 2002700",
		post + " replayed 2002700\n  doku.sign\n    doku.repeat",
	} {
		r := moduletest.CreateRequest(context.Background(), "INV-1")
		r.Header.Set("Idempotency-Key", "K-1")
		tr.Serve(t, handler, r)
		moduletest.Same(t, "the trace", tr.Tree(post, telemetry.KeyOutcome, telemetry.KeyResponseCode, telemetry.KeyReason), want)
	}
}

func TestATraceShowsThatATokenWasRefused(t *testing.T) {
	t.Parallel()
	h, tr := moduletest.New(t, moduletest.Options{}), moduletest.NewTraces()
	handler := signHandler(t, h, new(Sign))
	tr.Serve(t, handler, moduletest.CreateRequest(context.Background(), "INV-1"))
	h.DOKU.ExpireToken()
	tr.Serve(t, handler, moduletest.CreateRequest(context.Background(), "INV-2"))
	moduletest.Same(
		t,
		"the trace",
		tr.Tree(post, telemetry.KeyAttempt, telemetry.KeyOutcome, telemetry.KeyResponseCode, telemetry.KeyRefreshReason,
			"http.request.resend_count", "error.type"),
		post+` 2 succeeded 2002700
  doku.sign 1
  `+post+` 1 token_refused 4012701 401
  doku.sign 2
    doku.token rejected
      doku.token.fetch rejected
        POST /authorization/v1/access-token/b2b
  `+post+` 2 succeeded 2002700 1`,
	)
}

func TestATraceShowsWhatACallFailedOf(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		path    string // that DOKU fails at
		fault   simulator.Fault
		request func() *http.Request
		want    string
	}{
		{"the body is no JSON", "", simulator.Fault{}, func() *http.Request {
			return httptest.NewRequestWithContext(context.Background(), http.MethodPost, moduletest.CreatePath,
				strings.NewReader(`{"virtualAccountName":`))
		}, post + " body_not_json\n  doku.sign body_not_json"},
		{
			"there is no token",
			moduletest.TokenPath,
			simulator.Fault{Status: http.StatusUnauthorized, Body: `{"responseCode":"4017300","responseMessage":"SK-secret"}`},
			nil,
			post + ` token
  doku.sign token
    doku.token
      doku.token.fetch
        POST /authorization/v1/access-token/b2b 401`,
		},
		{"DOKU drops the connection", moduletest.CreatePath, simulator.Fault{}, nil, post + ` outcome_unknown
  doku.sign
    doku.token
      doku.token.fetch
        POST /authorization/v1/access-token/b2b
  ` + post + ` outcome_unknown closed`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h, tr := moduletest.New(t, moduletest.Options{}), moduletest.NewTraces()
			if test.path != "" {
				h.DOKU.SetFault(test.path, &test.fault)
			}
			if test.request == nil {
				test.request = func() *http.Request { return moduletest.CreateRequest(context.Background(), "INV-1") }
			}
			tr.Serve(t, signHandler(t, h, new(Sign)), test.request())
			moduletest.Same(t, "the trace", tr.Tree(post, telemetry.KeyOutcome, telemetry.KeyReason, "error.type"), test.want)
			for _, span := range tr.Ended() {
				if strings.Contains(span.Status().Description, "SK-secret") {
					t.Errorf("%s quotes DOKU: %s", span.Name(), span.Status().Description)
				}
			}
		})
	}
}

func TestARenewalInTheBackgroundIsOnATraceOfItsOwn(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	h, tr := moduletest.New(t, moduletest.Options{Now: now}), moduletest.NewTraces()
	account(t, h).Clock().Now = now
	handler := signHandler(t, h, new(Sign))
	tr.Serve(t, handler, moduletest.CreateRequest(context.Background(), "INV-1"))
	ahead.Store(int64(14 * time.Minute))
	tr.Serve(t, handler, moduletest.CreateRequest(context.Background(), "INV-2"))
	if _, err := account(t, h).Tokens().Refresh(context.Background()); err != nil { // joins the renewal, if it has not ended
		t.Fatal(err)
	}
	fetch := tr.Last(t, "doku.token.fetch")
	if fetch.Parent().IsValid() || moduletest.AttributeOf(fetch, telemetry.KeyRefreshReason) != "ahead" {
		t.Fatalf("parent %v, reason %s", fetch.Parent(), moduletest.AttributeOf(fetch, telemetry.KeyRefreshReason))
	}
	if !slices.ContainsFunc(tr.Ended(), func(call sdktrace.ReadOnlySpan) bool {
		return call.Name() == "doku.sign" && call.SpanContext().TraceID() != fetch.SpanContext().TraceID() && moduletest.Linked(fetch, call) &&
			moduletest.Linked(call, fetch)
	}) {
		t.Errorf("the renewal has the links %v, expected one from and to the call that has begun it", fetch.Links())
	}
}

// withoutTracing calls everything that traces an outbound call.
func withoutTracing(c *call, r *http.Request) {
	ctx := r.Context()
	c.signing = nil
	ctx = c.startSigning(ctx)
	c.endSigning("")
	_, span := c.startAttempt(ctx, r, tokens.Token{})
	c.endAttempt(span, nil, nil)
	traceCall(r, c)
}

func TestWithoutTracingTracesCostNoAllocation(t *testing.T) {
	c, r := &call{}, httptest.NewRequestWithContext(context.Background(), http.MethodPost, moduletest.CreatePath, http.NoBody)
	if n := testing.AllocsPerRun(100, func() { withoutTracing(c, r) }); n != 0 {
		t.Errorf("%v allocations for each call", n)
	}
}
