package store

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
)

// Answer is an HTTP answer that is kept for repeats.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// answerFormat is the first byte of an encoded answer.
const answerFormat = 1

// HopByHop reports whether a header belongs to one connection or one moment, so that
// it must not be kept and sent again. Besides the hop-by-hop headers of HTTP these are
// Date, Server, Content-Length and Alt-Svc, which the server sets for each answer. name
// is spelled as [net/http] spells it.
func HopByHop(name string) bool { return hopByHop[name] }

var hopByHop = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Date": true, "Server": true, "Via": true,
	"Content-Length": true, "Transfer-Encoding": true, "Trailer": true, "Alt-Svc": true,
}

// Encode returns a as bytes, without the headers that are [HopByHop]. The format is:
// format number, status, number of header values, name and value of each, body.
// Numbers are varints. The length of a name or value comes before it.
func (a Answer) Encode() []byte {
	values, size := 0, 1+3*binary.MaxVarintLen16+len(a.Body)
	for name, all := range a.Header {
		if hopByHop[name] {
			continue
		}
		for _, value := range all {
			values++
			size += 2*binary.MaxVarintLen16 + len(name) + len(value)
		}
	}
	kept := append(make([]byte, 0, size), answerFormat)
	kept = binary.AppendUvarint(kept, uint64(a.Status)) //nolint:gosec // a status is positive
	kept = binary.AppendUvarint(kept, uint64(values))
	for name, all := range a.Header {
		if hopByHop[name] {
			continue
		}
		for _, value := range all {
			kept = appendText(appendText(kept, name), value)
		}
	}
	return append(kept, a.Body...)
}

func appendText(kept []byte, text string) []byte {
	return append(binary.AppendUvarint(kept, uint64(len(text))), text...)
}

// DecodeAnswer returns the answer that [Answer.Encode] encoded as value. The body
// shares memory with value. The error wraps [ErrStore].
func DecodeAnswer(value []byte) (*Answer, error) {
	if len(value) == 0 || value[0] != answerFormat {
		return decodeEarlier(value)
	}
	r := reader{rest: value[1:]}
	a := &Answer{Status: int(r.number())} //nolint:gosec // checked below
	for n := r.number(); n > 0 && !r.short; n-- {
		name := r.text()
		if a.Header == nil {
			a.Header = make(http.Header)
		}
		a.Header[name] = append(a.Header[name], r.text())
	}
	if r.short || a.Status < 100 || a.Status > 999 {
		return nil, fmt.Errorf("%w: a kept answer is cut short", ErrStore)
	}
	a.Body = r.rest
	return a, nil
}

// decodeEarlier reads the format of earlier versions, so that an upgrade loses no
// answer: the length of the head, the head in JSON, the body. The length of a head is
// more than 1, so the value does not begin with [answerFormat].
func decodeEarlier(value []byte) (*Answer, error) {
	r := reader{rest: value}
	var head struct {
		Status int         `json:"status"`
		Header http.Header `json:"header"`
	}
	text := r.text()
	if r.short {
		return nil, fmt.Errorf("%w: a kept answer is cut short", ErrStore)
	}
	if err := json.Unmarshal([]byte(text), &head); err != nil {
		return nil, fmt.Errorf("%w: a kept answer: %w", ErrStore, err)
	}
	return &Answer{head.Status, head.Header, r.rest}, nil
}

// reader reads the parts of an encoded answer.
type reader struct {
	rest  []byte
	short bool // the input has ended too early
}

func (r *reader) number() uint64 {
	number, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.short = true
		return 0
	}
	r.rest = r.rest[n:]
	return number
}

func (r *reader) text() string {
	length := r.number()
	if length > uint64(len(r.rest)) {
		r.short = true
		return ""
	}
	text := string(r.rest[:length])
	r.rest = r.rest[length:]
	return text
}
