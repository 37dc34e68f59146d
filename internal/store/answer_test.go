package store

import (
	"bytes"
	"errors"
	"net/http"
	"reflect"
	"testing"
)

func TestAnAnswerComesBackAsItWas(t *testing.T) {
	t.Parallel()
	for _, a := range []Answer{
		{Status: 200, Header: http.Header{"Content-Type": {"application/json"}, "X-A": {"1", "2"}}, Body: []byte(`{"responseCode":"2002500"}`)},
		{Status: 204, Body: []byte{}},
		{Status: 999, Header: http.Header{"X-Odd": {"", "\r\n\xff\x00"}, "": {"a"}}, Body: []byte{0}},
	} {
		if got, err := DecodeAnswer(a.Encode()); err != nil || !reflect.DeepEqual(*got, a) {
			t.Errorf("found %+v, %v, expected %+v", got, err, a)
		}
	}
}

func TestHopByHopHeadersAreNotKept(t *testing.T) {
	t.Parallel()
	header := http.Header{"Date": {"today"}, "Via": {"a", "b"}, "Content-Length": {"2"}, "Etag": {"1"}}
	a := Answer{Status: 200, Header: header, Body: []byte("{}")}
	if got, err := DecodeAnswer(a.Encode()); err != nil || !reflect.DeepEqual(got.Header, http.Header{"Etag": {"1"}}) {
		t.Errorf("headers %v, %v", got, err)
	}
}

func TestAnAnswerThatAnEarlierVersionKeptIsRead(t *testing.T) {
	t.Parallel()
	head := `{"status":200,"header":{"Content-Type":["application/json"]}}`
	value := append(append([]byte{byte(len(head))}, head...), "body"...)
	want := Answer{Status: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte("body")}
	if got, err := DecodeAnswer(value); err != nil || !reflect.DeepEqual(*got, want) {
		t.Errorf("found %+v, %v, expected %+v", got, err, want)
	}
}

func FuzzDecodeAnswer(f *testing.F) {
	f.Add(Answer{Status: 200, Header: http.Header{"A": {"b"}}, Body: []byte("body")}.Encode())
	f.Add([]byte{answerFormat, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{answerFormat, 200, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 'a', 1, 'b'})
	f.Add([]byte("\x0e{\"status\":200}body"))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, value []byte) {
		a, err := DecodeAnswer(value)
		if err != nil {
			if !errors.Is(err, ErrStore) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.HasSuffix(value, a.Body) {
			t.Fatalf("body %q of %q", a.Body, value)
		}
	})
}
