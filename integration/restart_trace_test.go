package integration

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

func TestADeliveryJustAfterAStartIsTraced(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		config func(env *testEnv, folder string) string
		traced bool
	}{
		"tracing": {func(env *testEnv, folder string) string {
			return env.caddyfile(options{inbox: "{\n answer_within 300ms\n folder " + folder + "\n}"})
		}, true},
		"doku_app": {func(env *testEnv, folder string) string {
			return env.appSite("{\n answer_within 300ms\n folder " + folder + "\n}")
		}, true},
		"no tracing": {func(env *testEnv, folder string) string {
			return strings.ReplaceAll(env.caddyfile(options{inbox: "{\n answer_within 300ms\n folder " + folder + "\n}"}), "\ttracing\n", "")
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			env := newEnv(t)
			env.app.setAnswer(answering(http.StatusServiceUnavailable))
			env.run(t, test.config(env, folder))
			env.notify(t, simulator.Outgoing{}).expect(t, http.StatusInternalServerError, "5002502")
			env.sidecar.Stop()
			before := len(env.app.seen())
			env.app.setAnswer(nil)

			next := env.another(t)
			next.run(t, test.config(next, folder))
			doktest.Eventually(t, "the delivery", func() bool { return len(env.app.seen()) > before })
			if got := env.app.seen()[before].header.Get("Traceparent"); (got != "") != test.traced {
				t.Errorf("Traceparent %q", got)
			}
			doktest.Eventually(t, "its record", func() bool { waiting, _ := next.kept(t); return waiting == 0 })
			next.sidecar.Stop() // which exports what is left
			if next.hasLine(`"Name":"doku.redeliver"`) != test.traced {
				t.Error("the span of the delivery is missing, or nobody asked for it")
			}
			for line := range strings.Lines(next.log.String()) {
				if strings.Contains(line, `"SpanKind":2`) {
					t.Errorf("a span of a request that nobody has made: %s", line)
				}
			}
		})
	}
}
