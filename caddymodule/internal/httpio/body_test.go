package httpio

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestAbandonClosesOnlyAConnectionOfTheRequestsOwn(t *testing.T) {
	t.Parallel()
	for major, want := range map[int]string{1: "close", 2: "", 3: ""} {
		w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", http.NoBody)
		r.ProtoMajor, r.ContentLength = major, -1
		Abandon(w, r)
		if got := w.Header().Get("Connection"); got != want {
			t.Errorf("HTTP/%d: Connection %q, expected %q", major, got, want)
		}
	}
}
