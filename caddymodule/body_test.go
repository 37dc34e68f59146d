package caddymodule

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestMemoryOfABodyIsNotReusedWhileATransportMayReadIt(t *testing.T) {
	t.Parallel()
	c := &call{body: append(memory(1<<10), "mine"...)}
	reader := c.reader()
	c.free() // the transport has not said that it is done
	for range 100 {
		other := memory(1 << 10)
		_ = append(other, "not mine"...)
		recycle(other)
	}
	if got, err := io.ReadAll(reader); err != nil || string(got) != "mine" {
		t.Errorf("found %q, %v", got, err)
	}
}

func TestOnlyAConnectionOfItsOwnIsClosedWithACallThatIsAbandoned(t *testing.T) {
	t.Parallel()
	for major, want := range map[int]string{1: "close", 2: "", 3: ""} {
		w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", http.NoBody)
		r.ProtoMajor = major
		abandon(w, r)
		if got := w.Header().Get("Connection"); got != want {
			t.Errorf("HTTP/%d: Connection %q, expected %q", major, got, want)
		}
	}
}
