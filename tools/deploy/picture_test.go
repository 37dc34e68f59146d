package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"maps"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	engine "github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/teststorage"
)

// Sizes in the picture. Grafana's grid has 24 columns.
const (
	columnWidth = 50
	rowHeight   = 28
	headHeight  = 40
	charWidth   = 6.5 // of the text in panels, more or less
)

// interval is between two scrapes, and between two points of a picture.
const interval = time.Second

// inPicture are Grafana's variables, all accounts being shown. By Grafana's rules,
// $__rate_interval is four scrapes at least.
var inPicture = strings.NewReplacer("$__rate_interval", (4 * interval).String(), "$account", ".*")

// palette is Grafana's "classic" one, in its order; colours are those that it has names for.
var (
	palette = []string{
		"#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#1f78c1", "#ba43a9", "#705da0",
		"#508642", "#cca300", "#447ebc", "#c15c17", "#890f02", "#0a437c", "#6d1f62", "#584477",
	}
	colours = map[string]string{"green": "#429f4d", "light-green": "#8ecf94", "yellow": "#d9a406", "red": "#d9364f", "blue": "#5794f2"}
)

// history is the data of a Prometheus that has scraped a sidecar for a while.
type history struct {
	*teststorage.TestStorage

	engine   *engine.Engine
	alerts   []*rules.AlertingRule
	from, to time.Time
}

func newHistory(t *testing.T) *history {
	t.Helper()
	h := &history{TestStorage: teststorage.New(t), engine: promqltest.NewTestEngine(t, false, 3*interval, 1_000_000)}
	for _, alert := range alerts(t) {
		h.alerts = append(h.alerts, alertingRule(t, alert))
	}
	return h
}

