package doktest

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Update reports whether golden files are to be written, by the flag -update.
func Update() bool { return *update }

// Golden compares got with a file in testdata/golden, or writes the file with -update.
func Golden(t testing.TB, name, got string) {
	t.Helper()
	path := Path(t, filepath.Join("golden", name))
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	t.Errorf("testdata/golden/%s differs; if that is intended, run the test with -update\n%s", name, difference(string(want), got))
}

// difference returns the lines that only one of two texts has.
func difference(want, got string) string {
	var b strings.Builder
	for _, side := range []struct{ mark, text, other string }{{"-", want, got}, {"+", got, want}} {
		known := make(map[string]int)
		for line := range strings.Lines(side.other) {
			known[line]++
		}
		for line := range strings.Lines(side.text) {
			if known[line]--; known[line] < 0 {
				b.WriteString(side.mark + strings.TrimSuffix(line, "\n") + "\n")
			}
		}
	}
	if b.Len() == 0 {
		return "the lines are the same, their order is not"
	}
	return b.String()
}
