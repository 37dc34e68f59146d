package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/caddy-doku/caddy-doku/internal/inbox"
	"github.com/caddy-doku/caddy-doku/internal/ledger"
	"github.com/caddy-doku/caddy-doku/internal/tokens"
	"github.com/caddy-doku/caddy-doku/snap"
)

// The attributes of spans, besides those of OpenTelemetry's conventions. Nothing
// secret or personal is in them, nor in names, events and statuses: what DOKU, an
// app or a stranger has written stays out, but for ids.
const (
	keyAccount         = attribute.Key("doku.account")
	keyService         = attribute.Key("doku.service_code")
	keyExternalID      = attribute.Key("doku.external_id")
	keyResponseCode    = attribute.Key("doku.response_code")
	keyOutcome         = attribute.Key("doku.outcome") // as in the counters
	keyReason          = attribute.Key("doku.reason")  // of a refusal
	keyAttempt         = attribute.Key("doku.attempt")
	keyTokenAge        = attribute.Key("doku.token.age") // in seconds
	keyRefreshReason   = attribute.Key("doku.token.refresh_reason")
	keySignatureForm   = attribute.Key("doku.signature_form")
	keyBodyForm        = attribute.Key("doku.body_form")
	keyClockDifference = attribute.Key("doku.clock.difference") // in seconds, by which X-TIMESTAMP was behind
	keyLedger          = attribute.Key("doku.ledger.result")
	keyVirtualAccount  = attribute.Key("doku.virtual_account_no")
	keyTrxID           = attribute.Key("doku.trx_id")
)

// startSpan starts a span in the trace that ctx belongs to. Caddy's tracing
// directive has a provider of its own, which only the context leads to. Without
// the directive, or if the trace is not sampled, it costs nothing.
func startSpan(ctx context.Context, name string) (context.Context, trace.Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, parent
	}
	return tracer(parent.TracerProvider()).Start(ctx, name)
}

func tracer(provider trace.TracerProvider) trace.Tracer {
	return provider.Tracer("github.com/caddy-doku/caddy-doku/caddymodule")
}

// startClient starts the span of an HTTP request, if the trace of ctx is recorded.
// The query stays out of it. low says that paths like this one are few.
func startClient(ctx context.Context, method string, target *url.URL, low bool) (context.Context, trace.Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, parent
	}
	attrs := []attribute.KeyValue{methodOf(method)}
	name := attrs[0].Value.AsString()
	if low {
		name += " " + target.Path
		attrs = append(attrs, semconv.URLTemplate(target.Path))
	}
	attrs = append(attrs, serverOf(target)...)
	return tracer(parent.TracerProvider()).Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attrs...)) //nolint:spancheck // who has asked for it ends it
}

// methodOf returns the attribute for a method. One that HTTP does not know is not
// told, for anybody can send one.
func methodOf(method string) attribute.KeyValue {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return semconv.HTTPRequestMethodKey.String(method)
	}
	return semconv.HTTPRequestMethodOther
}

// serverOf returns the attributes for where a request goes, if that is known.
func serverOf(target *url.URL) []attribute.KeyValue {
	if target.Host == "" {
		return nil
	}
	bare := url.URL{Scheme: target.Scheme, Host: target.Host, Path: target.Path, RawPath: target.RawPath}
	port, _ := strconv.Atoi(portOf(target))
	return []attribute.KeyValue{semconv.ServerAddress(target.Hostname()), semconv.ServerPort(port), semconv.URLFull(bare.String())}
}

// endClient ends the span of an HTTP request with what came of it.
func endClient(span trace.Span, resp *http.Response, err error) {
	defer span.End()
	switch {
	case !span.IsRecording():
	case err != nil:
		span.SetAttributes(semconv.ErrorTypeKey.String(errorType(err)))
		span.SetStatus(codes.Error, "")
	case resp != nil:
		span.SetAttributes(semconv.HTTPResponseStatusCode(resp.StatusCode), semconv.NetworkProtocolVersion(strings.TrimPrefix(strings.TrimSuffix(resp.Proto, ".0"), "HTTP/")))
		failedStatus(span, resp.StatusCode)
	}
}

