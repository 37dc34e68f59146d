package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

var exportedLine = regexp.MustCompile(`^(# TYPE )?(caddy_doku_\w+)(?: (\w+)$|\{([^}]*)\} )`)

// seriesOf returns all metrics of ours with their types, and their series without values.
// Counters begin at zero with every value that their labels can have, so the closed lists
// of outcomes and reasons are among them.
func seriesOf(metrics string) string {
	var b strings.Builder
	for line := range strings.Lines(metrics) {
		switch found := exportedLine.FindStringSubmatch(strings.TrimSuffix(line, "\n")); {
		case found == nil:
		case found[1] != "":
			fmt.Fprintf(&b, "%s %s\n", found[2], found[3])
		default:
			fmt.Fprintf(&b, "\t%s{%s}\n", found[2], found[4])
		}
	}
	return b.String()
}

// fieldsOf returns the fields of a JSON value and their types, a line each. Those of the
// elements of a list are told once, and the names of HTTP headers are no fields.
func fieldsOf(t *testing.T, text string) string {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	lines := make(map[string]bool)
	var walk func(path string, value any)
	walk = func(path string, value any) {
		switch value := value.(type) {
		case map[string]any:
			if strings.HasSuffix(path, ".header") {
				lines[path+" object"] = true
				return
			}
			for name, field := range value {
				walk(path+"."+name, field)
			}
		case []any:
			for _, element := range value {
				walk(path+"[]", element)
			}
		default:
			lines[fmt.Sprintf("%s %T", path, value)] = true
		}
	}
	walk("", value)
	return "\t" + strings.Join(slices.Sorted(maps.Keys(lines)), "\n\t") + "\n"
}

// TestMetricsAndAdminAnswersHaveTheSameNamesAsBefore: dashboards, alerts and scripts go by
// them.
func TestMetricsAndAdminAnswersHaveTheSameNamesAsBefore(t *testing.T) {
	t.Parallel()
	env := start(t, options{inbox: "{\n policy durable\n give_up_after 1ms\n}"})
	env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	env.notify(t, simulator.Outgoing{}).expect(t, http.StatusOK, "2002500")
	doktest.Eventually(t, "the delivery", func() bool { waiting, _ := env.kept(t); return waiting == 0 })
	env.app.setAnswer(answering(http.StatusInternalServerError))
	env.notify(t, simulator.Outgoing{Body: payment("P-2")}).expect(t, http.StatusOK, "2002500")
	doktest.Eventually(t, "a dead letter", func() bool { _, dead := env.kept(t); return dead == 1 })

	doktest.Golden(t, "metrics.txt", seriesOf(env.adminGet("/metrics")))

	var admin strings.Builder
	for _, path := range []string{
		"/doku/accounts", "/doku/accounts/default", "/doku/inbox", "/doku/inbox/default", "/doku/inbox/default?bodies=true",
	} {
		fmt.Fprintf(&admin, "%s\n%s", path, fieldsOf(t, env.adminGet(path)))
	}
	doktest.Golden(t, "admin.txt", admin.String())
}
