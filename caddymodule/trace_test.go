package caddymodule

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/internal/inbox"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/internal/tokens"
	"github.com/caddy-doku/caddy-doku/simulator"
	"github.com/caddy-doku/caddy-doku/snap"
)

const inquiryPath = "/v1.1/transfer-va/inquiry"

// traces records spans, which begin where the tracing directive begins its own.
type traces struct {
	*tracetest.SpanRecorder
	provider *sdktrace.TracerProvider
}

func newTraces() *traces {
	recorder := tracetest.NewSpanRecorder()
	return &traces{recorder, sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))}
}

// serve gives a request to a handler inside the span of a server.
func (tr *traces) serve(t testing.TB, handler caddyhttp.Handler, r *http.Request) *httptest.ResponseRecorder {
	t.Helper()
	ctx, span := tr.provider.Tracer("test").Start(r.Context(), "handler", trace.WithSpanKind(trace.SpanKindServer))
	defer span.End()
	return serve(t, handler, r.WithContext(ctx))
}

// tree draws the ended spans of the trace that the last server span called name is
// on: a line for each, indented below its parent, with the attributes asked for.
func (tr *traces) tree(name string, keys ...attribute.Key) string {
	var of trace.TraceID
	all := tr.Ended()
	for _, span := range all {
		if span.Name() == name && !span.Parent().IsValid() {
			of = span.SpanContext().TraceID()
		}
	}
	all = slices.DeleteFunc(slices.Clone(all), func(s sdktrace.ReadOnlySpan) bool { return s.SpanContext().TraceID() != of })
	slices.SortStableFunc(all, func(a, b sdktrace.ReadOnlySpan) int { return a.StartTime().Compare(b.StartTime()) })
	var out strings.Builder
	var draw func(parent trace.SpanID, depth int)
	draw = func(parent trace.SpanID, depth int) {
		for _, span := range all {
			if span.Parent().SpanID() != parent {
				continue
			}
			fmt.Fprintf(&out, "%s%s", strings.Repeat("  ", depth), span.Name())
			for _, key := range keys {
				if value := attributeOf(span, key); value != "" {
					fmt.Fprintf(&out, " %s", value)
				}
			}
			out.WriteByte('\n')
			draw(span.SpanContext().SpanID(), depth+1)
		}
	}
	draw(trace.SpanID{}, 0)
	return strings.TrimSpace(out.String())
}

func attributeOf(span sdktrace.ReadOnlySpan, key attribute.Key) string {
	for _, kv := range span.Attributes() {
		if kv.Key == key {
			return kv.Value.String()
		}
	}
	return ""
}

// last returns the last ended span called name.
func (tr *traces) last(t testing.TB, name string) sdktrace.ReadOnlySpan {
	t.Helper()
	for _, span := range slices.Backward(tr.Ended()) {
		if span.Name() == name {
			return span
		}
	}
	t.Fatalf("there is no span %q", name)
	return nil
}

func same(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n%s\nexpected:\n%s", what, got, want)
	}
}

const post = "POST " + createPath

