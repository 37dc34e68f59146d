package caddymodule

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// The collectors live as long as the process and are registered with each
// configuration's registry, so that a reload does not set them back.
var (
	outboundCalls = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "doku", Name: "outbound_calls_total",
		Help: "Calls from the app to DOKU, by service code and outcome.",
	}, []string{"service", "outcome"})

	inboundCalls = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "doku", Name: "inbound_calls_total",
		Help: "Calls from DOKU, by service code and outcome.",
	}, []string{"service", "outcome"})
)

func registerMetrics(registry *prometheus.Registry) error {
	for _, collector := range []prometheus.Collector{outboundCalls, inboundCalls} {
		var already prometheus.AlreadyRegisteredError
		if err := registry.Register(collector); err != nil && !errors.As(err, &already) {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	return nil
}
