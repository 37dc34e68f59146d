package snap

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// benchBodies are bodies of about size bytes: dense ones of many short keys and
// values, and ones that are mostly text; as the sidecar sends them, as a person
// would write them, and as encoders write that escape what they need not.
func benchBodies(size int) []struct {
	name string
	body []byte
} {
	item := func(i int) string {
		return fmt.Sprintf(`{"id":%d,"sku":"A-%d","qty":%d,"ok":true,"price":{"value":"%d.00","currency":"IDR"},"tags":["a","b"],"x":null}`,
			i, i, i%7, 1000+i)
	}
	var dense strings.Builder
	dense.WriteString(`{"items":[`)
	for i := 0; dense.Len() < size-110; i++ {
		if i > 0 {
			dense.WriteByte(',')
		}
		dense.WriteString(item(i))
	}
	dense.WriteString(`]}`)
	var texts strings.Builder
	texts.WriteString(`{"texts":[`)
	for i := 0; texts.Len() < size-230; i++ {
		if i > 0 {
			texts.WriteByte(',')
		}
		texts.WriteString(`"` + strings.Repeat("Pembayaran tagihan bulan Maret ", 7) + `"`)
	}
	texts.WriteString(`]}`)

	pretty := func(s string) []byte {
		var b bytes.Buffer
		if err := json.Indent(&b, []byte(s), "", "  "); err != nil {
			panic(err)
		}
		return b.Bytes()
	}
	spaced := func(s string) []byte { // as Python's json.dumps writes it
		return []byte(strings.NewReplacer(`,`, `, `, `":`, `": `).Replace(s))
	}
	escaped := func(s string) []byte {
		return []byte(strings.NewReplacer("IDR", `I\u0044R`, "a", `\u0061`, "bulan", `bul\/an`).Replace(s))
	}
	return []struct {
		name string
		body []byte
	}{
		{"dense/canonical", []byte(dense.String())},
		{"dense/spaced", spaced(dense.String())},
		{"dense/pretty", pretty(dense.String())},
		{"dense/escaped", escaped(dense.String())},
		{"text/canonical", []byte(texts.String())},
		{"text/pretty", pretty(texts.String())},
		{"text/escaped", escaped(texts.String())},
	}
}

// BenchmarkCanonical compares the canonical form with what else a signer has to
// do with a body, in one run: json.Compact, which it stands for, and SHA-256.
func BenchmarkCanonical(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10} {
		for _, bb := range benchBodies(size) {
			run := func(name string, f func()) {
				b.Run(fmt.Sprintf("%dKiB/%s/%s", size>>10, bb.name, name), func(b *testing.B) {
					b.SetBytes(int64(len(bb.body)))
					b.ReportAllocs()
					for b.Loop() {
						f()
					}
				})
			}
			dst := make([]byte, 0, len(bb.body))
			var compact bytes.Buffer
			compact.Grow(len(bb.body))
			run("canonical", func() {
				if _, _, err := AppendCanonical(dst, bb.body); err != nil {
					b.Fatal(err)
				}
			})
			run("minified", func() {
				if _, err := AppendMinified(dst, bb.body); err != nil {
					b.Fatal(err)
				}
			})
			run("json.Compact", func() {
				compact.Reset()
				if err := json.Compact(&compact, bb.body); err != nil {
					b.Fatal(err)
				}
			})
			run("sha256", func() { sha256.Sum256(bb.body) })
		}
	}
}