func TestATraceShowsTheWayOfACall(t *testing.T) {
	t.Parallel()
	h, tr := newHouse(t), newTraces()
	handler := h.sign(t, new(Sign))
	for _, trxID := range []string{"INV-1", "INV-2"} {
		if w := tr.serve(t, handler, create(context.Background(), trxID)); w.Code != http.StatusOK {
			t.Fatalf("HTTP %d %s", w.Code, w.Body)
		}
		want := "POST " + createPath + " 27 succeeded 2002700\n  doku.sign 27\n"
		if trxID == "INV-1" { // only the first call waits for a token
			want += "    doku.token first\n      doku.token.fetch first\n        POST /authorization/v1/access-token/b2b 73\n"
		}
		same(t, trxID, tr.tree(post, keyService, keyOutcome, keyResponseCode, keyRefreshReason), want+"  POST "+createPath+" 27 succeeded 2002700")
	}
	span := tr.last(t, post) // of the server
	client := slices.IndexFunc(tr.Ended(), func(s sdktrace.ReadOnlySpan) bool {
		return s.Parent().SpanID() == span.SpanContext().SpanID() && s.Name() == post
	})
	attempt := tr.Ended()[client]
	base := h.app.Accounts[0].base
	for key, want := range map[attribute.Key]string{
		"http.request.method": "POST", "url.template": createPath, "url.full": base.String() + createPath, "server.address": base.Hostname(), "server.port": base.Port(),
		"http.response.status_code": "200", "network.protocol.version": "1.1", "http.request.resend_count": "", "error.type": "",
		keyAccount: "default", keyAttempt: "1", keyTrxID: "INV-2", keyExternalID: attributeOf(span, keyExternalID),
	} {
		same(t, string(key), attributeOf(attempt, key), want)
	}
	if attempt.SpanKind() != trace.SpanKindClient || attempt.Status().Code != codes.Unset {
		t.Errorf("kind %s, status %v", attempt.SpanKind(), attempt.Status())
	}
	if attributeOf(attempt, keyTokenAge) == "" || attributeOf(attempt, keyExternalID) == "" {
		t.Errorf("expected the token's age and the external id, found %v", attempt.Attributes())
	}
}

func TestATraceShowsThatACallWasMadeBefore(t *testing.T) {
	t.Parallel()
	h, tr := newHouse(t), newTraces()
	handler := h.sign(t, new(Sign))
	tr.serve(t, handler, create(context.Background(), "INV-0")) // for the token
	for _, want := range []string{
		post + " succeeded 2002700\n  doku.sign\n    doku.repeat\n  " + post + " succeeded 2002700",
		post + " replayed 2002700\n  doku.sign\n    doku.repeat",
	} {
		r := create(context.Background(), "INV-1")
		r.Header.Set("Idempotency-Key", "K-1")
		tr.serve(t, handler, r)
		same(t, "the trace", tr.tree(post, keyOutcome, keyResponseCode, keyReason), want)
	}
}

func TestATraceShowsThatATokenWasRefused(t *testing.T) {
	t.Parallel()
	h, tr := newHouse(t), newTraces()
	handler := h.sign(t, new(Sign))
	tr.serve(t, handler, create(context.Background(), "INV-1"))
	h.doku.ExpireToken()
	tr.serve(t, handler, create(context.Background(), "INV-2"))
	same(t, "the trace", tr.tree(post, keyAttempt, keyOutcome, keyResponseCode, keyRefreshReason, "http.request.resend_count", "error.type"),
		post+` 2 succeeded 2002700
  doku.sign 1
  `+post+` 1 token_refused 4012701 401
  doku.sign 2
    doku.token rejected
      doku.token.fetch rejected
        POST /authorization/v1/access-token/b2b
  `+post+` 2 succeeded 2002700 1`)
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
			return httptest.NewRequestWithContext(context.Background(), http.MethodPost, createPath, strings.NewReader(`{"virtualAccountName":`))
		}, post + " body_not_json\n  doku.sign body_not_json"},
		{"there is no token", tokenRequestPath, simulator.Fault{Status: http.StatusUnauthorized, Body: `{"responseCode":"4017300","responseMessage":"SK-secret"}`}, nil, post + ` token
  doku.sign token
    doku.token
      doku.token.fetch
        POST /authorization/v1/access-token/b2b 401`},
		{"DOKU drops the connection", createPath, simulator.Fault{}, nil, post + ` outcome_unknown
  doku.sign
    doku.token
      doku.token.fetch
        POST /authorization/v1/access-token/b2b
  ` + post + ` outcome_unknown closed`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h, tr := newHouse(t), newTraces()
			if test.path != "" {
				h.doku.SetFault(test.path, &test.fault)
			}
			if test.request == nil {
				test.request = func() *http.Request { return create(context.Background(), "INV-1") }
			}
			tr.serve(t, h.sign(t, new(Sign)), test.request())
			same(t, "the trace", tr.tree(post, keyOutcome, keyReason, "error.type"), test.want)
			for _, span := range tr.Ended() {
				if strings.Contains(span.Status().Description, "SK-secret") {
					t.Errorf("%s quotes DOKU: %s", span.Name(), span.Status().Description)
				}
			}
		})
	}
}

