// Package deploy checks what is in deploy/ with Prometheus' and Grafana's own
// packages: the alerts, the dashboard, and that both use only metrics that the guide,
// docs/operations.md, lists. The sidecar's own tests compare the guide with its metrics.
// This package also draws the dashboard. It is a module of its own, so that its
// dependencies do not enter the sidecar's go.mod.
package deploy

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

var promql = parser.NewParser(parser.Options{})

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// guide is the content of docs/operations.md.
type guide struct {
	headings map[string]bool     // without their signs
	labels   map[string][]string // of each metric
	kinds    map[string]string   // of each metric
	values   map[string][]string // of each label, if they are listed
	outcomes map[string][]string // of each direction
}

var quoted = regexp.MustCompile("`([^`]+)`")

func readGuide(t *testing.T) *guide {
	t.Helper()
	g := &guide{
		make(map[string]bool),
		make(map[string][]string),
		make(map[string]string),
		make(map[string][]string),
		make(map[string][]string),
	}
	heading := ""
	for line := range strings.Lines(read(t, "docs/operations.md")) {
		line = strings.TrimSpace(line)
		if title := strings.TrimLeft(line, "#"); title != line {
			heading = strings.TrimSpace(title)
			g.headings[heading] = true
		}
		cells := strings.Split(line, "|")
		if len(cells) < 5 || !strings.HasPrefix(cells[1], " `") {
			continue
		}
		first := quoted.FindStringSubmatch(cells[1])[1]
		var second []string
		for _, word := range quoted.FindAllStringSubmatch(cells[2], -1) {
			second = append(second, word[1])
		}
		switch heading {
		case "Metrics":
			g.labels[first], g.kinds[first] = second, strings.TrimSpace(cells[3])
		case "Labels":
			g.values[first] = second
		case "Outcomes of calls to DOKU":
			g.outcomes["outbound"] = append(g.outcomes["outbound"], first)
		case "Outcomes of calls from DOKU":
			g.outcomes["inbound"] = append(g.outcomes["inbound"], first, "reported_"+first)
		}
	}
	if len(g.labels) < 10 || len(g.values) < 10 || len(g.outcomes) != 2 {
		t.Fatalf("expected the tables of the guide, found %+v", g)
	}
	return g
}

// everywhere are the labels that Prometheus gives to everything.
var everywhere = []string{"job", "instance"}

// check parses a query and looks for everything that it names in the guide.
func (g *guide) check(t *testing.T, where, query string) {
	t.Helper()
	expr, err := promql.ParseExpr(query)
	if err != nil {
		t.Errorf("%s: %s: %v", where, query, err)
		return
	}
	for _, problem := range g.problems(expr) {
		t.Errorf("%s: %s", where, problem)
	}
}

func (g *guide) problems(expr parser.Expr) (found []string) {
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch node := node.(type) {
		case *parser.VectorSelector:
			found = append(found, g.selector(node)...)
		case *parser.AggregateExpr:
			known := slices.Clone(everywhere)
			parser.Inspect(node.Expr, func(inner parser.Node, _ []parser.Node) error {
				if s, ok := inner.(*parser.VectorSelector); ok {
					known = append(known, g.labelsOf(s.Name)...)
				}
				return nil
			})
			for _, name := range node.Grouping {
				if !slices.Contains(known, name) {
					found = append(found, fmt.Sprintf("%s: nothing in it has the label %s", node, name))
				}
			}
		}
		return nil
	})
	return found
}

// labelsOf returns the labels of a series, or nil if there is none of this name.
func (g *guide) labelsOf(name string) []string {
	if found := g.labels[name]; found != nil {
		return found
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		metric, ok := strings.CutSuffix(name, suffix)
		if ok && g.kinds[metric] == "histogram" {
			return append([]string{"le"}, g.labels[metric]...)
		}
	}
	return nil
}

// selector looks for the metric, the labels and the values that a selector names.
func (g *guide) selector(s *parser.VectorSelector) (found []string) {
	if s.Name == "ALERTS" { // Prometheus' own
		return nil
	}
	known := g.labelsOf(s.Name)
	if known == nil {
		return []string{"there is no metric " + s.Name}
	}
	known = append(slices.Clone(known), everywhere...)
	direction := ""
	for _, m := range s.LabelMatchers {
		if m.Name == "direction" {
			direction = m.Value
		}
	}
	for _, m := range s.LabelMatchers {
		values := g.values[m.Name]
		switch m.Name {
		case model.MetricNameLabel:
			continue
		case "outcome":
			values = g.outcomes[direction]
		case "account", "box", "service", "job", "instance": // names from the configuration, or two digits
			values = nil
		}
		if !slices.Contains(known, m.Name) {
			found = append(found, fmt.Sprintf("%s has no label %s", s.Name, m.Name))
			continue
		}
		if values == nil {
			continue
		}
		alternatives := []string{m.Value}
		if m.Type == labels.MatchRegexp || m.Type == labels.MatchNotRegexp {
			alternatives = strings.Split(m.Value, "|")
		}
		for _, alternative := range alternatives {
			if !slices.ContainsFunc(values, regexp.MustCompile("^(?:"+alternative+")$").MatchString) {
				found = append(found, fmt.Sprintf("%s: the label %s is never %s", s, m.Name, alternative))
			}
		}
	}
	return found
}

func TestQueriesThatNameWhatIsNotThereAreFound(t *testing.T) {
	t.Parallel()
	g := readGuide(t)
	for query, want := range map[string]string{
		`sum by (job, account) (rate(caddy_doku_calls_total{direction="outbound",outcome=~"token|store"}[5m]))`: "",
		`sum by (le) (rate(caddy_doku_upstream_duration_seconds_bucket[5m]))`:                                   "",
		`rate(caddy_doku_calls[5m])`:                                                "there is no metric",
		`caddy_doku_clock_offset_seconds_count`:                                     "there is no metric",
		`caddy_doku_calls_total{way="out"}`:                                         "has no label way",
		`caddy_doku_calls_total{direction="up"}`:                                    "never up",
		`caddy_doku_calls_total{direction="outbound",outcome=~"token|app_.+"}`:      "never app_.+",
		`sum by (outcome) (caddy_doku_token_age_seconds)`:                           "has the label outcome",
		`caddy_doku_inbox_calls{state!="deceased"}`:                                 "never deceased",
		`caddy_doku_calls_total{direction="inbound",outcome=~"reported_signature"}`: "",
	} {
		expr, err := promql.ParseExpr(query)
		if err != nil {
			t.Fatal(err)
		}
		if problems := strings.Join(g.problems(expr), "; "); !strings.Contains(problems, want) || (want == "") != (problems == "") {
			t.Errorf("%s: found %q, expected %q", query, problems, want)
		}
	}
}

func TestTheScrapeThatIsShownNamesWhatIsThere(t *testing.T) {
	t.Parallel()
	g := readGuide(t)
	shown := regexp.MustCompile(`(?m)^caddy_doku_\w+\{.*?\}`).FindAllString(read(t, "docs/observability.md"), -1)
	if len(shown) < 5 {
		t.Fatalf("found %d lines", len(shown))
	}
	for _, series := range shown {
		g.check(t, "docs/observability.md", series)
	}
}
