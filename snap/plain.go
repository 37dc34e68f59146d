package snap

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"io"
	"strings"
)

// PlainJSON returns body, an answer with this Content-Encoding, as JSON: without gzip or
// deflate, and without a byte order mark, which a reader may ignore (RFC 8259, 8.1). It
// reads at most limit bytes of compressed JSON; the rest is missing then. If it cannot
// read the encoding, it returns body.
func PlainJSON(contentEncoding string, body []byte, limit int) []byte {
	var (
		reader io.Reader
		err    error
	)
	switch strings.ToLower(strings.TrimSpace(contentEncoding)) {
	case "", "identity":
		return bytes.TrimPrefix(body, []byte("\ufeff"))
	case "gzip", "x-gzip":
		reader, err = gzip.NewReader(bytes.NewReader(body))
	case "deflate":
		reader, err = zlib.NewReader(bytes.NewReader(body))
	default:
		return body
	}
	if err != nil {
		return body
	}
	plain, err := io.ReadAll(io.LimitReader(reader, int64(limit)))
	if err != nil {
		return body
	}
	return bytes.TrimPrefix(plain, []byte("\ufeff"))
}
