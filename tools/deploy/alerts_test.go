package deploy

import (
	"log/slog"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
)

const alertsFile = "deploy/prometheus/alerts.yml"

// alerts returns the alerts, checked as `promtool check rules` does.
func alerts(t *testing.T) []rulefmt.Rule {
	t.Helper()
	groups, errs := rulefmt.Parse([]byte(read(t, alertsFile)), false, model.UTF8Validation, promql, slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Fatal(err)
	}
	var all []rulefmt.Rule
	for _, group := range groups.Groups {
		all = append(all, group.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("there are no alerts")
	}
	return all
}

func TestAlertsNameWhatIsThereAndSayWhatToDo(t *testing.T) {
	t.Parallel()
	g := readGuide(t)
	names := make(map[string]bool)
	for _, alert := range alerts(t) {
		g.check(t, alert.Alert, alert.Expr)
		if names[alert.Alert] {
			t.Errorf("there are two alerts %s", alert.Alert)
		}
		names[alert.Alert] = true
		if severity := alert.Labels["severity"]; severity != "critical" && severity != "warning" {
			t.Errorf("%s: expected the severity critical or warning, found %q", alert.Alert, severity)
		}
		if alert.Annotations["summary"] == "" || alert.Annotations["description"] == "" {
			t.Errorf("%s: expected a summary and a description", alert.Alert)
		}
		if !strings.HasSuffix(alert.Annotations["runbook_url"], "/docs/operations.md#"+strings.ToLower(alert.Alert)) ||
			!g.headings[alert.Alert] {
			t.Errorf(
				"%s: expected a runbook_url that leads to the heading %s of docs/operations.md, found %q", alert.Alert, alert.Alert,
				alert.Annotations["runbook_url"],
			)
		}
	}
	text := read(t, "docs/operations.md")
	for heading := range g.headings {
		if regexp.MustCompile(`^Doku\w+$`).MatchString(heading) && !names[heading] {
			t.Errorf("the guide explains %s, but there is no such alert", heading)
		}
	}
	for _, link := range regexp.MustCompile(`\(#(\w+)\)`).FindAllStringSubmatch(text, -1) {
		if !slices.ContainsFunc(
			slices.Collect(maps.Keys(g.headings)), func(heading string) bool { return strings.EqualFold(heading, link[1]) },
		) {
			t.Errorf("the guide links to #%s, which it does not have", link[1])
		}
	}
	for _, alert := range alerts(t) {
		_, section, _ := strings.Cut(text, "\n### "+alert.Alert+"\n")
		section, _, _ = strings.Cut(section, "\n#")
		severity := strings.ToUpper(alert.Labels["severity"][:1]) + alert.Labels["severity"][1:]
		for _, part := range []string{severity + ". **Meaning:**", "**Customers**", "first:**", "**Do"} {
			if !strings.Contains(strings.Join(strings.Fields(section), " "), part) {
				t.Errorf("%s: expected %q in what the guide says of it", alert.Alert, part)
			}
		}
	}
}

const never = -1

// story is the course of some series, and of an alert.
type story struct {
	alert, name string
	series      []string
	fires       int    // the minute in which it fires first
	says        string // its description, in part
}

// TestAlertsFireWhenTheyMust evaluates every alert each minute over series that are
// made up, with a value for each minute.
func TestAlertsFireWhenTheyMust(t *testing.T) {
	t.Parallel()
	const (
		out   = `caddy_doku_calls_total{job="doku",account="kopi",direction="outbound",service="27",outcome=`
		in    = `caddy_doku_calls_total{job="doku",account="kopi",direction="inbound",service="25",outcome=`
		token = `caddy_doku_calls_total{job="doku",account="kopi",direction="inbound",service="73",outcome=`
		fetch = `caddy_doku_token_refreshes_total{job="doku",account="kopi",reason="ahead",result=`
		key   = `caddy_doku_key_info{job="doku",account="kopi",key="merchant",fingerprint=`
	)
	tests := []story{
		{"DokuNotSeen", "the sidecar ends", []string{key + `"SHA256:a"} 1x9 _x50`}, 19, "5 minutes"}, // the last value counts for 5 minutes
		{"DokuNotSeen", "it was never there", []string{`up{job="doku"} 0x60`}, 5, ""},
		{"DokuNotSeen", "it is there", []string{key + `"SHA256:a"} 1x60`}, never, ""},

		{
			"DokuCallsFail", "DOKU cannot be reached", []string{out + `"succeeded"} 0+10x20 200x40`, out + `"unreachable"} 0x20 1+10x40`}, 25, "%",
		},
		{
			"DokuCallsFail", "a small merchant's calls fail", []string{out + `"succeeded"} 0x60`, out + `"token"} 0x20 1x2 2x2 3x40`}, 29, "100%",
		},
		{
			"DokuCallsFail", "one call of many fails", []string{out + `"succeeded"} 0+10x60`, out + `"outcome_unknown"} 0x20 1x40`}, never, "",
		},
		{
			"DokuCallsFail", "the app's own mistakes",
			[]string{out + `"succeeded"} 0+1x60`, out + `"body_not_json"} 0+5x60`, out + `"declined"} 0+5x60`},
			never, "",
		},
		{"DokuCallsFail", "nobody calls", []string{out + `"succeeded"} 9x60`, out + `"unreachable"} 9x60`}, never, ""},

		{"DokuRefusesUs", "the secret is wrong", []string{out + `"succeeded"} 7x60`, out + `"unauthorized"} 0x10 1x50`}, 13, "100%"},
		{"DokuRefusesUs", "a fluke", []string{out + `"succeeded"} 0+10x60`, out + `"unauthorized"} 0x10 1x50`}, never, ""},

		{"DokuNoToken", "DOKU refuses", []string{fetch + `"ok"} 1x60`, fetch + `"refused"} 0x20 1+1x40`}, 23, "no attempt"},
		{"DokuNoToken", "the second fetch succeeds", []string{fetch + `"ok"} 1x20 2x40`, fetch + `"unreachable"} 0x20 1x40`}, never, ""},
		{"DokuNoToken", "nobody calls at night", []string{fetch + `"ok"} 7x60`, fetch + `"unreachable"} 3x60`}, never, ""},

		{
			"DokuNotificationsRefused", "the secret was changed on one side",
			[]string{in + `"accepted"} 0+1x20 20x40`, in + `"signature"} 0x20 1+1x40`},
			28, "%",
		},
		{
			"DokuNotificationsRefused", "a single payment of a small merchant",
			[]string{in + `"accepted"} 3x60`, in + `"token_invalid"} 0x20 1x40`},
			26, "100%",
		},
		{"DokuNotificationsRefused", "strangers knock", []string{
			in + `"accepted"} 0+1x60`, in + `"header_missing"} 0+5x60`, in + `"method"} 0+5x60`,
			`caddy_doku_calls_total{job="doku",account="",direction="inbound",service="25",outcome="client_unknown"} 0+5x60`,
		}, never, ""},

		{
			"DokuTokenRequestsRefused", "DOKU has changed its key",
			[]string{token + `"issued"} 1x60`, token + `"signature"} 0x40 1x20`},
			46,
			"changed its key",
		},
		{
			"DokuTokenRequestsRefused", "a forger tries while DOKU gets its tokens",
			[]string{token + `"issued"} 0x4 1x14 2x14 3x14 4x14`, token + `"signature"} 0+1x60`},
			never, "",
		},

		{"DokuAppFails", "the app is down", []string{in + `"accepted"} 0+2x20 40x40`, in + `"app_unreachable"} 0x20 1+2x40`}, 27, "%"},
		{"DokuAppFails", "it refuses one of many", []string{in + `"accepted"} 0+2x60`, in + `"app_refused"} 0x20 1x40`}, never, ""},
		{"DokuAppFails", "forgeries are not its matter", []string{in + `"accepted"} 0+2x60`, in + `"signature"} 0+9x60`}, never, ""},

		{
			"DokuInboxOld", "a notification waits", []string{`caddy_doku_inbox_oldest_seconds{job="doku",box="kopi"} 0x10 60+60x40`}, 23, "13m",
		},
		{
			"DokuInboxOld", "the app restarts", []string{`caddy_doku_inbox_oldest_seconds{job="doku",box="kopi"} 0x10 60+60x5 0x40`}, never, "",
		},

		{"DokuInboxDead", "one is given up, and two sidecars see it", []string{
			`caddy_doku_inbox_calls{job="doku",instance="a",box="kopi",state="dead"} 0x10 1x40`,
			`caddy_doku_inbox_calls{job="doku",instance="b",box="kopi",state="dead"} 0x10 1x40`,
		}, 11, "1 notifications"},
		{"DokuInboxDead", "many wait", []string{`caddy_doku_inbox_calls{job="doku",box="kopi",state="waiting"} 500x60`}, never, ""},

		{"DokuInboxFails", "the disk is full", []string{in + `"inbox"} 0x20 1x40`}, 21, "neither"},
		{"DokuInboxFails", "the app is down, and the inbox keeps all", []string{in + `"kept"} 0+9x60`}, never, ""},

		{
			"DokuStoreFails", "Redis is away", []string{`caddy_doku_store_errors_total{job="doku",operation="get"} 0x20 5+5x40`}, 26, "operations",
		},
		{
			"DokuStoreFails", "Redis fails over", []string{`caddy_doku_store_errors_total{job="doku",operation="get"} 0x20 500x40`}, never, "",
		},

		{
			"DokuClockOff", "the clock is behind",
			[]string{`caddy_doku_clock_offset_seconds{job="doku",instance="a",account="kopi"} 1x10 45x50`},
			21, "45s",
		},
		{
			"DokuClockOff", "it is ahead",
			[]string{`caddy_doku_clock_offset_seconds{job="doku",instance="a",account="kopi"} 1x10 -45x50`},
			21,
			"45s",
		},
		{
			"DokuClockOff", "it is good enough",
			[]string{`caddy_doku_clock_offset_seconds{job="doku",instance="a",account="kopi"} 20x60`},
			never,
			"",
		},

		{
			"DokuKeyFileUnusable", "a broken file",
			[]string{`caddy_doku_credential_loads_total{job="doku",instance="a",account="kopi",result="failed"} 0x20 1x40`},
			21, "on a",
		},
		{
			"DokuKeyFileUnusable", "a good file",
			[]string{`caddy_doku_credential_loads_total{job="doku",instance="a",account="kopi",result="loaded"} 0x20 1x40`},
			never, "",
		},

		{
			"DokuKeysDiffer",
			"one sidecar has the old key",
			[]string{
				key + `"SHA256:a",instance="a"} 1x60`,
				key + `"SHA256:a",instance="b"} 1x10 _x50`,
				key + `"SHA256:b",instance="b"} _x10 1x50`,
			},
			25,
			"2 different",
		},
		{"DokuKeysDiffer", "DOKU has two keys", []string{
			key + `"SHA256:a"} 1x60`,
			`caddy_doku_key_info{job="doku",account="kopi",key="doku",fingerprint="SHA256:c"} 1x60`,
			`caddy_doku_key_info{job="doku",account="kopi",key="doku",fingerprint="SHA256:d"} 1x60`,
		}, never, ""},

		{
			"DokuPaymentChanged", "a payment comes again with another amount",
			[]string{`caddy_doku_changed_payments_total{job="doku",account="kopi"} 0x20 1x40`},
			21, "",
		},
		{"DokuPaymentChanged", "it does not", []string{`caddy_doku_changed_payments_total{job="doku",account="kopi"} 1x60`}, never, ""},
	}
	for _, alert := range alerts(t) {
		for _, fires := range []bool{true, false} {
			if !slices.ContainsFunc(tests, func(test story) bool { return test.alert == alert.Alert && (test.fires != never) == fires }) {
				t.Errorf("expected a test in which %s fires, and one in which it does not", alert.Alert)
			}
		}
	}
	for _, test := range tests {
		t.Run(test.alert+", "+test.name, func(t *testing.T) {
			t.Parallel()
			minute, said := firstFires(t, test.alert, test.series)
			if minute != test.fires || !strings.Contains(said, test.says) {
				t.Errorf("it fires in minute %d, and says %q; expected minute %d, and %q", minute, said, test.fires, test.says)
			}
		})
	}
}

// alertingRule returns an alert that can be evaluated.
func alertingRule(t *testing.T, alert rulefmt.Rule) *rules.AlertingRule {
	t.Helper()
	expr, err := promql.ParseExpr(alert.Expr)
	if err != nil {
		t.Fatal(err)
	}
	return rules.NewAlertingRule(
		alert.Alert, expr, time.Duration(alert.For), 0, labels.FromMap(alert.Labels), labels.FromMap(alert.Annotations), labels.EmptyLabels(), "",
		true, slog.New(slog.DiscardHandler),
	)
}

// firstFires returns the first minute of an hour in which an alert fires, and its
// description.
func firstFires(t *testing.T, name string, series []string) (minute int, said string) {
	t.Helper()
	all := alerts(t)
	i := slices.IndexFunc(all, func(alert rulefmt.Rule) bool { return alert.Alert == name })
	if i < 0 {
		t.Fatalf("there is no alert %s", name)
	}
	rule := alertingRule(t, all[i])
	storage := promqltest.LoadedStorage(t, "load 1m\n  "+strings.Join(series, "\n  "))
	query := rules.EngineQueryFunc(promqltest.NewTestEngine(t, false, 0, 1_000_000), storage)
	for minute := range 60 {
		if _, err := rule.Eval(t.Context(), 0, time.Unix(int64(minute)*60, 0), query, new(url.URL), 0); err != nil {
			t.Fatal(err)
		}
		for _, active := range rule.ActiveAlerts() {
			if active.State != rules.StateFiring {
				continue
			}
			for _, annotation := range active.Annotations.Map() {
				if strings.Contains(annotation, "<no value>") || strings.Contains(annotation, "error expanding") {
					t.Errorf("an annotation of %s: %s", name, annotation)
				}
			}
			return minute, active.Annotations.Get("description")
		}
	}
	return never, ""
}
