package integration

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/simulator"
)

// reload gives the sidecar another configuration, as a user does.
func (w *world) reload(t *testing.T, old, replacement string) {
	t.Helper()
	config := strings.Replace(w.config, old, replacement, 1)
	if config == w.config {
		t.Fatalf("%q is not in the configuration", old)
	}
	w.config = config
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary(t), "reload", "--config", file, "--adapter", "caddyfile")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("reloading: %v: %s", err, out)
	}
}

func TestAReloadKeepsTokenAndLedger(t *testing.T) {
	t.Parallel()
	w := start(t, options{admin: true})
	w.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	paid := simulator.Outgoing{Body: payment("P-1"), ExternalID: "E-1"}
	w.notify(t, paid).expect(t, http.StatusOK, "2002500")

	w.reload(t, "doku_sign", "doku_sign {\n channel_id SDK\n}")
	w.call(t, http.MethodPost, createPath, bill("2", "B", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	if got := w.received(t).Header.Get("Channel-Id"); got != "SDK" {
		t.Fatalf("CHANNEL-ID %s, so the new configuration is not in use", got)
	}
	w.notify(t, paid).expect(t, http.StatusOK, "2002500")
	if tokens, calls := w.doku.Tokens(), len(w.app.seen()); tokens != 1 || calls != 1 {
		t.Errorf("DOKU issued %d tokens and the app was called %d times, expected one of each", tokens, calls)
	}
}

func TestAReloadWithOtherCredentialsStartsClean(t *testing.T) {
	t.Parallel()
	w := start(t, options{admin: true})
	w.call(t, http.MethodPost, createPath, bill("1", "A", "1000.00", "C", "")).expect(t, http.StatusOK, "2002700")
	w.reload(t, "client_id {env.DOKU_CLIENT_ID}", "client_id BRN-9")
	w.call(t, http.MethodPost, createPath, bill("2", "B", "1000.00", "C", "")).expect(t, http.StatusServiceUnavailable, "5032700")
}