// scrape adds the metrics of a time, and evaluates the alerts then.
func (h *history) scrape(t *testing.T, at time.Time, exported []byte) {
	t.Helper()
	appender := h.AppenderV2(t.Context())
	add := func(series labels.Labels, value float64, examples ...exemplar.Exemplar) {
		t.Helper()
		_, err := appender.Append(0, series, 0, at.UnixMilli(), value, nil, nil, storage.AppendV2Options{Exemplars: examples})
		if partial := new(storage.AppendPartialError); err != nil && !errors.As(err, &partial) { // an example that is known already
			t.Fatal(err)
		}
	}
	text := textparse.NewOpenMetricsParser(exported, labels.NewSymbolTable())
	for {
		entry, err := text.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if entry != textparse.EntrySeries {
			continue
		}
		_, _, value := text.Series()
		var series labels.Labels
		text.Labels(&series)
		var examples []exemplar.Exemplar
		for e := (exemplar.Exemplar{}); text.Exemplar(&e); e = (exemplar.Exemplar{}) {
			if !e.HasTs {
				e.Ts = at.UnixMilli()
			}
			examples = append(examples, e)
		}
		add(labels.NewBuilder(series).Set("job", "caddy-doku").Set("instance", "sidecar").Labels(), value, examples...)
	}
	if err := appender.Commit(); err != nil {
		t.Fatal(err)
	}
	appender = h.AppenderV2(t.Context())
	for _, alert := range h.alerts {
		found, err := alert.Eval(t.Context(), 0, at, rules.EngineQueryFunc(h.engine, h), new(url.URL), 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, sample := range found {
			add(sample.Metric, sample.F)
		}
	}
	if err := appender.Commit(); err != nil {
		t.Fatal(err)
	}
	// The points of the picture are between scrapes, which are not made quite on time.
	h.to = at.Add(interval / 2)
	if h.from.IsZero() {
		h.from = h.to
	}
}

// line is one series of a panel: a value for each point of time, or NaN.
type line struct {
	name, colour string
	values       []float64
}

func (h *history) points() int { return int(h.to.Sub(h.from)/interval) + 1 }

// lines evaluates the queries of a panel over the whole time.
func (h *history) lines(t *testing.T, p *panel) (lines []line) {
	t.Helper()
	for _, target := range p.Targets {
		query, err := h.engine.NewRangeQuery(t.Context(), h, nil, inPicture.Replace(target.Expr), h.from, h.to, interval)
		if err != nil {
			t.Fatalf("%s: %v", p.Title, err)
		}
		matrix, err := query.Exec(t.Context()).Matrix()
		if err != nil {
			t.Fatalf("%s: %v", p.Title, err)
		}
		for _, series := range matrix {
			l := line{
				name:   legend(target.LegendFormat, series.Metric),
				colour: palette[len(lines)%len(palette)],
				values: slices.Repeat([]float64{math.NaN()}, h.points()),
			}
			for _, point := range series.Floats {
				l.values[(point.T-h.from.UnixMilli())/interval.Milliseconds()] = point.F
			}
			for _, override := range p.FieldConfig.Overrides {
				if override.Matcher.ID != "byName" {
					t.Fatalf("%s: can't draw an override by %s", p.Title, override.Matcher.ID)
				}
				for _, property := range override.Properties {
					if override.Matcher.Options == l.name && property.ID == "color" {
						l.colour = colour(t, property.Value.FixedColor)
					}
				}
			}
			lines = append(lines, l)
		}
		query.Close()
	}
	return lines
}

var placeholder = regexp.MustCompile(`\{\{(\w+)\}\}`)

func legend(format string, series labels.Labels) string {
	return strings.TrimSpace(placeholder.ReplaceAllStringFunc(format, func(found string) string {
		return series.Get(strings.Trim(found, "{}"))
	}))
}

// examples returns the examples of a panel's series.
func (h *history) examples(t *testing.T, p *panel) (found []exemplar.Exemplar) {
	t.Helper()
	known, err := h.ExemplarQuerier(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range p.Targets {
		if !target.Exemplar {
			continue
		}
		expr, err := promql.ParseExpr(inPicture.Replace(target.Expr))
		if err != nil {
			t.Fatal(err)
		}
		results, err := known.Select(h.from.UnixMilli(), h.to.UnixMilli(), parser.ExtractSelectors(expr)...)
		if err != nil {
			t.Fatal(err)
		}
		for _, result := range results {
			found = append(found, result.Exemplars...)
		}
	}
	return found
}

func colour(t *testing.T, name string) string {
	t.Helper()
	if colours[name] == "" {
		t.Fatalf("can't draw the colour %q", name)
	}
	return colours[name]
}

// show writes a value as Grafana does, more or less.
func show(t *testing.T, value float64, unit string, decimals *int) string {
	t.Helper()
	size := math.Abs(value)
	switch {
	case unit == "percentunit":
		value, unit = value*100, "%"
	case unit == "cpm":
		unit = " cpm"
	case unit == "short" && size >= 1000:
		value, unit = value/1000, " K"
	case unit == "short":
		unit = ""
	case unit == "s" && size >= 60:
		value, unit = value/60, " min"
	case unit == "s" && size >= 1 || unit == "s" && size == 0:
		unit = " s"
	case unit == "s" && size >= 0.001:
		value, unit = value*1000, " ms"
	case unit == "s":
		value, unit = value*1_000_000, " µs"
	default:
		t.Fatalf("can't show the unit %q", unit)
	}
	if decimals != nil {
		return strconv.FormatFloat(value, 'f', *decimals, 64) + unit
	}
	digits := 2
	for size := math.Abs(value); digits > 0 && size >= 10; size /= 10 {
		digits--
	}
	text := strconv.FormatFloat(value, 'f', digits, 64)
	if digits > 0 {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text + unit
}

// draw draws the dashboard as a picture, every panel at its place.
func (h *history) draw(t *testing.T, b *board) string {
	t.Helper()
	rows := 0
	for _, p := range b.Panels {
		rows = max(rows, p.GridPos.Y+p.GridPos.H)
	}
	var out strings.Builder
	fmt.Fprintf(
		&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="11">`+"\n",
		24*columnWidth+8, headHeight+rows*rowHeight+8,
	)
	fmt.Fprintf(&out, `<rect width="100%%" height="100%%" fill="#f4f5f5"/>`+"\n")
	fmt.Fprintf(&out, `<text x="12" y="27" font-size="18" font-weight="600" fill="#222222">%s</text>`+"\n", html.EscapeString(b.Title))
	fmt.Fprintf(&out, `<text x="%d" y="26" text-anchor="end" font-size="12" fill="#555555">Account: All · %s to %s UTC</text>`+"\n",
		24*columnWidth-4, h.from.UTC().Format("2006-01-02 15:04:05"), h.to.UTC().Format("15:04:05"))
	for i := range b.Panels {
		p := &b.Panels[i]
		f := &frame{&out, t, h, p, float64(p.GridPos.W*columnWidth - 8), float64(p.GridPos.H*rowHeight - 8)}
		fmt.Fprintf(
			&out, `<g id="panel-%d" transform="translate(%d,%d)">`+"\n", p.ID, 8+p.GridPos.X*columnWidth, headHeight+p.GridPos.Y*rowHeight,
		)
		switch p.Type {
		case "row":
			f.text(4, 15, `font-size="13" font-weight="600" fill="#222222"`, "⌄ "+p.Title)
		case "stat":
			f.stat()
		case "timeseries":
			f.timeseries()
		case "table":
			f.table()
		default:
			t.Fatalf("%s: can't draw a panel of the type %q", p.Title, p.Type)
		}
		out.WriteString("</g>\n")
	}
	out.WriteString("</svg>\n")
	return out.String()
}

// frame is where a panel is drawn.
type frame struct {
	out           *strings.Builder
	t             *testing.T
	history       *history
	panel         *panel
	width, height float64
}

func (f *frame) text(x, y float64, attributes, text string) {
	fmt.Fprintf(f.out, `<text x="%.1f" y="%.1f" %s>%s</text>`+"\n", x, y, attributes, html.EscapeString(text))
}

func (f *frame) path(d, attributes string) {
	fmt.Fprintf(f.out, `<path d="%s" %s/>`+"\n", d, attributes)
}

func (f *frame) box(fill string) {
	fmt.Fprintf(f.out, `<rect width="%.0f" height="%.0f" rx="2" fill="%s" stroke="#d5d6d8"/>`+"\n", f.width, f.height, fill)
}

// head draws an empty panel with its title.
func (f *frame) head() {
	f.box("#ffffff")
	f.text(10, 18, `font-size="12" font-weight="600" fill="#222222"`, f.panel.Title)
}

// stat draws the last value on the colour of the threshold that it has reached.
func (f *frame) stat() {
	defaults := f.panel.FieldConfig.Defaults
	lines := f.history.lines(f.t, f.panel)
	if len(lines) > 1 {
		f.t.Fatalf("%s: expected a single value, found %d", f.panel.Title, len(lines))
	}
	value, shown := math.NaN(), cmp.Or(defaults.NoValue, "No data")
	for _, l := range lines {
		for _, v := range l.values {
			if !math.IsNaN(v) {
				value, shown = v, show(f.t, v, defaults.Unit, defaults.Decimals)
			}
		}
	}
	name := ""
	for _, step := range defaults.Thresholds.Steps {
		if step.Value == nil || value >= *step.Value {
			name = step.Color
		}
	}
	f.box(colour(f.t, name))
	for i, part := range wrap(f.panel.Title, 20) {
		f.text(8, 17+float64(i)*14, `font-weight="600" fill="#ffffff"`, part)
	}
	for _, l := range lines {
		if low, high := extent(l.values); f.panel.Options.GraphMode == "area" && high > 0 {
			c := chart{f.history, 0, f.width, f.height * 0.66, f.height, min(low, 0), high}
			f.path(c.area(l.values, nil), `fill="#ffffff" fill-opacity="0.3"`)
		}
	}
	f.text(f.width/2, f.height*0.6, `font-size="22" font-weight="600" text-anchor="middle" fill="#ffffff"`, shown)
}

// wrap breaks a text into parts of so many characters at most.
func wrap(text string, most int) (parts []string) {
	for word := range strings.FieldsSeq(text) {
		if last := len(parts) - 1; last >= 0 && len(parts[last])+1+len(word) <= most {
			parts[last] += " " + word
		} else {
			parts = append(parts, word)
		}
	}
	return parts
}

// timeseries draws lines or bars over time, with axes and a legend.
func (f *frame) timeseries() {
	f.head()
	defaults := f.panel.FieldConfig.Defaults
	lines := f.history.lines(f.t, f.panel)
	if len(lines) == 0 {
		f.text(f.width/2, f.height/2+4, `font-size="13" text-anchor="middle" fill="#777777"`, "No data")
		return
	}
	feet := make([][]float64, len(lines)) // what each line stands on, if they are stacked
	if defaults.Custom.Stacking.Mode == "normal" {
		sum := make([]float64, f.history.points())
		for i := range lines {
			feet[i] = slices.Clone(sum)
			for j, v := range lines[i].values {
				lines[i].values[j] += sum[j]
				if !math.IsNaN(v) {
					sum[j] += v
				}
			}
		}
	}
	examples := f.history.examples(f.t, f.panel)
	low, high := math.Inf(1), math.Inf(-1)
	for _, l := range lines {
		lowest, highest := extent(l.values)
		low, high = min(low, lowest), max(high, highest)
	}
	for _, e := range examples {
		high = max(high, e.Value)
	}
	if defaults.Min != nil {
		low = min(low, *defaults.Min)
	}
	c := chart{f.history, 66, f.width - 12, 30, f.height - 22 - f.legend(lines), low, high}
	f.axes(&c)

	opacity := defaults.Custom.FillOpacity / 100
	for i, l := range lines {
		if defaults.Custom.DrawStyle == "bars" {
			f.path(c.bars(l.values, feet[i]), fmt.Sprintf(`fill="%s" fill-opacity="%.2f"`, l.colour, opacity))
			continue
		}
		f.path(c.area(l.values, feet[i]), fmt.Sprintf(`fill="%s" fill-opacity="%.2f"`, l.colour, opacity))
		f.path(
			c.stroke(l.values), fmt.Sprintf(`fill="none" stroke="%s" stroke-width="1.5" stroke-linejoin="round" stroke-linecap="round"`, l.colour),
		)
	}
	var dots strings.Builder
	for _, e := range examples {
		fmt.Fprintf(
			&dots, "M%.1f %.1fl2 2-2 2-2-2z", c.x(float64(e.Ts-f.history.from.UnixMilli())/float64(interval.Milliseconds())), c.y(e.Value)-2,
		)
	}
	if len(examples) > 0 {
		f.path(dots.String(), `fill="#3865ab" fill-opacity="0.5"`)
	}
}

// legend draws the names of the lines at the bottom, and returns its height.
func (f *frame) legend(lines []line) float64 {
	const lineHeight, mark = 15.0, 20.0
	type place struct{ x, row float64 }
	var places []place
	x, row := 12.0, 0.0
	for _, l := range lines {
		width := mark + float64(len([]rune(l.name)))*charWidth + 12
		if x+width > f.width && x > 12 {
			x, row = 12, row+1
		}
		places = append(places, place{x, row})
		x += width
	}
	height := (row + 1) * lineHeight
	for i, l := range lines {
		y := f.height - 8 - (row-places[i].row)*lineHeight
		f.path(fmt.Sprintf("M%.1f %.1fh14", places[i].x, y-4), fmt.Sprintf(`stroke="%s" stroke-width="4"`, l.colour))
		f.text(places[i].x+mark, y, `fill="#333333"`, l.name)
	}
	return height
}

// axes rounds the limits of a chart, and draws its grid.
func (f *frame) axes(c *chart) {
	if c.high <= c.low {
		c.high = c.low + 1
	}
	rough := (c.high - c.low) / 4
	tick := math.Pow10(int(math.Floor(math.Log10(rough))))
	for _, factor := range []float64{2, 5, 10} {
		if tick*factor >= rough {
			tick *= factor
			break
		}
	}
	c.low, c.high = math.Floor(c.low/tick)*tick, math.Ceil(c.high/tick)*tick
	for n := range int(math.Round((c.high-c.low)/tick)) + 1 {
		value := c.low + float64(n)*tick
		f.path(fmt.Sprintf("M%.1f %.1fH%.1f", c.left, c.y(value), c.right), `stroke="#e4e5e6"`)
		f.text(c.left-6, c.y(value)+4, `text-anchor="end" fill="#555555"`, show(f.t, value, f.panel.FieldConfig.Defaults.Unit, nil))
	}
	every := 10 * time.Second
	for (c.right-c.left)/float64(f.history.points())*every.Seconds() < 70 {
		every *= 2
	}
	for at := f.history.from.Truncate(every).Add(every); !at.After(f.history.to); at = at.Add(every) {
		x := c.x(at.Sub(f.history.from).Seconds() / interval.Seconds())
		f.path(fmt.Sprintf("M%.1f %.1fV%.1f", x, c.top, c.bottom), `stroke="#e4e5e6"`)
		if x+28 > f.width {
			break
		}
		f.text(x, c.bottom+14, `text-anchor="middle" fill="#555555"`, at.UTC().Format("15:04:05"))
	}
}

// extent returns the lowest and the highest of the values that are there.
func extent(values []float64) (low, high float64) {
	low, high = math.Inf(1), math.Inf(-1)
	for _, v := range values {
		if !math.IsNaN(v) {
			low, high = min(low, v), max(high, v)
		}
	}
	return low, high
}

// chart is the part of a panel where values are drawn over time.
type chart struct {
	history                  *history
	left, right, top, bottom float64
	low, high                float64 // values at bottom and top
}

func (c *chart) x(point float64) float64 {
	return c.left + point*(c.right-c.left)/float64(max(c.history.points()-1, 1))
}

func (c *chart) y(value float64) float64 {
	return c.bottom - (value-c.low)*(c.bottom-c.top)/(c.high-c.low)
}

// runs calls draw for each run of points that have a value.
func runs(values []float64, draw func(first, last int)) {
	for first := 0; first < len(values); first++ {
		if math.IsNaN(values[first]) {
			continue
		}
		last := first
		for last+1 < len(values) && !math.IsNaN(values[last+1]) {
			last++
		}
		draw(first, last)
		first = last
	}
}

// stroke returns the path of a line; a point alone is a dot.
func (c *chart) stroke(values []float64) string {
	var d strings.Builder
	runs(values, func(first, last int) {
		fmt.Fprintf(&d, "M%.1f %.1f", c.x(float64(first)), c.y(values[first]))
		for i := first + 1; i <= last; i++ {
			fmt.Fprintf(&d, "L%.1f %.1f", c.x(float64(i)), c.y(values[i]))
		}
		if first == last {
			d.WriteString("h0.1")
		}
	})
	return d.String()
}

// area returns the path of the area between a line and its feet, or the bottom.
func (c *chart) area(values, feet []float64) string {
	var d strings.Builder
	runs(values, func(first, last int) {
		command := "M"
		for i := first; i <= last; i++ {
			fmt.Fprintf(&d, "%s%.1f %.1f", command, c.x(float64(i)), c.y(values[i]))
			command = "L"
		}
		for i := last; i >= first; i-- {
			fmt.Fprintf(&d, "L%.1f %.1f", c.x(float64(i)), c.foot(feet, i))
		}
		d.WriteString("z")
	})
	return d.String()
}

// bars returns the path of a bar for each value.
func (c *chart) bars(values, feet []float64) string {
	var d strings.Builder
	width := (c.x(1) - c.x(0)) * 0.8
	for i, v := range values {
		if !math.IsNaN(v) {
			fmt.Fprintf(&d, "M%.1f %.1fV%.1fh%.1fV%.1fz", c.x(float64(i))-width/2, c.foot(feet, i), c.y(v), width, c.foot(feet, i))
		}
	}
	return d.String()
}

func (c *chart) foot(feet []float64, i int) float64 {
	if feet == nil {
		return c.y(max(c.low, min(0, c.high)))
	}
	return c.y(feet[i])
}

// table draws the values at the end, with columns in the dashboard's order.
func (f *frame) table() {
	f.head()
	if len(f.panel.Targets) != 1 || len(f.panel.Transformations) != 1 || f.panel.Transformations[0].ID != "organize" {
		f.t.Fatalf("%s: can't draw a table but of one query, with its columns organized", f.panel.Title)
	}
	query, err := f.history.engine.NewInstantQuery(f.t.Context(), f.history, nil, inPicture.Replace(f.panel.Targets[0].Expr), f.history.to)
	if err != nil {
		f.t.Fatalf("%s: %v", f.panel.Title, err)
	}
	defer query.Close()
	found, err := query.Exec(f.t.Context()).Vector()
	if err != nil {
		f.t.Fatalf("%s: %v", f.panel.Title, err)
	}
	if len(found) == 0 {
		f.text(f.width/2, f.height/2+4, `font-size="13" text-anchor="middle" fill="#777777"`, "No data")
		return
	}
	organized := f.panel.Transformations[0].Options
	columns := slices.SortedFunc(maps.Keys(organized.IndexByName), func(a, b string) int {
		return cmp.Compare(organized.IndexByName[a], organized.IndexByName[b])
	})
	x := 12.0
	for _, column := range columns {
		cells := []string{cmp.Or(organized.RenameByName[column], column)}
		for _, sample := range found {
			if column == "Value" {
				cells = append(cells, strconv.FormatFloat(sample.F, 'f', -1, 64))
			} else {
				cells = append(cells, sample.Metric.Get(column))
			}
		}
		widest := 0.0
		for i, cell := range cells {
			attributes := `fill="#333333"`
			if i == 0 {
				attributes = `fill="#333333" font-weight="600"`
			}
			widest = max(widest, float64(len([]rune(cell)))*charWidth+16)
			if most := int((f.width - x) / (charWidth + 1)); len([]rune(cell)) > most {
				cell = string([]rune(cell)[:most-1]) + "…"
			}
			f.text(x, 42+float64(i)*20, attributes, cell)
		}
		x += widest
	}
}

// drawn returns the drawing of each panel and its text, by the id of the panel.
func drawn(picture string) (panels, texts map[int]string) {
	panels, texts = make(map[int]string), make(map[int]string)
	for _, found := range regexp.MustCompile(`(?s)<g id="panel-(\d+)"[^>]*>(.*?)</g>`).FindAllStringSubmatch(picture, -1) {
		id, _ := strconv.Atoi(found[1]) // digits
		panels[id] = found[2]
		texts[id] = html.UnescapeString(strings.Join(strings.Fields(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(found[2], " ")), " "))
	}
	return panels, texts
}

// everything exports every series that the guide knows, with a value that is made up.
func (g *guide) everything(value int) []byte {
	var out strings.Builder
	for _, metric := range slices.Sorted(maps.Keys(g.labels)) {
		series := []map[string]string{{}}
		for _, label := range slices.Sorted(slices.Values(g.labels[metric])) {
			var more []map[string]string
			for _, s := range series {
				values := g.values[label]
				switch label {
				case "account", "box", "service", "fingerprint": // not listed
					values = []string{"25"}
				case "outcome":
					values = g.outcomes[s["direction"]]
				}
				for _, v := range values {
					with := maps.Clone(s)
					with[label] = v
					more = append(more, with)
				}
			}
			series = more
		}
		for _, s := range series {
			text := strings.ReplaceAll(labels.FromMap(s).String(), ", ", ",")
			if g.kinds[metric] != "histogram" {
				fmt.Fprintf(&out, "%s%s %d\n", metric, text, value)
				continue
			}
			bucket := metric + "_bucket" + strings.TrimSuffix(text, "}")
			fmt.Fprintf(&out, "%s,le=\"0.1\"} %d # {trace_id=\"%d\"} 0.05\n%s,le=\"+Inf\"} %d\n", bucket, value, value, bucket, value)
		}
	}
	return []byte(out.String() + "# EOF\n")
}

var start = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func TestThePictureHasEveryPanel(t *testing.T) {
	t.Parallel()
	g, b := readGuide(t), readBoard(t)
	h := newHistory(t)
	for n := range 10 {
		h.scrape(t, start.Add(time.Duration(n)*interval), g.everything(n))
	}
	panels, texts := drawn(h.draw(t, b))
	for i := range b.Panels {
		p := &b.Panels[i]
		if !strings.Contains(texts[p.ID], p.Title) {
			t.Errorf("%s: expected its title, found %q", p.Title, texts[p.ID])
		}
		if missing := p.FieldConfig.Defaults.NoValue; strings.Contains(texts[p.ID], "No data") ||
			missing != "" && strings.Contains(texts[p.ID], missing) {
			t.Errorf("%s: expected a value, found %q", p.Title, texts[p.ID])
		}
		if bad := regexp.MustCompile(`NaN|Inf|d=""`).FindString(panels[p.ID]); bad != "" {
			t.Errorf("%s: found %s in\n%s", p.Title, bad, panels[p.ID])
		}
		if p.Type != "timeseries" {
			continue
		}
		for _, l := range h.lines(t, p) {
			if !strings.Contains(texts[p.ID], l.name) || !strings.Contains(panels[p.ID], `fill="`+l.colour+`"`) {
				t.Errorf("%s: expected the series %q and its name", p.Title, l.name)
			}
		}
		if dots := strings.Contains(panels[p.ID], `fill="#3865ab"`); dots != slices.ContainsFunc(
			p.Targets, func(target target) bool { return target.Exemplar },
		) {
			t.Errorf("%s: examples are drawn: %t", p.Title, dots)
		}
	}
}

func TestThePictureShowsAValueOnTheColourOfItsThreshold(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, exported string
		panel          string
		value, colour  string
	}{
		{"nothing is dead", `caddy_doku_inbox_calls{box="a",state="dead"} 0`, "Dead letters", "0", "green"},
		{"some are dead", `caddy_doku_inbox_calls{box="a",state="dead"} 3`, "Dead letters", "3", "red"},
		{"one waits for long", `caddy_doku_inbox_oldest_seconds{box="a"} 90`, "Oldest in the inbox", "1.5 min", "yellow"},
		{"there is no inbox", `caddy_doku_token_age_seconds{account="a"} 7`, "Oldest in the inbox", "no inbox", "green"},
		{"a young token", `caddy_doku_token_age_seconds{account="a"} 7`, "Age of the token", "7 s", "green"},
		{"no calls yet", `caddy_doku_token_age_seconds{account="a"} 7`, "Calls to DOKU, good", "No data", "green"},
		{"no alert fires", `caddy_doku_key_info{account="a",key="merchant",fingerprint="SHA256:a"} 1`, "Alerts", "0", "green"},
		{"an alert fires", `caddy_doku_key_info{account="a",key="merchant",fingerprint="SHA256:a"} 1` + "\n" +
			`caddy_doku_inbox_calls{box="a",state="dead"} 3`, "Alerts", "1", "red"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := newHistory(t)
			for n := range 3 {
				h.scrape(t, start.Add(time.Duration(n)*interval), []byte(test.exported+"\n# EOF\n"))
			}
			b := readBoard(t)
			panels, texts := drawn(h.draw(t, b))
			i := slices.IndexFunc(b.Panels, func(p panel) bool { return p.Type == "stat" && p.Title == test.panel })
			if i < 0 {
				t.Fatalf("there is no %s", test.panel)
			}
			id := b.Panels[i].ID
			if !strings.HasSuffix(texts[id], test.panel+" "+test.value) ||
				!strings.Contains(panels[id], `fill="`+colours[test.colour]+`"`) {
				t.Errorf("expected %s on %s, found %s", test.value, test.colour, panels[id])
			}
		})
	}
}

// TestTheDashboardIsDrawn draws the dashboard from what a sidecar has exported in every
// second, if CADDY_DOKU_SCRAPES names a folder of that, into the folder CADDY_DOKU_DRAW.
func TestTheDashboardIsDrawn(t *testing.T) {
	t.Parallel()
	folder, into := os.Getenv("CADDY_DOKU_SCRAPES"), os.Getenv("CADDY_DOKU_DRAW")
	if folder == "" || into == "" {
		t.Skip("skipped, because nothing was scraped: `make check-deploy DRAW=docs/pictures` does it all")
	}
	names, err := filepath.Glob(filepath.Join(folder, "*.txt"))
	if err != nil || len(names) == 0 {
		t.Fatalf("expected what was exported in %s (%v)", folder, err)
	}
	h := newHistory(t)
	for _, name := range names { // in the order of time, since all have as many digits
		milliseconds, err := strconv.ParseInt(strings.TrimSuffix(filepath.Base(name), ".txt"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		exported, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		h.scrape(t, time.UnixMilli(milliseconds), exported)
	}
	if err := os.WriteFile(filepath.Join(into, "dashboard.svg"), []byte(h.draw(t, readBoard(t))), 0o644); err != nil {
		t.Fatal(err)
	}
}