const tokenRequestPath = tokens.TokenPath

func TestARenewalInTheBackgroundIsOnATraceOfItsOwn(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	h, tr := newHouseAt(t, func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }), newTraces()
	handler := h.sign(t, new(Sign))
	tr.serve(t, handler, create(context.Background(), "INV-1"))
	ahead.Store(int64(14 * time.Minute))
	tr.serve(t, handler, create(context.Background(), "INV-2"))
	if _, err := h.app.Accounts[0].tokens.Refresh(context.Background()); err != nil { // joins the renewal, if it has not ended
		t.Fatal(err)
	}
	fetch := tr.last(t, "doku.token.fetch")
	if fetch.Parent().IsValid() || attributeOf(fetch, keyRefreshReason) != "ahead" {
		t.Fatalf("parent %v, reason %s", fetch.Parent(), attributeOf(fetch, keyRefreshReason))
	}
	if !slices.ContainsFunc(tr.Ended(), func(call sdktrace.ReadOnlySpan) bool {
		return call.Name() == "doku.sign" && call.SpanContext().TraceID() != fetch.SpanContext().TraceID() && linked(fetch, call) && linked(call, fetch)
	}) {
		t.Errorf("the renewal has the links %v, expected one from and to the call that has begun it", fetch.Links())
	}
}

// linked reports whether a span has a link to another.
func linked(from, to sdktrace.ReadOnlySpan) bool {
	return slices.ContainsFunc(from.Links(), func(l sdktrace.Link) bool {
		return l.SpanContext.TraceID() == to.SpanContext().TraceID() && l.SpanContext.SpanID() == to.SpanContext().SpanID()
	})
}

// merchant serves what DOKU calls, inside spans, and returns where.
func (h *house) merchant(t *testing.T, tr *traces, verify *Verify, app http.HandlerFunc) string {
	t.Helper()
	token := new(Token)
	h.provision(t, token)
	h.provision(t, verify)
	nobody := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	answers := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		app(w, r)
		return nil
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, span := tr.provider.Tracer("test").Start(r.Context(), "handler", trace.WithSpanKind(trace.SpanKindServer),
			trace.WithAttributes(attribute.String("user_agent.original", r.UserAgent()), attribute.String("url.path", r.URL.Path)))
		defer span.End()
		r = caddyhttp.PrepareRequest(r.WithContext(ctx), caddy.NewReplacer(), w, &caddyhttp.Server{})
		var err error
		if r.URL.Path == tokens.TokenPath {
			err = token.ServeHTTP(w, r, nobody)
		} else {
			err = verify.ServeHTTP(w, r, answers)
		}
		if err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	h.doku.SetMerchantURLs(server.URL+tokens.TokenPath, server.URL+inquiryPath, server.URL+paymentPath)
	return server.URL
}

const paid = "POST " + paymentPath

// notification is a notification of DOKU's for a payment.
func notification() []byte {
	return []byte(`{"partnerServiceId":"    8808","customerNo":"90909090","virtualAccountNo":"    880890909090","virtualAccountName":"Toru","trxId":"T-1",` +
		`"paymentRequestId":"P-1","paidAmount":{"value":"11500.00","currency":"IDR"}}`)
}

func accept(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, `{"responseCode":"2002500","responseMessage":"Successful"}`)
}

