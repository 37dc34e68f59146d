package caddymodule

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-doku/caddy-doku/signer"
)

const (
	metricsNamespace = "caddy"
	metricsSubsystem = "doku"
)

// The counters live as long as the process and are registered with each
// configuration's registry, so that a reload does not set them back.
var (
	outboundCalls = counter("outbound_calls_total", "Calls from the app to DOKU, by service code and outcome: answered, replayed, cancelled (by the app, before anything was sent), or as in X-Doku-Error.", "service", "outcome")
	inboundCalls  = counter("inbound_calls_total", "Calls from DOKU, by service code and outcome.", "service", "outcome")

	verifiedCalls = counter("verified_calls_total",
		"Calls of DOKU's that were verified, by the form of the signature and of the body that matched.", "account", "signature", "body")
	changedPayments = counter("changed_payments_total",
		"Notifications of a payment that the app had accepted with another body before.", "account")

	credentialLoads = counter("credential_loads_total",
		"Changed files of keys and secrets, by whether they were taken up (loaded) or of no use (failed).", "account", "result")
)

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name, Help: help,
	}, labels)
}

// registerMetrics registers the counters, and the gauges of a configuration.
func registerMetrics(registry *prometheus.Registry, app *App) error {
	for _, collector := range []prometheus.Collector{outboundCalls, inboundCalls, verifiedCalls, changedPayments, credentialLoads, inboxEvents, gauges{app}, boxFigures{app}} {
		var already prometheus.AlreadyRegisteredError
		if err := registry.Register(collector); err != nil && !errors.As(err, &already) {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	return nil
}

// gauges are what is so at the moment it is asked for. They belong to a
// configuration, as its accounts do.
type gauges struct{ app *App }

var (
	clockOffset = prometheus.NewDesc("caddy_doku_clock_offset_seconds",
		"By how much DOKU's clock is ahead of this machine's, negative if behind; median of the last answers.", []string{"account"}, nil)
	keyInfo = prometheus.NewDesc("caddy_doku_key_info",
		"Keys in use, by their fingerprint; always 1.", []string{"account", "key", "fingerprint"}, nil)
)

// Describe implements [prometheus.Collector].
func (gauges) Describe(to chan<- *prometheus.Desc) {
	to <- clockOffset
	to <- keyInfo
}

// Collect implements [prometheus.Collector].
func (g gauges) Collect(to chan<- prometheus.Metric) {
	for _, account := range g.app.Accounts {
		to <- prometheus.MustNewConstMetric(clockOffset, prometheus.GaugeValue, account.clock.Offset().Seconds(), account.Name)
		c := account.credentials()
		to <- prometheus.MustNewConstMetric(keyInfo, prometheus.GaugeValue, 1, account.Name, "merchant", signer.Fingerprint(&c.privateKey.PublicKey))
		told := make(map[string]bool, len(c.dokuKeys)) // the same key may be given twice
		for _, fingerprint := range fingerprints(c) {
			if !told[fingerprint] {
				told[fingerprint] = true
				to <- prometheus.MustNewConstMetric(keyInfo, prometheus.GaugeValue, 1, account.Name, "doku", fingerprint)
			}
		}
	}
}
