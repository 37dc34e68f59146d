package deploy

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/prometheus/prometheus/promql/parser"
)

const dashboardFile = "deploy/grafana/doku.json"

// variables are the values that Grafana puts in place of its variables.
var variables = strings.NewReplacer("$__rate_interval", "5m", "$account", ".*")

// board is a dashboard, as far as it is checked and drawn here.
type board struct {
	Title      string  `json:"title"`
	Panels     []panel `json:"panels"`
	Templating struct {
		List []struct {
			Name       string  `json:"name"`
			Datasource *source `json:"datasource"`
		} `json:"list"`
	} `json:"templating"`
}

type panel struct {
	ID      int    `json:"id"`
	Type    string `json:"type"`
	Title   string `json:"title"`
	GridPos struct {
		X, Y, W, H int
	} `json:"gridPos"`
	Datasource *source  `json:"datasource"`
	Targets    []target `json:"targets"`

	FieldConfig struct {
		Defaults struct {
			Unit       string   `json:"unit"`
			Decimals   *int     `json:"decimals"`
			NoValue    string   `json:"noValue"`
			Min        *float64 `json:"min"`
			Thresholds struct {
				Steps []struct {
					Color string   `json:"color"`
					Value *float64 `json:"value"`
				} `json:"steps"`
			} `json:"thresholds"`
			Custom struct {
				DrawStyle   string  `json:"drawStyle"`
				LineWidth   float64 `json:"lineWidth"`
				FillOpacity float64 `json:"fillOpacity"` // in percent
				Stacking    struct {
					Mode string `json:"mode"`
				} `json:"stacking"`
			} `json:"custom"`
		} `json:"defaults"`
		Overrides []struct {
			Matcher struct {
				ID      string `json:"id"`
				Options string `json:"options"`
			} `json:"matcher"`
			Properties []struct {
				ID    string `json:"id"`
				Value struct {
					FixedColor string `json:"fixedColor"`
				} `json:"value"`
			} `json:"properties"`
		} `json:"overrides"`
	} `json:"fieldConfig"`
	Options struct {
		GraphMode string `json:"graphMode"`
	} `json:"options"`
	Transformations []struct {
		ID      string `json:"id"`
		Options struct {
			IndexByName  map[string]int    `json:"indexByName"`
			RenameByName map[string]string `json:"renameByName"`
		} `json:"options"`
	} `json:"transformations"`
}

type target struct {
	RefID        string  `json:"refId"`
	Expr         string  `json:"expr"`
	LegendFormat string  `json:"legendFormat"`
	Exemplar     bool    `json:"exemplar"`
	Datasource   *source `json:"datasource"`
}

type source struct {
	UID string `json:"uid"`
}

func readBoard(t *testing.T) *board {
	t.Helper()
	b := new(board)
	if err := json.Unmarshal([]byte(read(t, dashboardFile)), b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheDashboardFitsGrafanasSchema(t *testing.T) {
	t.Parallel()
	plugins.RegisterDefaultPlugins()
	var d dashboard.Dashboard //nolint:staticcheck // the schema after it can't be imported into every Grafana yet
	// An error without a text is an empty list of errors.
	if err := d.UnmarshalJSONStrict([]byte(read(t, dashboardFile))); err != nil && err.Error() != "" {
		t.Fatal(err)
	}
	if err := d.Validate(); err != nil && err.Error() != "" {
		t.Fatal(err)
	}
}

func TestTheDashboardShowsEveryMetricAndNothingElse(t *testing.T) {
	t.Parallel()
	g := readGuide(t)
	d := readBoard(t)
	for _, name := range []string{"datasource", "account"} {
		if len(d.Templating.List) != 2 || d.Templating.List[0].Name != name && d.Templating.List[1].Name != name {
			t.Errorf("expected the variable %s", name)
		}
	}
	shown := make(map[string]bool)
	ids := make(map[int]bool)
	var taken [200][24]bool
	for _, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 {
			t.Errorf("%s: expected an id of its own, found %d", p.Title, p.ID)
		}
		ids[p.ID] = true
		for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				if x >= 24 || taken[y][x] {
					t.Fatalf("%s: the place %+v is taken, or there is none", p.Title, p.GridPos)
				}
				taken[y][x] = true
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Datasource == nil || p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("%s: expected queries, and the data source of the variable", p.Title)
		}
		for _, target := range p.Targets {
			if target.Datasource == nil || target.Datasource.UID != "${datasource}" {
				t.Errorf("%s: expected the data source of the variable", p.Title)
			}
			query := variables.Replace(target.Expr)
			if strings.Contains(query, "$") {
				t.Errorf("%s: unknown variable in %s", p.Title, target.Expr)
			}
			g.check(t, p.Title, query)
			if expr, err := promql.ParseExpr(query); err == nil {
				parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
					if s, ok := node.(*parser.VectorSelector); ok {
						shown[s.Name] = true
					}
					return nil
				})
			}
		}
	}
	for name := range g.labels {
		if !shown[name] {
			t.Errorf("the dashboard does not show %s", name)
		}
	}
	if first := d.Panels[:8]; slices.ContainsFunc(first, func(p panel) bool { return p.Type != "stat" || p.GridPos.Y != 0 }) {
		t.Error("expected the figures that say whether money flows at the top")
	}
}
