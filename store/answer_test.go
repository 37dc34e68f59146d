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
	} {
		value, err := a.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeAnswer(value); err != nil || !reflect.DeepEqual(*got, a) {
			t.Errorf("found %+v, %v, expected %+v", got, err, a)
		}
	}
}

func FuzzDecodeAnswer(f *testing.F) {
	value, err := Answer{Status: 200, Header: http.Header{"A": {"b"}}, Body: []byte("body")}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(value)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
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
