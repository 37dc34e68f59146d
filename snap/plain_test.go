package snap

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"io"
	"strings"
	"testing"
)

func zipped(t *testing.T, text string, newWriter func(io.Writer) io.WriteCloser) []byte {
	t.Helper()
	var b bytes.Buffer
	w := newWriter(&b)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestPlainJSON(t *testing.T) {
	t.Parallel()
	const plain = `{"responseCode":"4012701"}`
	gz := func(text string) []byte {
		return zipped(t, text, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
	}
	deflated := zipped(t, plain, func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) })
	for name, test := range map[string]struct {
		coding string
		body   []byte
		want   string
	}{
		"plain":                {"", []byte(plain), plain},
		"a byte order mark":    {"", []byte("\ufeff" + plain), plain},
		"identity":             {"identity", []byte(plain), plain},
		"gzip":                 {"gzip", gz(plain), plain},
		"x-gzip in upper case": {" X-GZIP ", gz(plain), plain},
		"a mark within gzip":   {"gzip", gz("\ufeff" + plain), plain},
		"deflate":              {"deflate", deflated, plain},
		"another coding":       {"br", []byte("x"), "x"},
		"no gzip at all":       {"gzip", []byte(plain), plain},
		"half of it":           {"gzip", gz(plain)[:12], string(gz(plain)[:12])},
		"nothing":              {"gzip", nil, ""},
		"more than the limit":  {"gzip", gz(strings.Repeat("a", 1000)), strings.Repeat("a", 100)},
	} {
		if got := PlainJSON(test.coding, test.body, 100); string(got) != test.want {
			t.Errorf("%s: found %q", name, got)
		}
	}
}
