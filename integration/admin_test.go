package integration

import (
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

// TestTheExampleRunsInACleanFolder runs the example as README says, with its socket for the
// admin API: the commands find it by themselves.
func TestTheExampleRunsInACleanFolder(t *testing.T) {
	t.Parallel()
	env := newEnv(t)
	env.variables = []string{"OTEL_TRACES_EXPORTER=none"}
	adminLine := "admin " + strings.TrimPrefix(env.admin, "http://") + "\npersist_config off"
	config := strings.Replace(env.example(t), adminLine, "admin unix/caddy-doku.sock|0600", 1)
	metrics := "127.0.0.1" + between(t, config, "http://:", " {\n\tbind 127.0.0.1\n\tmetrics")
	first := env.command(t, config)
	folder := filepath.Dir(first.Args[3])
	elsewhere := t.TempDir()
	command := func(dir string, args ...string) *exec.Cmd {
		cmd := exec.Command(binary(t), args...)
		cmd.Env, cmd.Dir = first.Env, dir
		return cmd
	}
	env.sidecar = doktest.Start(t, env.log, command(folder, "run", "--config", "Caddyfile", "--adapter", "caddyfile"),
		strings.TrimPrefix(env.outward, "http://"), strings.TrimPrefix(env.inward, "http://"), metrics)
	if info, err := os.Stat(filepath.Join(folder, "caddy-doku.sock")); err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	env.awaitLine(t, "serving initial configuration")
	for _, test := range []struct {
		dir  string
		args []string
		want string
	}{
		{folder, []string{"doku", "status"}, "ACCOUNT"},
		{folder, []string{"doku", "token", "refresh"}, "ACCOUNT"},
		{folder, []string{"doku", "inbox", "list"}, "default"},
		{folder, []string{"doku", "status", "--address", "unix/caddy-doku.sock"}, "ACCOUNT"},
		{elsewhere, []string{"doku", "status", "--config", filepath.Join(folder, "Caddyfile"), "--adapter", "caddyfile"}, "ACCOUNT"},
		{elsewhere, []string{"doku", "inbox", "list", "--address", "unix/" + filepath.Join(folder, "caddy-doku.sock")}, "default"},
		{folder, []string{"reload"}, ""},
	} {
		if out, err := command(test.dir, test.args...).CombinedOutput(); err != nil || !strings.Contains(string(out), test.want) {
			t.Errorf("%v: %v: %s", test.args, err, out)
		}
	}
	resp, err := http.Get("http://" + metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(text), "\ncaddy_doku_key_info{") {
		t.Errorf("%v: no metrics in %.300s", err, text)
	}
}

// between returns the last line's part of text after from that ends at to, with the colon.
func between(t *testing.T, text, from, to string) string {
	t.Helper()
	before, _, found := strings.Cut(text, to)
	at := strings.LastIndex(before, from)
	if !found || at < 0 {
		t.Fatalf("expected %q and %q", from, to)
	}
	return before[at+len(from)-1:]
}
