package telemetry

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/snap"
)

// Which way a call goes.
const (
	Outbound = "outbound" // from the app to DOKU
	Inbound  = "inbound"  // from DOKU to the app
)

// The counters and histograms live as long as the process. Each configuration
// registers them again, so a reload does not reset them. Their labels are closed sets:
// accounts of the configuration, service codes, and words of our own, never the text
// of a caller.
var (
	Calls = counter("calls_total", "Calls to and from DOKU, by outcome.", "direction", "account", "service", "outcome")

	UpstreamDuration = histogram("upstream_duration_seconds",
		"Time from sending an attempt of a call until DOKU's answer was read or none came; without attempts that did not reach DOKU.",
		[]float64{.025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 40, 60}, "account", "service")
	AppDuration = histogram("app_duration_seconds",
		"Time the app took to answer a DOKU call, timeouts included; without calls that did not reach it.",
		[]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20}, "account", "service")
	AddedDuration = histogram("added_duration_seconds",
		"Time the sidecar itself added to an answered call: without DOKU, the app, the caller's sending, and waiting for a token.",
		[]float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1}, "direction")

	AddedOutbound = AddedDuration.WithLabelValues(Outbound)
	AddedInbound  = AddedDuration.WithLabelValues(Inbound)

	TokenRefreshes = counter("token_refreshes_total", "Fetches of a B2B token, by reason and result.", "account", "reason", "result")
	StoreErrors    = counter("store_errors_total", "Failed store operations.", "operation")

	VerifiedCalls = counter("verified_calls_total",
		"Verified DOKU calls, by the form of the signature and of the body that matched.", "account", "signature", "body")
	ChangedPayments = counter("changed_payments_total",
		"Notifications of a payment that the app accepted with another body before.", "account")

	CredentialLoads = counter("credential_loads_total",
		"Changed key and secret files, by result: loaded, or failed, which keeps the earlier ones in use.", "account", "result")

	InboxEvents = counter("inbox_events_total",
		"Events of notifications in an inbox: kept, redelivered, failed (the app did not take it, this time), dead (given up).", "box", "event")
)

// The gauges of a configuration. The room that has the figures collects them.
var (
	TokenAge = gauge("token_age_seconds", "Age of the B2B token in use; absent if there is no valid one.", "account")

	ClockOffset = gauge("clock_offset_seconds", "DOKU's clock minus this machine's; median of the last answers.", "account")
	KeyInfo     = gauge("key_info", "Keys in use, by fingerprint; always 1.", "account", "key", "fingerprint")
	InboxCalls  = gauge("inbox_calls", "Notifications in an inbox: waiting for delivery to the app, or dead.", "box", "state")
	InboxOldest = gauge("inbox_oldest_seconds", "Age of the oldest notification that waits in an inbox; 0 if none waits.", "box")
)

const (
	metricsNamespace = "caddy"
	metricsSubsystem = "doku"
)

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name, Help: help,
	}, labels)
}

// histogram returns a histogram with the given buckets, and native buckets for a
// Prometheus that asks for them.
func histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
	}, labels)
}

func gauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(metricsNamespace, metricsSubsystem, name), help, labels, nil)
}

func collectors() []prometheus.Collector {
	return []prometheus.Collector{
		Calls, UpstreamDuration, AppDuration, AddedDuration, TokenRefreshes, StoreErrors,
		VerifiedCalls, ChangedPayments, CredentialLoads, InboxEvents,
	}
}

// Register registers the counters and histograms, and the gauges of a configuration.
func Register(registry prometheus.Registerer, gauges ...prometheus.Collector) error {
	for _, collector := range append(collectors(), gauges...) {
		var already prometheus.AlreadyRegisteredError
		if err := registry.Register(collector); err != nil && !errors.As(err, &already) {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	return nil
}

// Observe records a duration. If the trace of span is sampled, it is the exemplar.
func Observe(span trace.Span, o prometheus.Observer, d time.Duration) {
	if with, ok := o.(prometheus.ExemplarObserver); ok && span.SpanContext().IsSampled() {
		with.ObserveWithExemplar(d.Seconds(), prometheus.Labels{"trace_id": span.SpanContext().TraceID().String()})
		return
	}
	o.Observe(d.Seconds())
}

// OutcomeOf returns the outcome of a call that DOKU answered with an HTTP status. At 0,
// something other than DOKU answered.
func OutcomeOf(status int) string {
	switch {
	case status == 0:
		return reasons.Other
	case 200 <= status && status < 300:
		return reasons.Succeeded
	case status == http.StatusUnauthorized:
		return reasons.Unauthorized
	case 400 <= status && status < 500 && !snap.Retryable(status):
		return reasons.Declined
	}
	return reasons.DOKUFailed
}

// CountFromZero creates an account's counters with the value 0: an alert sees the
// first rise of a counter only if it saw it at 0 before.
func CountFromZero(account string) {
	for _, service := range []snap.Service{snap.ServiceVACreate, snap.ServiceVAUpdate, snap.ServiceVAStatus, snap.ServiceVADelete} {
		for _, outcome := range reasons.Outbound.Names() {
			Calls.WithLabelValues(Outbound, account, string(service), outcome)
		}
	}
	for _, service := range []snap.Service{snap.ServiceVAInquiry, snap.ServiceVAPayment, snap.ServiceB2BToken} {
		for _, outcome := range reasons.Inbound.Names() {
			Calls.WithLabelValues(Inbound, account, string(service), outcome)
		}
	}
	ChangedPayments.WithLabelValues(account)
}
