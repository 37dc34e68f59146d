package inboxes

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/inbox"
)

// statsTimeout is how long the figures of all inboxes may take. A scrape does not wait
// for a Redis that is away.
const statsTimeout = time.Second

// countFromZero creates the inbox's counters with the value 0; see
// [telemetry.CountFromZero].
func (b *instance) countFromZero() {
	for _, event := range []inbox.Event{inbox.EventKept, inbox.EventRedelivered, inbox.EventFailed, inbox.EventDead} {
		telemetry.InboxEvents.WithLabelValues(b.name, string(event))
	}
}

// gauges are the figures of a started configuration's inboxes at the moment of the
// scrape. An inbox that cannot be read is left out.
type gauges struct{ instances *instances }

// Describe implements [prometheus.Collector].
func (gauges) Describe(to chan<- *prometheus.Desc) {
	to <- telemetry.InboxCalls
	to <- telemetry.InboxOldest
}

// Collect implements [prometheus.Collector].
func (g gauges) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), statsTimeout)
	defer cancel()
	for _, b := range g.instances.all {
		opened, err := b.open()
		if err != nil {
			continue
		}
		figures, err := opened.Stats(ctx)
		if err != nil {
			continue
		}
		age := 0.0
		if !figures.Oldest.IsZero() {
			age = time.Since(figures.Oldest).Seconds()
		}
		to <- prometheus.MustNewConstMetric(telemetry.InboxCalls, prometheus.GaugeValue, float64(figures.Waiting), b.name, "waiting")
		to <- prometheus.MustNewConstMetric(telemetry.InboxCalls, prometheus.GaugeValue, float64(figures.Dead), b.name, "dead")
		to <- prometheus.MustNewConstMetric(telemetry.InboxOldest, prometheus.GaugeValue, age, b.name)
	}
}