func TestATraceShowsTheWayOfANotification(t *testing.T) {
	t.Parallel()
	h, tr := newHouse(t), newTraces()
	var told string
	merchant := h.merchant(t, tr, new(Verify), func(w http.ResponseWriter, r *http.Request) {
		told = r.Header.Get("Traceparent")
		accept(w, r)
	})
	call := simulator.Outgoing{URL: merchant + paymentPath, Body: notification(), ExternalID: "VA880890909090-1"}
	keys := []attribute.Key{keyService, keyOutcome, keyResponseCode, keySignatureForm, keyBodyForm, keyLedger, "http.response.status_code"}
	for _, want := range []string{
		paid + ` 25 accepted 2002500
  doku.verify 25 symmetric received
  doku.ledger new
    ` + paid + ` 200`,
		paid + ` 25 replayed 2002500
  doku.verify 25 symmetric received
  doku.ledger repeat`,
	} {
		if _, err := h.doku.Call(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		same(t, "the trace", tr.tree(paid, keys...), want)
	}
	var delivery sdktrace.ReadOnlySpan
	for _, span := range tr.Ended() {
		if span.SpanKind() == trace.SpanKindClient {
			delivery = span
		}
	}
	if delivery == nil || told != traceparent(delivery.SpanContext()) {
		t.Errorf("the app was told the trace %q, expected the span that calls it", told)
	}
	verified := tr.last(t, "doku.verify")
	if attributeOf(verified, keyClockDifference) == "" {
		t.Errorf("expected the difference of the clocks, found %v", verified.Attributes())
	}
	same(t, "the external id, which has the number in it", attributeOf(verified, keyExternalID), "VA****9090-1")
	same(t, "the number", attributeOf(verified, keyVirtualAccount), "****9090")
	same(t, "the token request", tr.tree("POST "+tokens.TokenPath, keyAccount, keyService, keyOutcome, keyResponseCode), "POST "+tokens.TokenPath+" default 73 issued 2007300\n  doku.issue_token")
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
			h, tr := newHouse(t), newTraces()
			test.call.URL, test.call.Body = h.merchant(t, tr, new(Verify), accept)+paymentPath, notification()
			if _, err := h.doku.Call(t.Context(), test.call); err != nil {
				t.Fatal(err)
			}
			same(t, "the trace", tr.tree("POST", keyOutcome, keyReason, keyResponseCode), test.want)
			verified := tr.last(t, "doku.verify")
			if difference := attributeOf(verified, keyClockDifference); !strings.HasPrefix(difference, test.enough) || verified.Status().Code != codes.Error {
				t.Errorf("difference of clocks %s, status %v", difference, verified.Status())
			}
		})
	}
}

