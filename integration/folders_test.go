package integration

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
	"github.com/caddy-doku/caddy-doku/simulator"
)

// What /proc says holds for root, too.
func TestAFolderThatCannotBeWrittenIsNamedAtTheStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	odd := filepath.Join(dir, "odd")
	if err := os.MkdirAll(filepath.Join(odd, "inbox.db"), 0o700); err != nil {
		t.Fatal(err)
	}
	const (
		folder = "let the user that runs the sidecar write there, or write `folder <path>` in doku_inbox or doku_app"
		socket = "the global option `admin`"
	)
	for _, test := range []struct {
		name, folder, admin string
		says                []string
	}{
		{"a folder of another's", "/proc/doku", "", []string{"the folder /proc/doku cannot be used", folder}},
		{"a file in its place", file, "", []string{"the folder " + file + " cannot be used", "expected a folder, found a file", folder}},
		{"one below a file", file + "/inbox", "", []string{"the folder " + file + "/inbox cannot be used", "not a directory", folder}},
		{"a folder for its file", odd, "", []string{"the folder " + odd + " cannot be used", "expected a file, found a folder", folder}},
		{"a socket in a folder of another's", "", "unix//proc/x.sock|0600", []string{"cannot write in the folder /proc:", socket}},
		{"a socket in a folder that is not there", "", "unix/" + dir + "/no/x.sock", []string{"in the folder " + dir + "/no:", socket}},
		{"a socket below a file", "", "unix/" + file + "/x.sock", []string{"in the folder " + file + ":", "not a directory", socket}},
		{"a file in place of the socket", "", "unix/" + file, []string{file + " is there, and no socket", socket}},
		{"a socket with a long path", "", "unix/" + dir + "/" + strings.Repeat("x", 120), []string{"a socket's has at most 1", socket}},
	} {
		env := newEnv(t)
		o := options{}
		if test.folder != "" {
			o.inbox = "{\nfolder " + test.folder + "\n}"
		}
		config := env.caddyfile(o)
		if test.admin != "" {
			config = strings.Replace(config, "admin "+strings.TrimPrefix(env.admin, "http://"), "admin "+test.admin, 1)
		}
		out, err := env.command(t, config).CombinedOutput()
		for _, says := range test.says {
			if err == nil || !strings.Contains(string(out), says) {
				t.Errorf("%s: %v: it does not say %q: %s", test.name, err, says, out)
			}
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
			t.Errorf("%s: it has left %v: %v", test.name, left, err)
		}
	}
}

func TestAFolderThatTakesNoMoreIsNamed(t *testing.T) {
	t.Parallel()
	for policy, reason := range map[string]string{"after_app": "not_kept", "durable": "inbox"} {
		folder := t.TempDir()
		env := start(t, options{inbox: "{\npolicy " + policy + "\nanswer_within 20ms\nfolder " + folder + "\nmax_size 256KiB\n}"})
		env.app.setAnswer(answering(http.StatusServiceUnavailable))
		full := false
		for n := 0; n < 100 && !full; n++ {
			id := strings.Repeat("x", 30_000) + strings.Repeat("y", n)
			full = env.notify(t, simulator.Outgoing{Body: payment(id)}).header.Get("X-Doku-Error") == reason
		}
		if !full {
			t.Fatalf("%s: the file never was full", policy)
		}
		doktest.Eventually(t, "a line that names the folder and the setting", func() bool {
			return env.hasLine(`"reason":"`+reason+`"`, "the folder "+folder+" (`folder` of doku_inbox or doku_app)")
		})
	}
}
