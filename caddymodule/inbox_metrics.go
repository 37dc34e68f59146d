package caddymodule

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-doku/caddy-doku/internal/inbox"
)

// figuresWithin is how long the figures of an inbox may take. A scrape does not
// wait for a Redis that is away.
const figuresWithin = time.Second

var inboxEvents = counter("inbox_events_total",
	"What has happened to notifications in an inbox: kept, redelivered, failed (the app has not taken it, this time), dead (given up).", "box", "event")

// countFromZero has an inbox's counters begin at 0, as [countFromZero] does an account's.
func (b *box) countFromZero() {
	for _, event := range []inbox.Event{inbox.EventKept, inbox.EventRedelivered, inbox.EventFailed, inbox.EventDead} {
		inboxEvents.WithLabelValues(b.name, string(event))
	}
}

var (
	inboxCalls = prometheus.NewDesc("caddy_doku_inbox_calls",
		"Notifications in an inbox: waiting to be handed to the app, or dead.", []string{"box", "state"}, nil)
	inboxOldest = prometheus.NewDesc("caddy_doku_inbox_oldest_seconds",
		"For how long the oldest notification that waits in an inbox has been there; 0 if none waits.", []string{"box"}, nil)
)

// boxFigures are the figures of a started configuration's inboxes. Those of one that
// cannot be read are left out.
type boxFigures struct{ app *App }

// Describe implements [prometheus.Collector].
func (boxFigures) Describe(to chan<- *prometheus.Desc) {
	to <- inboxCalls
	to <- inboxOldest
}

// Collect implements [prometheus.Collector].
func (f boxFigures) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), figuresWithin)
	defer cancel()
	for _, b := range f.app.boxes {
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
		to <- prometheus.MustNewConstMetric(inboxCalls, prometheus.GaugeValue, float64(figures.Waiting), b.name, "waiting")
		to <- prometheus.MustNewConstMetric(inboxCalls, prometheus.GaugeValue, float64(figures.Dead), b.name, "dead")
		to <- prometheus.MustNewConstMetric(inboxOldest, prometheus.GaugeValue, age, b.name)
	}
}