// failedStatus marks the span of a request that was answered with an error.
func failedStatus(span trace.Span, status int) {
	if status >= http.StatusBadRequest {
		span.SetAttributes(semconv.ErrorTypeKey.String(strconv.Itoa(status)))
		span.SetStatus(codes.Error, "")
	}
}

// errorType returns the kind of an error. Its text may quote what came over the
// wire, so it is not told.
func errorType(err error) string {
	var network net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed"
	}
	if dial, ok := errors.AsType[*net.OpError](err); ok {
		return dial.Op
	}
	if local, ok := errors.AsType[*localError](err); ok {
		return local.reason
	}
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return fmt.Sprintf("%T", err)
		}
		err = inner
	}
}

// cleanse makes text on the span that the tracing directive has begun valid: one
// call with bytes that are no text would otherwise cost the export of hundreds of
// spans.
func cleanse(span trace.Span) {
	begun, ok := span.(interface {
		Attributes() []attribute.KeyValue
	})
	if !ok {
		return
	}
	for _, attr := range begun.Attributes() {
		if text := attr.Value.AsString(); !utf8.ValidString(text) {
			span.SetAttributes(attr.Key.String(strings.ToValidUTF8(text, "\ufffd")))
		}
	}
}

// nameServer gives the span that the tracing directive has begun a name that says
// what is asked for, unless the configuration has chosen one.
func nameServer(span trace.Span, method, path string, service snap.Service) {
	const unnamed = "handler"
	if named, ok := span.(interface{ Name() string }); !ok || named.Name() != unnamed {
		return
	}
	name := methodOf(method).Value.AsString()
	if service != "" && service != snap.ServiceUnknown {
		path, _, _ = strings.Cut(path, "?")
		name += " " + path
		span.SetAttributes(semconv.HTTPRoute(path))
	}
	span.SetName(name)
}

// refusedBy marks a span as ended by a refusal. The reasons are a closed set.
func refusedBy(span trace.Span, reason string) {
	span.SetAttributes(keyReason.String(reason))
	span.SetStatus(codes.Error, reason)
}

// beginSigning begins the span of an attempt's signature, unless it has begun.
func (c *call) beginSigning(ctx context.Context) context.Context {
	if c.signing == nil {
		ctx, c.signing = startSpan(ctx, "doku.sign")
	} else if c.signing.IsRecording() {
		ctx = trace.ContextWithSpan(ctx, c.signing)
	}
	return ctx
}

// endSigning ends it. reason is why there is no signature, if there is none.
func (c *call) endSigning(reason string) {
	if c.signing == nil {
		return
	}
	if c.signing.IsRecording() {
		c.signing.SetAttributes(c.attributes()...)
		if reason != "" {
			refusedBy(c.signing, reason)
		}
		c.signing.End()
	}
	c.signing = nil
}

// attributes returns what there is to tell of a call.
func (c *call) attributes() []attribute.KeyValue {
	attrs := describeCall(c.name(), c.service, c.externalID, c.bill())
	if c.attempts > 0 {
		attrs = append(attrs, keyAttempt.Int(c.attempts))
	}
	return attrs
}

// bill returns what the call tells of a bill.
func (c *call) bill() bill {
	if c.billed == nil {
		b := billOf(c.body)
		c.billed = &b
	}
	return *c.billed
}

// describeCall returns the attributes that a call has in either direction.
func describeCall(account string, service snap.Service, externalID string, b bill) []attribute.KeyValue {
	attrs := []attribute.KeyValue{keyService.String(string(service))}
	for key, value := range map[attribute.Key]string{keyAccount: account, keyExternalID: b.hide(externalID), keyVirtualAccount: mask(b.number), keyTrxID: b.hide(b.trxID)} {
		if value != "" {
			attrs = append(attrs, key.String(strings.ToValidUTF8(value, "\ufffd")))
		}
	}
	return attrs
}

