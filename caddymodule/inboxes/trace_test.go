package inboxes

import (
	"context"
	"testing"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/moduletest"
	"github.com/caddy-doku/caddy-doku/caddymodule/internal/telemetry"
	"github.com/caddy-doku/caddy-doku/internal/inbox/callstore"
	"github.com/caddy-doku/caddy-doku/snap"
)

func TestARedeliveryIsANewTraceLinkedWithTheFirst(t *testing.T) {
	t.Parallel()
	tr := moduletest.NewTraces()
	ctx, first := tr.Provider.Tracer("test").Start(context.Background(), "handler")
	kept := callstore.Call{
		Account:    "default",
		Service:    snap.ServiceVAPayment,
		ExternalID: "1",
		Attempts:   2,
		Body:       moduletest.Notification(),
		Trace:      telemetry.TraceOf(ctx),
	}
	first.End()
	_, span := startRedelivery(context.Background(), tr.Provider, kept)
	span.End()
	again := tr.Last(t, "doku.redeliver")
	if !moduletest.Linked(again, tr.Last(t, "handler")) || again.SpanContext().TraceID() == first.SpanContext().TraceID() {
		t.Errorf("links %v", again.Links())
	}
	moduletest.Same(t, "the redelivery",
		tr.Tree("doku.redeliver", telemetry.KeyAccount, telemetry.KeyService, telemetry.KeyAttempt, "doku.virtual_account_no"),
		"doku.redeliver default 25 2 ****9090")

	kept.Trace = "" // it was not recorded
	_, span = startRedelivery(context.Background(), new(telemetry.LastProvider).Get(), kept)
	if span.IsRecording() {
		t.Error("a redelivery is recorded that no provider is there for")
	}
	span.End()
}
