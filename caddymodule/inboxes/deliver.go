package inboxes

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/inbox"
	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/internal/store"
	"github.com/caddy-doku/caddy-doku/snap"
)

// foreground is a request from DOKU that waits while the inbox calls the app.
type foreground struct {
	key      string     // of its call
	parent   trace.Span // of the attempts' spans
	attempts atomic.Int32
}

type foregroundKey struct{}

// deliver passes a call to the app, as if it had just come in. It implements Deliver of
// [inbox.Config].
func (b *instance) deliver(ctx context.Context, c callstore.Call) (answer store.Answer, err error) {
	target, err := url.ParseRequestURI(c.Target)
	if err != nil {
		return answer, err
	}
	header := c.Header.Clone()
	header.Set(httpio.HeaderAttempt, strconv.Itoa(c.Attempts))
	r := (&http.Request{
		Method: http.MethodPost, URL: target, RequestURI: c.Target, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Host: c.Host, RemoteAddr: c.Remote, Header: header,
		Body: io.NopCloser(bytes.NewReader(c.Body)), ContentLength: int64(len(c.Body)),
	}).WithContext(ctx)
	if c.TLS {
		r.TLS = &tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13}
	}
	b.kept().Prepare(r)
	w := httpio.NewDetachedRecorder()
	r, end := b.startAttempt(r, c)
	defer func() { end(r, w.Status(), err) }() // r is then the request that was served
	defer func() {                             // otherwise a panic in a worker ends the process
		if found := recover(); found != nil {
			b.app.Log().Error("delivering a notification has panicked", "inbox", b.name, "key", c.Key, "panic", found, "stack",
				string(debug.Stack()))
			err = errors.New("delivering it has panicked")
		}
	}()
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, b.handler.server)
	nothing := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	began := time.Now()
	err = w.Record(ctx, func() error { return b.handler.Deliver.ServeHTTP(w, r, nothing) })
	if err == nil || ctx.Err() != nil {
		telemetry.Observe(trace.SpanFromContext(ctx), telemetry.AppDuration.WithLabelValues(c.Account, string(c.Service)), time.Since(began))
	}
	broken, isBroken := errors.AsType[httpio.BrokenError](err)
	switch {
	case isBroken:
		return w.Answer(), inbox.BrokenAnswerError{Err: broken}
	case err != nil:
		return answer, httpio.Cause(err)
	case w.Status() == 0:
		return answer, errors.New("no handler answered: expected a reverse_proxy to the app in doku_inbox")
	}
	answer = w.Answer()
	maps.DeleteFunc(answer.Header, func(name string, _ []string) bool { return store.HopByHop(name) })
	return answer, nil
}

// startAttempt starts the span of an attempt. If DOKU waits for it, it is on the trace of
// DOKU's request; otherwise on a new one, linked with that. r, whose header it may
// change, carries the trace to the app. The returned function ends the span.
func (b *instance) startAttempt(r *http.Request, c callstore.Call) (*http.Request, func(r *http.Request, status int, err error)) {
	ctx := r.Context()
	fg, waiting := ctx.Value(foregroundKey{}).(*foreground)
	var redelivery trace.Span
	if waiting && fg.key == c.Key {
		fg.attempts.Add(1)
		ctx = trace.ContextWithSpan(ctx, fg.parent)
	} else if !waiting || fg.parent.IsRecording() { // an earlier call with the same ordering key goes first
		ctx, redelivery = startRedelivery(ctx, b.app.TracerProvider(c.Account), c)
	}
	r, span := telemetry.StartAppCall(r.WithContext(ctx), true, b.traces)
	if span.IsRecording() {
		span.SetAttributes(telemetry.CallAttributes(c.Account, c.Service, c.ExternalID, snap.ReferenceOf(c.Body))...)
		span.SetAttributes(telemetry.KeyAttempt.Int(c.Attempts))
		if c.Attempts > 1 {
			span.SetAttributes(semconv.HTTPRequestResendCount(c.Attempts - 1))
		}
	}
	return r, func(r *http.Request, status int, err error) {
		telemetry.EndAppCall(span, r, status, err)
		if redelivery == nil {
			return
		}
		if err != nil || status < 200 || status > 299 {
			redelivery.SetStatus(codes.Error, string(inbox.EventFailed))
		}
		redelivery.End()
	}
}

// startRedelivery starts the trace of the redelivery of a kept notification,
// which is linked with the trace of the request that brought it.
func startRedelivery(ctx context.Context, provider trace.TracerProvider, c callstore.Call) (context.Context, trace.Span) {
	options := []trace.SpanStartOption{trace.WithNewRoot()}
	if first := telemetry.SpanOf(c.Trace); first.IsValid() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: first}))
	}
	ctx, span := telemetry.Tracer(provider).Start(ctx, "doku.redeliver", options...)
	if span.IsRecording() {
		span.SetAttributes(telemetry.CallAttributes(c.Account, c.Service, c.ExternalID, snap.ReferenceOf(c.Body))...)
		span.SetAttributes(telemetry.KeyAttempt.Int(c.Attempts))
	}
	return ctx, span
}
