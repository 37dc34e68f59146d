// Package telemetry has the metrics, spans, trace links and log handlers that the
// rooms of caddymodule share.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/snap"
)

// The attributes of spans, besides those of OpenTelemetry's conventions. Nothing
// secret or personal is in them, nor in names, events and statuses: of the text that
// DOKU, an app or a stranger writes, only ids get in.
const (
	KeyAccount         = attribute.Key("doku.account")
	KeyService         = attribute.Key("doku.service_code")
	KeyExternalID      = attribute.Key("doku.external_id")
	KeyResponseCode    = attribute.Key("doku.response_code")
	KeyOutcome         = attribute.Key("doku.outcome") // as in the counters
	KeyReason          = attribute.Key("doku.reason")  // of a rejection
	KeyAttempt         = attribute.Key("doku.attempt")
	KeyTokenAge        = attribute.Key("doku.token.age") // in seconds
	KeyRefreshReason   = attribute.Key("doku.token.refresh_reason")
	KeySignatureForm   = attribute.Key("doku.signature_form")
	KeyBodyForm        = attribute.Key("doku.body_form")
	KeyClockDifference = attribute.Key("doku.clock.difference") // in seconds, by which X-TIMESTAMP was behind
	KeyLedger          = attribute.Key("doku.ledger.result")

	keyVirtualAccount = attribute.Key("doku.virtual_account_no")
	keyTrxID          = attribute.Key("doku.trx_id")
)

// StartSpan starts a span in the trace of ctx. Caddy's tracing directive has a
// provider of its own, which only the context leads to. Without the directive, or if
// the trace is not sampled, it costs nothing.
func StartSpan(ctx context.Context, name string) (context.Context, trace.Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, parent
	}
	return Tracer(parent.TracerProvider()).Start(ctx, name)
}

// Tracer returns the tracer of this module.
func Tracer(provider trace.TracerProvider) trace.Tracer {
	return provider.Tracer("github.com/caddy-doku/caddy-doku/caddymodule")
}

// StartClient starts the span of an HTTP request, if the trace of ctx is recorded. The
// query stays out of it. fewPaths says that the path is one of a small set, so it may
// be part of the span's name. Whoever calls it ends the span.
func StartClient(ctx context.Context, method string, target *url.URL, fewPaths bool) (context.Context, trace.Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, parent
	}
	attrs := []attribute.KeyValue{methodOf(method)}
	name := attrs[0].Value.AsString()
	if fewPaths {
		name += " " + target.Path
		attrs = append(attrs, semconv.URLTemplate(target.Path))
	}
	attrs = append(attrs, serverOf(target)...)
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attrs...)}
	return Tracer(parent.TracerProvider()).Start(ctx, name, options...) //nolint:spancheck // the caller ends it
}

// methodOf returns the attribute for a method. Anybody can invent one, so those that
// HTTP does not know are not named.
func methodOf(method string) attribute.KeyValue {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodConnect,
		http.MethodOptions, http.MethodTrace:
		return semconv.HTTPRequestMethodKey.String(method)
	}
	return semconv.HTTPRequestMethodOther
}

// serverOf returns the attributes for the server of a request, if it is known.
func serverOf(target *url.URL) []attribute.KeyValue {
	if target.Host == "" {
		return nil
	}
	bare := url.URL{Scheme: target.Scheme, Host: target.Host, Path: target.Path, RawPath: target.RawPath}
	port, _ := strconv.Atoi(PortOf(target))
	return []attribute.KeyValue{semconv.ServerAddress(target.Hostname()), semconv.ServerPort(port), semconv.URLFull(bare.String())}
}

// PortOf returns the port of a URL, or the scheme's default.
func PortOf(u *url.URL) string {
	if port := u.Port(); port != "" {
		return port
	}
	return map[string]string{"http": "80", "https": "443"}[u.Scheme]
}

// EndClient ends the span of an HTTP request with its response or error.
func EndClient(span trace.Span, resp *http.Response, err error) {
	defer span.End()
	switch {
	case !span.IsRecording():
	case err != nil:
		failed(span, err)
	case resp != nil:
		version := strings.TrimPrefix(strings.TrimSuffix(resp.Proto, ".0"), "HTTP/")
		span.SetAttributes(semconv.HTTPResponseStatusCode(resp.StatusCode), semconv.NetworkProtocolVersion(version))
		failedStatus(span, resp.StatusCode)
	}
}

func failed(span trace.Span, err error) {
	span.SetAttributes(semconv.ErrorTypeKey.String(ErrorType(err)))
	span.SetStatus(codes.Error, "")
}

// failedStatus marks the span of a request whose answer is an error.
func failedStatus(span trace.Span, status int) {
	if status >= http.StatusBadRequest {
		span.SetAttributes(semconv.ErrorTypeKey.String(strconv.Itoa(status)))
		span.SetStatus(codes.Error, "")
	}
}

// ErrorType returns the kind of an error. Its text may quote bytes from the wire, so it
// stays out of spans.
func ErrorType(err error) string {
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
	if rejection, ok := errors.AsType[*reasons.Rejection](err); ok {
		return rejection.Reason
	}
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return fmt.Sprintf("%T", err)
		}
		err = inner
	}
}

// Cleanse escapes what is not printable in the tracing directive's span. Otherwise one
// call with invalid bytes would make the export of hundreds of spans fail.
func Cleanse(span trace.Span) {
	begun, ok := span.(interface {
		Attributes() []attribute.KeyValue
	})
	if !ok {
		return
	}
	for _, attr := range begun.Attributes() {
		if text := attr.Value.AsString(); !isPrintable(text) {
			span.SetAttributes(attr.Key.String(Printable(text)))
		}
	}
}

// NameServer names the tracing directive's span after the method and, for a known
// service, the path, unless the configuration has chosen a name.
func NameServer(span trace.Span, method, path string, service snap.Service) {
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

// RejectedBy marks a span as ended by a rejection. The reasons are a closed set.
func RejectedBy(span trace.Span, reason string) {
	span.SetAttributes(KeyReason.String(reason))
	span.SetStatus(codes.Error, reason)
}

// CallAttributes returns the attributes that a call has in either direction.
func CallAttributes(account string, service snap.Service, externalID string, ref snap.Reference) []attribute.KeyValue {
	attrs := []attribute.KeyValue{KeyService.String(string(service))}
	for key, value := range map[attribute.Key]string{
		KeyAccount: account, KeyExternalID: hide(ref, externalID), keyVirtualAccount: mask(ref.VirtualAccountNo), keyTrxID: hide(ref, ref.TrxID),
	} {
		if value != "" {
			attrs = append(attrs, key.String(Printable(value)))
		}
	}
	return attrs
}

// ResponseCode returns the attribute for the response code in an answer, if it has one.
func ResponseCode(body []byte) []attribute.KeyValue {
	code := snap.CodeOf(body)
	if _, _, ok := code.Case(); !ok {
		return nil
	}
	return []attribute.KeyValue{KeyResponseCode.String(string(code))}
}
