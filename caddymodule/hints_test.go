package caddymodule

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/verifier"
)

// reasonsIn returns the reasons that the source of this package gives: the second
// field of each value of a type.
func reasonsIn(t *testing.T, typeName string) []string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	reasons := make(map[string]bool)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			value, ok := n.(*ast.CompositeLit)
			if !ok || len(value.Elts) == 0 {
				return true
			}
			if of, ok := value.Type.(*ast.Ident); !ok || of.Name != typeName {
				return true
			}
			switch reason := value.Elts[1].(type) {
			case *ast.BasicLit:
				text, err := strconv.Unquote(reason.Value)
				if err != nil {
					t.Fatal(err)
				}
				reasons[text] = true
			case *ast.CallExpr: // verifier.Reason, whose are all known
			default:
				t.Errorf("%s gives a reason that is no literal: this test must learn to read it", name)
			}
			return true
		})
	}
	return slices.Sorted(maps.Keys(reasons))
}

func TestEveryReasonHasAHint(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		reasons []string
		hints   map[string]string
	}{
		{"of calls that are not made", append(reasonsIn(t, "localError"), outcomeCancelled), outboundHints},
		{"of calls that are not accepted", append(reasonsIn(t, "refusal"), verifier.Reasons()...), inboundHints},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if len(test.reasons) < 10 {
				t.Fatalf("found only %v", test.reasons)
			}
			for _, reason := range test.reasons {
				if test.hints[reason] == "" {
					t.Errorf("%s has no hint", reason)
				}
			}
			for reason := range test.hints {
				if !slices.Contains(test.reasons, reason) {
					t.Errorf("there is no reason %s", reason)
				}
			}
		})
	}
}
