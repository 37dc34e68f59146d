package caddymodule

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // the directives that the Caddyfiles use
)

// TestAdapt holds each testdata/*.caddyfiletest, a Caddyfile and after dashes
// the JSON or part of the error that it gives, against the adapter.
func TestAdapt(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			source, want, found := strings.Cut(string(text), "\n----------\n")
			if !found {
				t.Fatal("expected a line of ten dashes")
			}
			want = strings.TrimSpace(want)
			adapter := caddyfile.Adapter{ServerType: httpcaddyfile.ServerType{}}
			got, _, err := adapter.Adapt([]byte(source+"\n"), map[string]any{"filename": "Caddyfile"})
			if err != nil {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, expected it to contain %s", err, want)
				}
				return
			}
			var compact bytes.Buffer
			if err := json.Compact(&compact, []byte(want)); err != nil {
				t.Fatalf("expected an error that contains %q, it adapts to\n%s", want, got)
			}
			if string(got) != compact.String() {
				t.Errorf("adapts to\n%s\nexpected\n%s", got, compact.String())
			}
		})
	}
}