// startAttempt starts the span of one attempt at a call.
func (c *call) startAttempt(ctx context.Context, req *http.Request, token tokens.Token) (context.Context, trace.Span) {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, trace.SpanFromContext(ctx)
	}
	target := &url.URL{Scheme: c.account.base.Scheme, Host: c.account.base.Host, Path: req.URL.Path, RawPath: req.URL.RawPath}
	ctx, span := startClient(ctx, req.Method, target, c.service != snap.ServiceUnknown)
	if span.IsRecording() { // the sampler may have chosen not to
		span.SetAttributes(c.attributes()...)
		span.SetAttributes(keyTokenAge.Float64(c.account.clock.Now().Sub(token.Issued).Seconds()))
		if c.attempts > 1 {
			span.SetAttributes(semconv.HTTPRequestResendCount(c.attempts - 1))
		}
	}
	return ctx, span
}

// endAttempt ends it.
func (c *call) endAttempt(span trace.Span, resp *http.Response, err error) {
	if span.IsRecording() {
		var outcome string
		switch {
		case err != nil && c.written.Load():
			outcome = "outcome_unknown"
		case err != nil:
			outcome = "unreachable"
		case tokenRefused(resp.StatusCode, c.answer):
			outcome = "token_refused"
		default:
			outcome = answeredBy(resp.StatusCode)
		}
		span.SetAttributes(keyOutcome.String(outcome))
		if err == nil && c.answer != nil {
			span.SetAttributes(responseCode(c.answer.Body)...)
		}
	}
	endClient(span, resp, err)
}

// responseCode returns the attribute for the response code in an answer, if it has one.
func responseCode(body []byte) []attribute.KeyValue {
	var fields struct {
		ResponseCode snap.ResponseCode `json:"responseCode"`
	}
	_ = json.Unmarshal(body, &fields) // what is not JSON has none
	if _, _, ok := fields.ResponseCode.Case(); !ok {
		return nil
	}
	return []attribute.KeyValue{keyResponseCode.String(string(fields.ResponseCode))}
}

// traceCall tells the trace of the app's request what has become of the call.
func traceCall(r *http.Request, c *call) {
	span := trace.SpanFromContext(r.Context())
	if !span.IsRecording() {
		return
	}
	given, reason := c.answer, c.outcome
	if c.outcome == outcomeReplayed {
		given, reason = c.repeatable.Answer, ""
	}
	c.endSigning(reason) // if it got no further
	if given != nil {
		b := c.bill().or(billOf(given.Body)) // DOKU may have made the number
		c.billed = &b
		span.SetAttributes(responseCode(given.Body)...)
	}
	nameServer(span, r.Method, r.URL.Path, c.service)
	span.SetAttributes(c.attributes()...)
	span.SetAttributes(keyOutcome.String(c.outcome))
	if c.outcome == outcomeSucceeded && c.service == snap.ServiceVACreate && given != nil {
		c.account.stories.add(r.Context(), c.bill(), span.SpanContext())
	}
}

// fetchTrace is a fetch of a token, for the traces of those who wait for it.
type fetchTrace struct {
	reason tokens.Reason
	span   trace.SpanContext
}

// aroundFetch traces and counts a fetch of a token: see [tokens.TokenConfig].
func (s *session) aroundFetch(fetch, cause context.Context, reason tokens.Reason) (context.Context, func(error)) {
	fetch, counted := s.countRefresh(fetch, cause, reason)
	fetch, traced := s.traceFetch(fetch, cause, reason)
	return fetch, func(err error) {
		counted(err)
		traced(err)
	}
}

// traceFetch puts a fetch of a token on a trace: on that of the call that waits for
// it, or, if none does, on one of its own, linked with that of the call that has
// started it.
func (s *session) traceFetch(fetch, cause context.Context, reason tokens.Reason) (context.Context, func(error)) {
	causing := trace.SpanFromContext(cause)
	if !causing.IsRecording() {
		s.fetch.Store(&fetchTrace{reason: reason})
		return fetch, func(error) {}
	}
	options := []trace.SpanStartOption{trace.WithAttributes(keyRefreshReason.String(string(reason)))}
	background := reason == tokens.ReasonAhead
	if background {
		options = append(options, trace.WithNewRoot(), trace.WithLinks(trace.Link{SpanContext: causing.SpanContext()}))
	} else {
		fetch = trace.ContextWithSpan(fetch, causing)
	}
	fetch, span := tracer(causing.TracerProvider()).Start(fetch, "doku.token.fetch", options...)
	if background {
		causing.AddLink(trace.Link{SpanContext: span.SpanContext()})
	}
	s.fetch.Store(&fetchTrace{reason, span.SpanContext()})
	return fetch, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, tokenFailure(err))
		}
		span.End()
	}
}

