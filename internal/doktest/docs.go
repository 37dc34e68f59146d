package doktest

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// Docs returns the paths of README.md and of the documents in docs, from the root of
// this module.
func Docs(t testing.TB) []string {
	t.Helper()
	found, err := filepath.Glob(Path(t, "../docs/*.md"))
	if err != nil || len(found) < 5 {
		t.Fatalf("found the documents %v, %v", found, err)
	}
	paths := []string{"README.md"}
	for _, path := range found {
		paths = append(paths, "docs/"+filepath.Base(path))
	}
	return paths
}

// Snippet is a block of code in a document.
type Snippet struct {
	Doc    string // as [Docs] returns it
	Number int    // among the blocks of its language in the document, from 1
	Text   string
}

// Snippets returns the blocks of all documents that are marked with a language, such as
// caddyfile.
func Snippets(t testing.TB, language string) (all []Snippet) {
	t.Helper()
	block := regexp.MustCompile("(?ms)^```" + regexp.QuoteMeta(language) + "\n(.*?)^```")
	for _, doc := range Docs(t) {
		text, err := os.ReadFile(Path(t, "../"+doc))
		if err != nil {
			t.Fatal(err)
		}
		for i, found := range block.FindAllStringSubmatch(string(text), -1) {
			all = append(all, Snippet{doc, i + 1, found[1]})
		}
	}
	return all
}
