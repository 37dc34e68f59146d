package httpio_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/caddy-doku/caddy-doku/caddymodule/internal/httpio"
)

// read reads a body through a budget. A negative length means chunks.
func read(b *httpio.Budget, body io.Reader, length, limit int64) (string, func(), error) {
	r := httptest.NewRequest(http.MethodPost, "/", body)
	r.ContentLength = length
	got, release, err := b.Read(httptest.NewRecorder(), r, limit, time.Hour)
	return string(got), release, err
}

func TestABodyIsReadToItsEnd(t *testing.T) {
	large := strings.Repeat("0123456789abcdef", 20_000)
	for name, body := range map[string]string{
		"nothing": "", "a byte": "x", "the first room": large[:64<<10], "one more": large[:64<<10+1], "all": large,
	} {
		for _, length := range []int64{int64(len(body)), -1} {
			b := httpio.NewBudget(1, 1<<20)
			got, release, err := read(b, iotest.HalfReader(strings.NewReader(body)), length, int64(len(large)))
			if err != nil || got != body {
				t.Errorf("%s, length %d: read %d bytes, error %v", name, length, len(got), err)
			}
			release()
			if _, _, err := read(b, strings.NewReader(body), length, int64(len(large))); err != nil {
				t.Errorf("%s, length %d: there is no room after release: %v", name, length, err)
			}
		}
	}
}

func TestABodyThatIsNotWholeIsAnError(t *testing.T) {
	b := httpio.NewBudget(10, 1<<20)
	for name, test := range map[string]struct {
		body   io.Reader
		length int64
		want   error
	}{
		"over the limit, as it says": {strings.NewReader("12345678901"), 11, httpio.ErrTooLarge},
		"over the limit, in chunks":  {strings.NewReader("12345678901"), -1, httpio.ErrTooLarge},
		"far over the limit":         {strings.NewReader(strings.Repeat("x", 100_000)), -1, httpio.ErrTooLarge},
		"shorter than it says":       {strings.NewReader("123"), 4, io.ErrUnexpectedEOF},
		"broken off":                 {iotest.ErrReader(iotest.ErrTimeout), 4, iotest.ErrTimeout},
		"broken off, in chunks":      {iotest.ErrReader(iotest.ErrTimeout), -1, iotest.ErrTimeout},
	} {
		if _, _, err := read(b, test.body, test.length, 10); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestABudgetHasRoomForSoManyBodiesAndBytes(t *testing.T) {
	b := httpio.NewBudget(3, 100)
	if _, _, err := read(b, strings.NewReader(strings.Repeat("x", 101)), 101, 1000); !errors.Is(err, httpio.ErrBusy) {
		t.Errorf("more bytes than there is room for: %v", err)
	}
	_, release, err := read(b, strings.NewReader(strings.Repeat("x", 60)), 60, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := read(b, strings.NewReader(strings.Repeat("x", 41)), 41, 1000); !errors.Is(err, httpio.ErrBusy) {
		t.Errorf("more bytes than are left: %v", err)
	}
	for range 2 {
		if _, _, err := read(b, strings.NewReader("x"), 1, 1000); err != nil {
			t.Errorf("there is no room for a byte: %v", err)
		}
	}
	if _, _, err := read(b, strings.NewReader("x"), 1, 1000); !errors.Is(err, httpio.ErrBusy) {
		t.Errorf("a fourth body: %v", err)
	}
	release()
	if _, _, err := read(b, strings.NewReader("x"), 1, 1000); err != nil {
		t.Errorf("there is no room after one has gone: %v", err)
	}
}

func TestABodyTakesRoomAsItArrives(t *testing.T) {
	b := httpio.NewBudget(2, 1<<20)
	_, _, err := read(b, iotest.ErrReader(iotest.ErrTimeout), 1<<30, 1<<31) // says that it is large, and sends nothing
	if !errors.Is(err, iotest.ErrTimeout) {
		t.Fatal(err)
	}
	if _, _, err := read(b, strings.NewReader(strings.Repeat("x", 512<<10)), 512<<10, 1<<31); err != nil {
		t.Errorf("the one that says much takes all the room: %v", err)
	}
}
