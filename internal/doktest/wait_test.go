package doktest

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func post(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("body"))
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

func TestAGateHoldsThePathThatIsShut(t *testing.T) {
	t.Parallel()
	gate := NewGate(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	server := httptest.NewServer(gate)
	t.Cleanup(server.Close)
	open := gate.Shut("/shut")
	defer open()
	answers := make(chan string)
	go func() {
		text, err := post(t.Context(), server.URL+"/shut")
		if err != nil {
			t.Error(err)
		}
		answers <- text
	}()
	gate.AwaitHeld(t, "/shut", 1)
	if text, err := post(t.Context(), server.URL+"/other"); err != nil || text != "body" {
		t.Errorf("another path: %q, %v", text, err)
	}
	ctx, hangUp := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		_, err := post(ctx, server.URL+"/shut")
		gone <- err
	}()
	gate.AwaitHeld(t, "/shut", 2)
	hangUp()
	if err := <-gone; err == nil {
		t.Error("expected no answer to a caller that hangs up")
	}
	Eventually(t, "the gate to notice the hang-up", func() bool { return gate.Held("/shut") == 1 })
	open()
	if text := <-answers; text != "body" {
		t.Errorf("after it opened: %q", text)
	}
	if text, err := post(t.Context(), server.URL+"/shut"); err != nil || text != "body" {
		t.Errorf("a later call: %q, %v", text, err)
	}
}