// tokenFailure returns which of its errors a fetch has ended with.
func tokenFailure(err error) string {
	for _, known := range []error{tokens.ErrTokenRefused, tokens.ErrTokenAnswer, tokens.ErrTokenUnreachable, tokens.ErrTokenClosed} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return errorType(err)
}

// token returns the B2B token, and if it must be waited for, does so inside a span.
func (s *session) token(ctx context.Context) (tokens.Token, error) {
	if token, ok := s.tokens.Current(ctx); ok {
		return token, nil
	}
	ctx, span := startSpan(ctx, "doku.token")
	defer span.End()
	token, err := s.tokens.Token(ctx)
	if !span.IsRecording() {
		return token, err
	}
	if fetch := s.fetch.Load(); fetch != nil {
		span.SetAttributes(keyRefreshReason.String(string(fetch.reason)))
		if fetch.span.IsValid() && fetch.span.TraceID() != span.SpanContext().TraceID() { // another call had started it
			span.AddLink(trace.Link{SpanContext: fetch.span})
		}
	}
	if err != nil {
		span.SetStatus(codes.Error, tokenFailure(err))
	}
	return token, err
}

// tracedTransport makes the token requests, each in a span. DOKU is told nothing
// of it.
type tracedTransport struct{ *http.Transport }

func (t tracedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, span := startClient(req.Context(), req.Method, req.URL, true)
	if span.IsRecording() {
		req = req.WithContext(ctx)
		span.SetAttributes(keyService.String(string(snap.ServiceB2BToken)))
	}
	resp, err := t.Transport.RoundTrip(req)
	endClient(span, resp, err)
	return resp, err
}

// seenProvider is the provider of the last span that was recorded, for spans that
// no request begins: Caddy gives its own to nobody.
type seenProvider struct {
	last atomic.Pointer[trace.TracerProvider]
}

func (s *seenProvider) see(span trace.Span) {
	provider := span.TracerProvider()
	if last := s.last.Load(); last == nil || *last != provider {
		s.last.Store(&provider)
	}
}

// get returns the provider, or one that records nothing.
func (s *seenProvider) get() trace.TracerProvider {
	if last := s.last.Load(); last != nil {
		return *last
	}
	return noop.NewTracerProvider()
}

// trace tells the trace of DOKU's request what was found when it was verified.
func (in *inbound) trace(span trace.Span, why refusal, ok bool) {
	name := ""
	if in.account != nil {
		name = in.account.Name
	}
	span.SetAttributes(describeCall(name, in.service, in.id.ExternalID, in.bill())...)
	if in.aged {
		span.SetAttributes(keyClockDifference.Float64(in.age.Seconds()))
	}
	if !ok {
		refusedBy(span, why.reason)
		return
	}
	span.SetAttributes(keySignatureForm.String(string(in.verified.Signature)), keyBodyForm.String(string(in.verified.BodyForm)))
}

// bill returns what a verified call tells of a bill. The body of another one is
// anybody's.
func (in *inbound) bill() bill {
	if in.billed == nil && in.id.ExternalID != "" {
		b := billOf(in.body)
		in.billed = &b
	}
	if in.billed == nil {
		return bill{}
	}
	return *in.billed
}

// join links the trace of a verified call with those of the calls before it that
// are about the same bill.
func (in *inbound) join(ctx context.Context) {
	span := in.span
	if !span.IsRecording() {
		return
	}
	in.account.provider.see(span)
	nameServer(span, in.method, in.target, in.service)
	b := in.bill()
	span.SetAttributes(describeCall(in.account.Name, in.service, in.id.ExternalID, b)...)
	for _, link := range in.account.stories.find(ctx, b) {
		span.AddLink(link)
	}
}

