package integration

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// jaeger is a real Jaeger, which keeps the spans that it gets by OTLP in memory.
type jaeger struct{ otlp, query string }

// startJaeger starts the Jaeger that CADDY_DOKU_JAEGER names, as `make test-tracing`
// does, on loopback only. Without the variable the test is skipped.
func startJaeger(t *testing.T) *jaeger {
	t.Helper()
	path := os.Getenv("CADDY_DOKU_JAEGER")
	if path == "" {
		t.Skip("skipped, because it needs a Jaeger: run `make test-tracing`, which builds one")
	}
	args := []string{}
	for _, port := range []string{"admin.http", "collector.grpc-server", "collector.http-server", "collector.otlp.grpc", "query.grpc-server"} {
		args = append(args, "--"+port+".host-port="+doktest.FreeAddress(t))
	}
	otlp, query := doktest.FreeAddress(t), doktest.FreeAddress(t)
	cmd := exec.Command(path, append(args, "--collector.otlp.http.host-port="+otlp, "--query.http-server.host-port="+query)...)
	cmd.Env = append(os.Environ(), "SPAN_STORAGE_TYPE=memory", "OTEL_TRACES_SAMPLER=always_off") // none of its own
	doktest.Start(t, new(doktest.Log), cmd, otlp, query)
	return &jaeger{"http://" + otlp, "http://" + query}
}

// jaegerTrace is a trace in the JSON of Jaeger's API.
type jaegerTrace struct {
	Spans     []jaegerSpan `json:"spans"`
	Processes map[string]struct {
		ServiceName string `json:"serviceName"`
	} `json:"processes"`
}

type jaegerSpan struct {
	TraceID    string `json:"traceID"`
	SpanID     string `json:"spanID"`
	Name       string `json:"operationName"`
	References []struct {
		Type    string `json:"refType"`
		TraceID string `json:"traceID"`
		SpanID  string `json:"spanID"`
	} `json:"references"`
	Start    int64  `json:"startTime"` // in microseconds
	Duration int64  `json:"duration"`
	Process  string `json:"processID"`
	Tags     []struct {
		Key   string `json:"key"`
		Value any    `json:"value"`
	} `json:"tags"`
}

func (s jaegerSpan) tag(key string) string {
	for _, tag := range s.Tags {
		if tag.Key == key {
			return fmt.Sprint(tag.Value)
		}
	}
	return ""
}

// parent returns the id of the span's parent, or "".
func (s jaegerSpan) parent() string {
	for _, r := range s.References {
		if r.Type == "CHILD_OF" && r.TraceID == s.TraceID {
			return r.SpanID
		}
	}
	return ""
}

// linked reports whether the span has a link to another.
func (s jaegerSpan) linked(to jaegerSpan) bool {
	return slices.ContainsFunc(s.References, func(r struct {
		Type    string `json:"refType"`
		TraceID string `json:"traceID"`
		SpanID  string `json:"spanID"`
	},
	) bool {
		return r.Type == "FOLLOWS_FROM" && r.TraceID == to.TraceID && r.SpanID == to.SpanID
	})
}

// traces returns all traces of a service, and the JSON of them.
func (j *jaeger) traces(t *testing.T, service string) (all []jaegerTrace, text string) {
	t.Helper()
	resp, err := http.Get(j.query + "/api/traces?limit=500&service=" + url.QueryEscape(service))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var parsed struct {
		Data []jaegerTrace `json:"data"`
	}
	if err := json.Unmarshal(body, &parsed); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return parsed.Data, string(body)
}

// await waits for the trace that has all of the spans, by their names and services.
func (j *jaeger) await(t *testing.T, spans ...string) jaegerTrace {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), doktest.Patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		all, text := j.traces(t, "caddy-doku")
		for _, trace := range all {
			var names []string
			for _, span := range trace.Spans {
				names = append(names, trace.service(span)+": "+span.Name)
			}
			if !slices.ContainsFunc(spans, func(s string) bool { return !slices.Contains(names, s) }) {
				return trace
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("Jaeger has no trace with %q: %s", spans, text)
		case <-tick.C:
		}
	}
}

func (tr jaegerTrace) service(s jaegerSpan) string { return tr.Processes[s.Process].ServiceName }

// row is a span in a drawing.
type row struct {
	branches string // that lead to it
	jaegerSpan
}

