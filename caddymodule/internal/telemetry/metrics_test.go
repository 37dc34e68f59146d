package telemetry

import (
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/reasons"
	"github.com/caddy-doku/caddy-doku/snap"
)

func TestAnOutcomeSaysWhatDOKUHasAnswered(t *testing.T) {
	t.Parallel()
	for status, outcome := range map[int]string{
		0: reasons.Other, 200: reasons.Succeeded, 201: reasons.Succeeded, 302: reasons.DOKUFailed,
		400: reasons.Declined, 401: reasons.Unauthorized,
		403: reasons.Declined, 404: reasons.Declined, 408: reasons.DOKUFailed,
		409: reasons.Declined, 425: reasons.DOKUFailed, 429: reasons.DOKUFailed,
		500: reasons.DOKUFailed, 503: reasons.DOKUFailed,
	} {
		if got := OutcomeOf(status); got != outcome {
			t.Errorf("HTTP %d: %s, expected %s", status, got, outcome)
		}
	}
}

// described is a registry that notes the metrics with their labels.
type described map[string]string

var descFields = regexp.MustCompile(`^Desc{fqName: "([^"]+)", help: ".+", constLabels: {}, variableLabels: {([^}]*)}}$`)

func (d described) add(t *testing.T, desc *prometheus.Desc) {
	t.Helper()
	fields := descFields.FindStringSubmatch(desc.String())
	if fields == nil {
		t.Fatalf("expected name and labels in %s", desc)
	}
	d[fields[1]] = fields[2]
}

// guide returns docs/operations.md.
func guide(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// rows returns what stands in backquotes in the first two columns of the table
// under a heading of the guide: the first word of the one, and all of the other.
func rows(t *testing.T, heading string) map[string][]string {
	t.Helper()
	_, rest, found := strings.Cut(guide(t), "\n"+heading+"\n")
	if !found {
		t.Fatalf("expected the heading %q in the guide", heading)
	}
	table := make(map[string][]string)
	quoted := regexp.MustCompile("`([^`]+)`")
	for line := range strings.Lines(rest) {
		if strings.HasPrefix(line, "#") {
			break
		}
		cells := strings.Split(line, "|")
		if len(cells) < 4 || !strings.HasPrefix(strings.TrimSpace(cells[1]), "`") {
			continue
		}
		var second []string
		for _, word := range quoted.FindAllStringSubmatch(cells[2], -1) {
			second = append(second, word[1])
		}
		table[quoted.FindStringSubmatch(cells[1])[1]] = second
	}
	return table
}

func TestTheGuideHasEveryMetricWithItsLabels(t *testing.T) {
	t.Parallel()
	all := make(described)
	for _, gauge := range []*prometheus.Desc{TokenAge, ClockOffset, KeyInfo, InboxCalls, InboxOldest} {
		all.add(t, gauge)
	}
	for _, collector := range collectors() {
		descs := make(chan *prometheus.Desc, 1)
		collector.Describe(descs)
		all.add(t, <-descs)
	}
	table := rows(t, "## Metrics")
	for name, labels := range all {
		if got := strings.Join(table[name], ","); got != labels {
			t.Errorf("%s: the guide has the labels %q, it has %q", name, got, labels)
		}
		delete(table, name)
	}
	for name := range table {
		t.Errorf("the guide has %s, which there is not", name)
	}
}

func TestTheNameThatTheConfigurationGivesAServersSpanStays(t *testing.T) {
	t.Parallel()
	recorder := tracetest.NewSpanRecorder()
	_, span := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)).Tracer("test").Start(t.Context(), "mine")
	NameServer(span, http.MethodPost, "/transfer-va/create-va", snap.ServiceVACreate)
	span.End()
	if name := recorder.Ended()[0].Name(); name != "mine" {
		t.Errorf("found %s", name)
	}
}