// TestWhatIsNoTextCannotSpoilATrace: an exporter refuses all spans of a batch if one of
// them has a string that is not UTF-8.
func TestWhatIsNoTextCannotSpoilATrace(t *testing.T) {
	t.Parallel()
	h, tr := newHouse(t), newTraces()
	merchant := h.merchant(t, tr, &Verify{Enforce: enforceReport}, accept)
	for _, path := range []string{"/%ff/transfer-va/payment", tokens.TokenPath} {
		_, err := h.doku.Call(t.Context(), simulator.Outgoing{URL: merchant + path, Body: notification(), ExternalID: "\xff", Mutate: func(r *http.Request) {
			r.Header.Set("User-Agent", "\xff")
			r.Header.Set("X-PARTNER-ID", "\xff")
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, span := range tr.Ended() {
		for _, attr := range append(span.Attributes(), attribute.String("name", span.Name()), attribute.String("status", span.Status().Description)) {
			if !utf8.ValidString(attr.Value.String()) {
				t.Errorf("%s has %s %q", span.Name(), attr.Key, attr.Value.String())
			}
		}
	}
}

func TestATraceShowsAnAppThatFails(t *testing.T) {
	t.Parallel()
	h, tr := newHouse(t), newTraces()
	merchant := h.merchant(t, tr, new(Verify), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	if _, err := h.doku.Call(t.Context(), simulator.Outgoing{URL: merchant + paymentPath, Body: notification()}); err != nil {
		t.Fatal(err)
	}
	same(t, "the trace", tr.tree(paid, keyOutcome, "http.response.status_code", "error.type"),
		paid+" app_refused\n  doku.verify\n  doku.ledger\n    "+paid+" 503 503")
}

func TestTracesGoToTheAppAlsoWhileNothingIsEnforced(t *testing.T) {
	t.Parallel()
	h, tr := newHouse(t), newTraces()
	var told string
	merchant := h.merchant(t, tr, &Verify{Enforce: enforceReport}, func(w http.ResponseWriter, r *http.Request) {
		told = r.Header.Get("Traceparent")
		accept(w, r)
	})
	if _, err := h.doku.Call(t.Context(), simulator.Outgoing{URL: merchant + paymentPath, Body: notification()}); err != nil {
		t.Fatal(err)
	}
	same(t, "the trace", tr.tree(paid), paid+"\n  doku.verify\n  "+paid)
	same(t, "the app's trace", told, traceparent(tr.Ended()[len(tr.Ended())-2].SpanContext()))
	same(t, "the outcome", attributeOf(tr.last(t, paid), keyOutcome), "reported_verified")

	if _, err := h.doku.Call(t.Context(), simulator.Outgoing{URL: merchant + paymentPath, Body: notification(), Timestamp: "2024-01-01T00:00:00Z"}); err != nil {
		t.Fatal(err)
	}
	same(t, "the outcome of a call that is not DOKU's", attributeOf(tr.last(t, "POST"), keyOutcome), "reported_timestamp_old")
	same(t, "the reason", attributeOf(tr.last(t, "POST"), keyReason), "timestamp_old")
}

func TestThePaymentIsLinkedWithTheCreationOfItsVirtualAccount(t *testing.T) {
	t.Parallel()
	h, tr := newHouse(t), newTraces()
	merchant := h.merchant(t, tr, new(Verify), func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == inquiryPath {
			_, _ = io.WriteString(w, `{"responseCode":"2002400","responseMessage":"Successful","virtualAccountData":{"additionalInfo":{"trxId":"T-1"}}}`)
			return
		}
		accept(w, r)
	})
	handler := h.sign(t, new(Sign))
	stories := h.app.Accounts[0].stories
	creation := func(trxID string) sdktrace.ReadOnlySpan {
		body := `{"partnerServiceId":"    8808","customerNo":"90909090","virtualAccountNo":"    880890909090","virtualAccountName":"Toru","trxId":"` + trxID + `",` +
			`"totalAmount":{"value":"11500.00","currency":"IDR"},"virtualAccountTrxType":"C","additionalInfo":{"channel":"VIRTUAL_ACCOUNT_BANK_PERMATA"}}`
		tr.serve(t, handler, httptest.NewRequestWithContext(context.Background(), http.MethodPost, createPath, strings.NewReader(body)))
		stories.wg.Wait()
		return tr.last(t, post)
	}
	called := func(path string, body []byte) sdktrace.ReadOnlySpan {
		if _, err := h.doku.Call(t.Context(), simulator.Outgoing{URL: merchant + path, Body: body}); err != nil {
			t.Fatal(err)
		}
		stories.wg.Wait()
		return tr.last(t, "POST "+path)
	}
	created := creation("T-1")
	inquired := called(inquiryPath, []byte(`{"partnerServiceId":"00008808","customerNo":"90909090","virtualAccountNo":"0000880890909090","inquiryRequestId":"D-1"}`))
	another := creation("T-2") // the number is used again
	paid := called(paymentPath, notification())
	if !linked(inquired, created) || !linked(paid, created) || !linked(paid, inquired) || linked(paid, another) {
		t.Errorf("links of the inquiry %v, of the payment %v", inquired.Links(), paid.Links())
	}
}

func TestAStoryIsKeptAsLongAsItsVirtualAccountMayLive(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 8, 27, 9, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name, expires string
		want          time.Duration
	}{
		{"without an end, a week", "", storyUsual},
		{"to its end and a day more", now.Add(48 * time.Hour).Format(time.RFC3339), 72 * time.Hour},
		{"a day at least", now.Add(-48 * time.Hour).Format(time.RFC3339), storyGrace},
		{"a month at most", now.Add(4000 * time.Hour).Format(time.RFC3339), storyLongest},
		{"a week if the end cannot be read", "tomorrow", storyUsual},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			kept := &recordingStore{}
			s := newStories(kept, func() time.Time { return now })
			s.add(t.Context(), billOf(fmt.Appendf(nil, `{"virtualAccountNo":"    880890909090","expiredDate":%q}`, test.expires)), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}}))
			s.wg.Wait()
			s.close()
			if kept.ttl != test.want || strings.Contains(kept.key, "0909") {
				t.Errorf("kept under %s for %s, expected %s", kept.key, kept.ttl, test.want)
			}
		})
	}
}