// rows returns the spans of a trace, each below its parent.
func (tr jaegerTrace) rows() (rows []row) {
	children := make(map[string][]jaegerSpan)
	known := make(map[string]bool)
	for _, span := range tr.Spans {
		known[span.SpanID] = true
	}
	for _, span := range tr.Spans {
		parent := span.parent()
		if !known[parent] {
			parent = ""
		}
		children[parent] = append(children[parent], span)
	}
	var draw func(parent, above string)
	draw = func(parent, above string) {
		spans := children[parent]
		slices.SortFunc(spans, func(a, b jaegerSpan) int { return cmp.Compare(a.Start, b.Start) })
		for i, span := range spans {
			branch, below := "├─ ", "│  "
			if i == len(spans)-1 {
				branch, below = "└─ ", "   "
			}
			if parent == "" {
				branch, below = "", ""
			}
			rows = append(rows, row{above + branch, span})
			draw(span.SpanID, above+below)
		}
	}
	draw("", "")
	return rows
}

// String draws the trace as text.
func (tr jaegerTrace) String() string {
	var out strings.Builder
	for _, row := range tr.rows() {
		what := tr.service(row.jaegerSpan)
		if kind := row.tag("span.kind"); kind != "" && kind != "internal" {
			what += ", " + kind
		}
		line := row.branches + row.Name
		fmt.Fprintf(&out, "%s%s%s\n", line, strings.Repeat(" ", max(2, 74-len([]rune(line)))), what)
	}
	return out.String()
}

