//go:build !race

// The race detector makes sync.Pool forget, so allocations are counted without it.

package snap

import "testing"

func TestCanonicalAllocatesOnlyTheResult(t *testing.T) {
	for _, body := range benchBodies(64 << 10) {
		if n := testing.AllocsPerRun(20, func() {
			if _, _, err := AppendCanonical(nil, body.body); err != nil {
				t.Fatal(err)
			}
		}); n > 2 {
			t.Errorf("%s: %v allocations, expected at most 2", body.name, n)
		}
	}
}