// recordingStore knows what was kept last.
type recordingStore struct {
	store.Store
	key string
	ttl time.Duration
}

func (*recordingStore) Get(context.Context, string) ([]byte, error) { return nil, nil }

func (r *recordingStore) Set(_ context.Context, key string, _ []byte, ttl time.Duration) error {
	r.key, r.ttl = key, ttl
	return nil
}

func TestARedeliveryIsANewTraceLinkedWithTheFirst(t *testing.T) {
	t.Parallel()
	tr := newTraces()
	ctx, first := tr.provider.Tracer("test").Start(context.Background(), "handler")
	kept := inbox.Call{Account: "default", Service: snap.ServiceVAPayment, ExternalID: "1", Attempts: 2, Body: notification(), Trace: traceOf(ctx)}
	first.End()
	_, span := startRedelivery(context.Background(), tr.provider, kept)
	span.End()
	again := tr.last(t, "doku.redeliver")
	if !linked(again, tr.last(t, "handler")) || again.SpanContext().TraceID() == first.SpanContext().TraceID() {
		t.Errorf("links %v", again.Links())
	}
	same(t, "the redelivery", tr.tree("doku.redeliver", keyAccount, keyService, keyAttempt, keyVirtualAccount), "doku.redeliver default 25 2 ****9090")

	kept.Trace = "" // it was not recorded
	_, span = startRedelivery(context.Background(), new(seenProvider).get(), kept)
	if span.IsRecording() {
		t.Error("a redelivery is recorded that no provider is there for")
	}
	span.End()
}

func TestTheNameThatTheConfigurationGivesAServersSpanStays(t *testing.T) {
	t.Parallel()
	tr := newTraces()
	_, span := tr.provider.Tracer("test").Start(context.Background(), "mine")
	nameServer(span, http.MethodPost, createPath, snap.ServiceVACreate)
	span.End()
	tr.last(t, "mine")
}

// withoutTracing is everything that a call goes through on account of traces, when
// there are none.
func withoutTracing(c *call, in *inbound, b *box, r *http.Request) {
	ctx := r.Context()
	c.signing = nil
	ctx = c.beginSigning(ctx)
	_, span := startSpan(ctx, "doku.token")
	span.End()
	c.endSigning("")
	_, span = c.startAttempt(ctx, r, tokens.Token{})
	c.endAttempt(span, nil, nil)
	traceCall(r, c)
	in.span = trace.SpanFromContext(ctx)
	in.join(ctx)
	_, delivered := startDelivery(r, true, nil)
	delivered(http.StatusOK, nil)
	inboxed(ctx)
	r, attempted := b.startAttempt(r, inbox.Call{})
	attempted(r, http.StatusOK, nil)
	cleanse(in.span)
	in.traceEnd(ctx, "accepted", nil)
	refuser{}.trace(r, "signature", refusal{})
	traceIssued(r, "default")
}

func TestWithoutTracingTracesCostNoAllocation(t *testing.T) {
	c, in, b := &call{}, &inbound{}, &box{}
	r := httptest.NewRequestWithContext(context.WithValue(context.Background(), inboundKey{}, in), http.MethodPost, createPath, http.NoBody)
	if n := testing.AllocsPerRun(100, func() { withoutTracing(c, in, b, r) }); n != 0 {
		t.Errorf("%v allocations for each call", n)
	}
}

func BenchmarkWithoutTracing(b *testing.B) {
	c, in, kept := &call{}, &inbound{}, &box{}
	r := httptest.NewRequestWithContext(context.WithValue(context.Background(), inboundKey{}, in), http.MethodPost, createPath, http.NoBody)
	b.ReportAllocs()
	for b.Loop() {
		withoutTracing(c, in, kept, r)
	}
}