// svg draws the trace as a picture, with the times that it took.
func (tr jaegerTrace) svg() string {
	const width, left, height = 1000, 500, 22
	rows := tr.rows()
	first, last := rows[0].Start, int64(0)
	for _, row := range rows {
		first, last = min(first, row.Start), max(last, row.Start+row.Duration)
	}
	scale := float64(width-left-90) / float64(max(last-first, 1))
	colours := map[string]string{"caddy-doku": "#2a78d6", "toko": "#c2571a"}
	var out strings.Builder
	fmt.Fprintf(
		&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="ui-monospace, monospace" font-size="12">`+"\n", width,
		height*len(rows)+16,
	)
	fmt.Fprintf(&out, `<rect width="100%%" height="100%%" fill="#ffffff"/>`+"\n")
	for i, row := range rows {
		y := 8 + i*height
		x := left + float64(row.Start-first)*scale
		name := row.Name
		if r := []rune(name); len(r) > 50 {
			name = string(r[:20]) + "…" + string(r[len(r)-29:])
		}
		fmt.Fprintf(
			&out, `<text x="8" y="%d" xml:space="preserve" fill="#222222">%s</text>`+"\n", y+15, html.EscapeString(row.branches+name),
		)
		bar := max(float64(row.Duration)*scale, 2)
		fmt.Fprintf(
			&out, `<rect x="%.1f" y="%d" width="%.1f" height="14" rx="2" fill="%s"/>`+"\n", x, y+4, bar, colours[tr.service(row.jaegerSpan)],
		)
		fmt.Fprintf(&out, `<text x="%.1f" y="%d" fill="#555555">%.2f ms</text>`+"\n", x+bar+6, y+15, float64(row.Duration)/1000)
	}
	out.WriteString("</svg>\n")
	return out.String()
}

// TestJaegerShowsThePathOfAPayment runs an app in Python that creates a virtual account and
// answers DOKU's calls about it. It compares the traces that arrive at a real Jaeger with
// those in docs/observability.md.
func TestJaegerShowsThePathOfAPayment(t *testing.T) {
	t.Parallel()
	backend := startJaeger(t)
	doktest.Need(t, "python3")
	address := doktest.FreeAddress(t)
	_, port, _ := strings.Cut(address, ":")
	python := func(args ...string) *exec.Cmd {
		cmd := exec.Command("python3", append([]string{"traced.py"}, args...)...)
		cmd.Dir, cmd.Env = "apps", append(os.Environ(), "OTEL_EXPORTER_OTLP_ENDPOINT="+backend.otlp)
		return cmd
	}
	server := doktest.Start(t, new(doktest.Log), python("serve", port), address)
	env := newEnv(t)
	env.variables = []string{
		"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_ENDPOINT=" + backend.otlp, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
		"OTEL_SERVICE_NAME=caddy-doku", "OTEL_BSP_SCHEDULE_DELAY=100",
	}
	env.run(t, env.caddyfile(options{app: address, inbox: "{\nfolder " + t.TempDir() + "\nanswer_within 5s\n}"}))

	if out, err := python("create", env.outward, "INV-1", "90909090").CombinedOutput(); err != nil {
		t.Fatalf("creating a VA: %v: %s", err, out)
	}
	if receipt, err := env.doku.Pay(t.Context(), partnerServiceID+"90909090", "10000.00"); err != nil || !receipt.Notification.OK() {
		t.Fatalf("notification: %+v, %v", receipt, err)
	}
	if receipt, err := env.doku.Pay(t.Context(), partnerServiceID+"47114711", "11500.00"); err != nil || !receipt.Inquired ||
		!receipt.Notification.OK() {
		t.Fatalf("direct inquiry: %+v, %v", receipt, err)
	}
	shown := map[string]jaegerTrace{ // before the app is killed, which exports a span after it has answered
		"create":  backend.await(t, "toko: create a virtual account", "caddy-doku: POST "+createPath, "caddy-doku: doku.token.fetch"),
		"inquiry": backend.await(t, "toko: answer DOKU", "caddy-doku: POST "+inquiryPath),
		"payment": backend.await(t, "toko: answer DOKU", "caddy-doku: POST "+paymentPath, "caddy-doku: doku.verify"),
	}
	env.reload(t, "answer_within 5s", "answer_within 100ms") // with time for one attempt only
	server.Kill()
	if _, err := env.doku.Call(t.Context(), simulator.Outgoing{URL: env.inward + paymentPath, Body: payment("P-9")}); err != nil {
		t.Fatal(err)
	}
	doktest.Start(t, new(doktest.Log), python("serve", port), address)

	shown["kept"] = backend.await(t, "toko: answer DOKU", "caddy-doku: doku.redeliver")
	doc := readDoc(t, "docs/observability.md")
	for name, trace := range shown {
		if tree := trace.String(); !strings.Contains(doc, tree) {
			t.Errorf("docs/observability.md does not show the trace %q as Jaeger has it:\n%s", name, tree)
		}
		picture := "trace-" + name + ".svg"
		if folder := os.Getenv("CADDY_DOKU_DRAW"); folder != "" && strings.Contains(doc, picture) {
			if err := os.WriteFile(filepath.Join(folder, picture), []byte(trace.svg()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Of the two payments, one is linked with the creation, the other with its inquiry.
	incoming := func(trace jaegerTrace) jaegerSpan {
		for _, span := range trace.Spans {
			if span.tag("span.kind") == "server" && trace.service(span) == "caddy-doku" {
				return span
			}
		}
		t.Fatalf("there is no span of a server in\n%s", trace)
		return jaegerSpan{}
	}
	for _, of := range []string{"create", "inquiry"} {
		all, text := backend.traces(t, "caddy-doku")
		if !slices.ContainsFunc(all, func(trace jaegerTrace) bool {
			return slices.ContainsFunc(trace.Spans, func(span jaegerSpan) bool {
				return span.Name == "POST "+paymentPath && span.linked(incoming(shown[of]))
			})
		}) {
			t.Errorf("no payment is linked with the trace %q: %s", of, text)
		}
	}
	for _, span := range shown["create"].Spans {
		if span.Name != "POST "+createPath || span.tag("span.kind") != "client" {
			continue
		}
		for key, want := range map[string]string{
			"http.request.method": "POST", "http.response.status_code": "200", "url.full": env.dokuURL + createPath, "server.address": "127.0.0.1",
			"doku.account": "default", "doku.service_code": "27", "doku.response_code": "2002700", "doku.attempt": "1", "doku.outcome": "succeeded",
			"doku.trx_id": "INV-1", "doku.virtual_account_no": "****9090", "doku.external_id": env.firstCall(t).Header.Get("X-External-Id"),
		} {
			if got := span.tag(key); got != want {
				t.Errorf("%s is %q, expected %q", key, got, want)
			}
		}
	}
	_, text := backend.traces(t, "caddy-doku")
	env.checkSecrets(t, map[string]string{"what Jaeger has": text})
}

// TestJaegerShowsTheTour takes the tour of `make run` with the one variable that points
// it at a collector.
func TestJaegerShowsTheTour(t *testing.T) {
	t.Parallel()
	backend := startJaeger(t)
	cmd := exec.CommandContext(t.Context(), binary(t), "doku", "tour", "--once")
	cmd.Env = append(os.Environ(), "OTEL_EXPORTER_OTLP_ENDPOINT="+backend.otlp)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	backend.await(t, "caddy-doku: POST "+createPath, "caddy-doku: doku.token.fetch")
	backend.await(t, "caddy-doku: POST "+paymentPath, "caddy-doku: doku.ledger")
	forged := backend.await(t, "caddy-doku: POST", "caddy-doku: doku.verify")
	if got := forged.rows()[0].tag("doku.reason"); got != "signature" {
		t.Errorf("reason %q in\n%s", got, forged)
	}
}
