package golden

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // the directives that the Caddyfiles use

	_ "github.com/caddy-doku/caddy-doku" // the modules, wherever they are
	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

// caddyfiles is a folder of Caddy's own test format: a Caddyfile, a line of dashes, and the
// JSON or the error that it gives.
//
//   - options: every option of every directive, and every mistake that has an error of its own
//   - tests: the Caddyfiles of the tests, the tour and the benchmark, as they were written once
//   - docs: those of the documents and Caddyfile.example
const (
	caddyfiles = "caddyfiles"
	docs       = "docs"
	extension  = ".caddyfiletest"
	dashes     = "----------\n"
)

// adapt returns the JSON of a Caddyfile, or the text of its error. The keys of the JSON are
// sorted: the order of a struct's fields means nothing.
func adapt(t *testing.T, source string) string {
	t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(source), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return err.Error() + "\n"
	}
	decoder := json.NewDecoder(bytes.NewReader(adapted))
	decoder.UseNumber() // a float64 does not hold every duration
	var config any
	if err := decoder.Decode(&config); err != nil {
		t.Fatal(err)
	}
	var pretty bytes.Buffer
	encoder := json.NewEncoder(&pretty)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "\t")
	if err := encoder.Encode(config); err != nil {
		t.Fatal(err)
	}
	return pretty.String()
}

// read returns the two halves of a golden file, or nothing if there is no file.
func read(t *testing.T, name string) (source, result string) {
	t.Helper()
	text, err := os.ReadFile(doktest.Path(t, filepath.Join("golden", name)))
	if err != nil {
		return "", ""
	}
	source, result, found := strings.Cut(string(text), "\n"+dashes)
	if !found && !doktest.Update() {
		t.Fatalf("%s: expected a line of ten dashes", name)
	}
	return strings.TrimSuffix(source, "\n") + "\n", result
}

func TestCaddyfilesGiveTheSameJSONAsBefore(t *testing.T) {
	t.Parallel()
	root := doktest.Path(t, "golden")
	names := 0
	err := filepath.WalkDir(filepath.Join(root, caddyfiles), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != extension {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		names++
		if doktest.Update() && filepath.Base(filepath.Dir(name)) == docs {
			return nil // the test below writes these, from the documents
		}
		t.Run(strings.TrimSuffix(name, extension), func(t *testing.T) {
			t.Parallel()
			source, _ := read(t, name)
			doktest.Golden(t, name, source+dashes+adapt(t, source))
		})
		return nil
	})
	if err != nil || names < 100 {
		t.Fatalf("found %d golden Caddyfiles: %v", names, err)
	}
}

// TestDocumentedCaddyfilesGiveTheSameJSONAsBefore reads the documents themselves. Their
// comments and their order of blocks may change, their JSON must not.
func TestDocumentedCaddyfilesGiveTheSameJSONAsBefore(t *testing.T) {
	t.Parallel()
	example, err := os.ReadFile(doktest.Path(t, "../Caddyfile.example"))
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]bool)
	snippets := append(doktest.Snippets(t, "caddyfile"), doktest.Snippet{Doc: "Caddyfile.example", Number: 1, Text: string(example)})
	for _, snippet := range snippets {
		id := strings.TrimSuffix(filepath.Base(snippet.Doc), ".md") + "-" + strconv.Itoa(snippet.Number)
		name := filepath.Join(caddyfiles, docs, id+extension)
		known[id+extension] = true
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			got := adapt(t, snippet.Text)
			if !strings.HasPrefix(got, "{") {
				t.Fatalf("it does not adapt: %s", got)
			}
			if _, want := read(t, name); got != want || doktest.Update() {
				doktest.Golden(t, name, snippet.Text+dashes+got)
			}
		})
	}
	files, err := os.ReadDir(doktest.Path(t, filepath.Join("golden", caddyfiles, docs)))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !known[file.Name()] {
			t.Errorf("no document shows the Caddyfile of %s any more: remove the file", file.Name())
		}
	}
}