// traceEnd tells the trace of DOKU's request what has become of it.
func (in *inbound) traceEnd(ctx context.Context, outcome string, answer []byte) {
	span := in.span
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(keyOutcome.String(outcome))
	span.SetAttributes(responseCode(answer)...)
	if in.service == snap.ServiceVAInquiry && outcome == outcomeAccepted {
		in.account.stories.add(ctx, in.bill().or(billOf(answer)), span.SpanContext())
	}
}

// ledgerResult says what the ledger has found.
func ledgerResult(out ledger.Outcome, err error) string {
	switch {
	case errors.Is(err, ledger.ErrConflict):
		return "conflict"
	case errors.Is(err, ledger.ErrInFlight):
		return "in_flight"
	case errors.Is(err, ledger.ErrLedger):
		return "unavailable"
	case errors.Is(err, ledger.ErrNotRecorded):
		return "not_recorded"
	case out.Replayed:
		return "repeat"
	case out.Changed:
		return "changed"
	}
	return "new"
}

// traceIssued tells the trace of a token request of DOKU's that it got a token.
func traceIssued(r *http.Request, account string) {
	if span := trace.SpanFromContext(r.Context()); span.IsRecording() {
		nameServer(span, r.Method, r.URL.Path, snap.ServiceB2BToken)
		span.SetAttributes(keyAccount.String(account), keyService.String(string(snap.ServiceB2BToken)), keyOutcome.String(outcomeIssued),
			keyResponseCode.String(snap.Successful.Code(snap.ServiceB2BToken)))
	}
}

// trace tells the trace of DOKU's request why it was refused.
func (f refuser) trace(r *http.Request, outcome string, why refusal) {
	span := trace.SpanFromContext(r.Context())
	if !span.IsRecording() {
		return
	}
	nameServer(span, r.Method, "", snap.ServiceUnknown) // unless it was verified: the path is anybody's
	if f.account != "" {
		span.SetAttributes(keyAccount.String(f.account))
	}
	span.SetAttributes(keyService.String(string(f.service)), keyOutcome.String(outcome), keyReason.String(why.reason), keyResponseCode.String(why.c.Code(f.service)))
}

// delivery is the span of a call of the app on behalf of DOKU, who waits.
type delivery struct {
	span  trace.Span
	above trace.Span // its parent
	taken bool       // by the first attempt of an inbox
}

type deliveryKey struct{}

// startDelivery starts the span of a call of the app, and has r, whose header it
// may change, tell the app of it. verified says whether the call is DOKU's, whose
// paths are few. The function ends it, with the status of the app's answer, or 0,
// or the error.
func startDelivery(r *http.Request, verified bool, into propagation.TextMapPropagator) (*http.Request, func(status int, err error)) {
	ctx, span := startClient(r.Context(), r.Method, &url.URL{Path: r.URL.Path}, verified)
	if !span.IsRecording() {
		return r, func(int, error) {}
	}
	ctx = context.WithValue(ctx, deliveryKey{}, &delivery{span: span, above: trace.SpanFromContext(r.Context())})
	r = r.WithContext(ctx)
	into.Inject(ctx, propagation.HeaderCarrier(r.Header))
	return r, func(status int, err error) { endDelivery(span, r, status, err) }
}

// endDelivery ends the span of a call of the app.
func endDelivery(span trace.Span, r *http.Request, status int, err error) {
	defer span.End()
	if !span.IsRecording() { // the attempt of an inbox has ended it
		return
	}
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		if host, _ := repl.GetString("http.reverse_proxy.upstream.hostport"); host != "" {
			span.SetAttributes(serverOf(&url.URL{Scheme: "http", Host: host, Path: r.URL.Path})...)
		}
	}
	switch {
	case err != nil:
		span.SetAttributes(semconv.ErrorTypeKey.String(errorType(err)))
		span.SetStatus(codes.Error, "")
	case status != 0:
		span.SetAttributes(semconv.HTTPResponseStatusCode(status))
		failedStatus(span, status)
	}
}

