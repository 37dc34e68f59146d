package integration

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

var (
	series  = regexp.MustCompile(`(?m)^(caddy_doku_\w+?)(?:_bucket|_sum|_count)?\{([^}]*)\} `)
	label   = regexp.MustCompile(`(\w+)="([^"]*)"`)
	quoted  = regexp.MustCompile("`([^`]+)`")
	service = regexp.MustCompile(`^[0-9]{2}$`)
)

// checkMetrics compares the metrics of a sidecar with docs/operations.md: every
// metric of ours with its type, every label, and every value of a label.
func checkMetrics(t *testing.T, exported string) {
	t.Helper()
	_, guide, found := strings.Cut(readDoc(t, "docs/operations.md"), "\n## Metrics\n")
	if !found {
		t.Fatal("expected the metrics in docs/operations.md")
	}
	rows := make(map[string]string) // of all tables, by what stands first in them
	for line := range strings.Lines(guide) {
		if first := quoted.FindStringSubmatch(line); strings.HasPrefix(line, "| `") {
			rows[first[1]] += line
		}
	}
	reported := make(map[string]bool)
	report := func(text string) {
		t.Helper()
		if !reported[text] {
			reported[text] = true
			t.Error("the guide does not have " + text)
		}
	}
	for _, found := range series.FindAllStringSubmatch(exported, -1) {
		name, row := found[1], rows[found[1]]
		kind := regexp.MustCompile(`(?m)^# TYPE ` + name + ` (\w+)$`).FindStringSubmatch(exported)
		if row == "" || kind == nil || !strings.Contains(row, "| "+kind[1]+" |") {
			report(name + " with its type")
			continue
		}
		for _, l := range label.FindAllStringSubmatch(found[2], -1) {
			key, value := l[1], l[2]
			if key != "le" && !strings.Contains(row, "`"+key+"`") {
				report("the label " + key + " of " + name)
			}
			known := strings.Contains(rows[key], "`"+value+"`")
			switch key {
			case "le", "account", "box": // numbers, and names from the configuration
				known = true
			case "service":
				known = service.MatchString(value)
			case "fingerprint":
				known = strings.HasPrefix(value, "SHA256:")
			case "outcome":
				known = rows[strings.TrimPrefix(value, "reported_")] != "" || value == "reported_verified"
			}
			if !known {
				report("the value " + value + " of the label " + key + " of " + name)
			}
		}
	}
}

func TestACallIsCountedAndMeasured(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	shown := "http://" + doktest.FreeAddress(t)
	env.run(t, env.caddyfile(options{})+shown+" {\n\tmetrics\n}\n")
	env.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	env.call(t, http.MethodPost, createPath, bill("2", "A", "1000.00", "C", "")) // the trxId is in use
	env.call(t, http.MethodPost, createPath, "no JSON")
	if _, err := env.doku.Pay(t.Context(), partnerServiceID+"1", "1000.00"); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`calls_total{account="default",direction="outbound",outcome="succeeded",service="27"} 1`,
		`calls_total{account="default",direction="outbound",outcome="declined",service="27"} 1`,
		`calls_total{account="default",direction="outbound",outcome="body_not_json",service="27"} 1`,
		`calls_total{account="default",direction="outbound",outcome="unreachable",service="27"} 0`,
		`calls_total{account="default",direction="inbound",outcome="issued",service="73"} 1`,
		`calls_total{account="default",direction="inbound",outcome="accepted",service="25"} 1`,
		`upstream_duration_seconds_count{account="default",service="27"} 2`,
		`app_duration_seconds_count{account="default",service="25"} 1`,
		`added_duration_seconds_count{direction="outbound"} 2`,
		`added_duration_seconds_count{direction="inbound"} 1`,
		`token_refreshes_total{account="default",reason="first",result="ok"} 1`,
		`store_errors_total{operation="claim"} 0`,
	} {
		env.awaitMetrics(t, line+"\n")
	}
	env.awaitMetrics(t, `token_age_seconds{account="default"} `)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, shown, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/openmetrics-text")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	open, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"upstream", "app", "added"} {
		if !regexp.MustCompile(`(?m)^caddy_doku_` + name + `_duration_seconds_bucket\{.* # \{trace_id="[0-9a-f]{32}"\}`).Match(open) {
			t.Errorf("expected a trace as an example of %s_duration_seconds", name)
		}
	}
}

func TestTheAppsTimeIsMeasuredBehindAnInboxToo(t *testing.T) {
	t.Parallel()
	env := start(t, options{inbox: "{\n policy durable\n}"})
	env.notify(t, simulator.Outgoing{Body: payment("P-1")}).expect(t, http.StatusOK, "2002500")
	doktest.Eventually(t, "the delivery", func() bool { waiting, _ := env.kept(t); return waiting == 0 })
	env.awaitMetrics(
		t, `calls_total{account="default",direction="inbound",outcome="accepted",service="25"} 1`+"\n",
		`app_duration_seconds_count{account="default",service="25"} 1`+"\n", `added_duration_seconds_count{direction="inbound"} 1`+"\n",
	)
}