// inboxed says that an inbox has the call, and that its attempts, if there are any,
// are what calls the app.
func inboxed(ctx context.Context) {
	if d, ok := ctx.Value(deliveryKey{}).(*delivery); ok {
		d.span.SetName("doku.inbox")
	}
}

// startAttempt starts the span of an attempt of an inbox at handing over a call: on
// the trace of the request that brings it or, if there is none, on a new one, which
// is linked with that. r, whose header it may change, tells the app of it. The
// function ends it.
func (b *box) startAttempt(r *http.Request, c inbox.Call) (*http.Request, func(r *http.Request, status int, err error)) {
	ctx := r.Context()
	in, live := ctx.Value(inboundKey{}).(*inbound)
	d, recorded := ctx.Value(deliveryKey{}).(*delivery)
	var span, redelivery trace.Span
	switch {
	case live && !recorded:
		return r, func(*http.Request, int, error) {}
	case !live, in.id.Key() != c.Key: // one of its lane that came before it goes first
		ctx, redelivery = startRedelivery(ctx, b.app.provider(c.Account), c)
		ctx, span = startClient(ctx, r.Method, &url.URL{Path: r.URL.Path}, true)
	case !d.taken:
		d.taken, span = true, d.span
		span.SetName(http.MethodPost + " " + r.URL.Path)
	default:
		ctx, span = startClient(trace.ContextWithSpan(ctx, d.above), r.Method, &url.URL{Path: r.URL.Path}, true)
	}
	if span.IsRecording() {
		span.SetAttributes(describeCall(c.Account, c.Service, c.ExternalID, billOf(c.Body))...)
		span.SetAttributes(keyAttempt.Int(c.Attempts))
		if c.Attempts > 1 {
			span.SetAttributes(semconv.HTTPRequestResendCount(c.Attempts - 1))
		}
	}
	r = r.WithContext(ctx)
	b.traces.Inject(ctx, propagation.HeaderCarrier(r.Header))
	return r, func(r *http.Request, status int, err error) {
		endDelivery(span, r, status, err)
		if redelivery == nil {
			return
		}
		if err != nil || status < 200 || status > 299 {
			redelivery.SetStatus(codes.Error, string(inbox.EventFailed))
		}
		redelivery.End()
	}
}

// provider returns the provider for spans of an account's that no request begins.
func (a *App) provider(account string) trace.TracerProvider {
	if found := a.named(account); found != nil {
		return found.session.provider.get()
	}
	return new(seenProvider).get()
}

// traceOf returns the trace that ctx belongs to as text, or "" if it is not recorded.
func traceOf(ctx context.Context) string {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return ""
	}
	return traceparent(span.SpanContext())
}

func traceparent(span trace.SpanContext) string {
	return fmt.Sprintf("00-%s-%s-%s", span.TraceID(), span.SpanID(), span.TraceFlags())
}

// spanOf returns the span that a text of traceparent names.
func spanOf(text string) trace.SpanContext {
	parts := strings.Split(text, "-")
	if len(parts) != 4 {
		return trace.SpanContext{}
	}
	traceID, err := trace.TraceIDFromHex(parts[1])
	if err != nil {
		return trace.SpanContext{}
	}
	spanID, err := trace.SpanIDFromHex(parts[2])
	if err != nil {
		return trace.SpanContext{}
	}
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: spanID, TraceFlags: trace.FlagsSampled, Remote: true})
}

// startRedelivery starts the trace of handing a kept notification over again,
// which is linked with the trace of the request that brought it.
func startRedelivery(ctx context.Context, provider trace.TracerProvider, c inbox.Call) (context.Context, trace.Span) {
	options := []trace.SpanStartOption{trace.WithNewRoot()}
	if first := spanOf(c.Trace); first.IsValid() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: first}))
	}
	ctx, span := tracer(provider).Start(ctx, "doku.redeliver", options...)
	if span.IsRecording() {
		span.SetAttributes(describeCall(c.Account, c.Service, c.ExternalID, billOf(c.Body))...)
		span.SetAttributes(keyAttempt.Int(c.Attempts))
	}
	return ctx, span
}
