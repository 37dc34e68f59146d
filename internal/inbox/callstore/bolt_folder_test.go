package callstore

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAFolderThatCannotBeUsedIsFoundWithoutTouchingIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(parts ...string) string { return filepath.Join(append([]string{dir}, parts...)...) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(path("file"), nil, 0o600))
	must(os.Mkdir(path("folder"), 0o700))
	must(os.Mkdir(path("locked"), 0o500))
	must(os.MkdirAll(path("odd", BoltFile), 0o700))
	must(os.Symlink(path("nowhere"), path("link")))
	must(os.Symlink(path("folder"), path("good link")))
	socket, err := net.Listen("unix", path("socket"))
	must(err)
	t.Cleanup(func() { _ = socket.Close() })
	open, err := OpenBolt(BoltConfig{Folder: path("used"), Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
	must(err)
	t.Cleanup(func() { _ = open.Close() })
	before, err := os.ReadDir(dir)
	must(err)
	for _, test := range []struct {
		name, folder, says string
		privileged         bool // root may do it
	}{
		{"one that is there", path("folder"), "", false},
		{"one that is in use", path("used"), "", false},
		{"one that is not there yet", path("folder", "a", "b"), "", false},
		{"one behind a link", path("good link"), "", false},
		{"a file", path("file"), "expected a folder, found a file", false},
		{"one below a file", path("file", "inbox"), "not a directory", false},
		{"one far below a file", path("file", "a", "b"), "not a directory", false},
		{"a socket", path("socket"), "expected a folder, found a socket", false},
		{"a device", os.DevNull, "expected a folder, found a device", false},
		{"a link to nothing", path("link"), "it is a link that leads to nothing", false},
		{"one below a link to nothing", path("link", "inbox"), "it is a link that leads to nothing", false},
		{"one with a folder in place of its file", path("odd"), "expected a file, found a folder", false},
		{"one that may not be written", path("locked"), "may not write", true},
		{"one in a folder that may not be written", path("locked", "inbox"), "may not write", true},
		{"one with too long a name", path(strings.Repeat("x", 300)), "too long", false},
		{"one in a file system that cannot be written", "/proc/doku", "may not write", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.privileged && os.Geteuid() == 0 {
				t.Skip("skipped, because root may write everywhere")
			}
			err := CheckFolder(test.folder)
			if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v, expected %q", err, test.says)
			}
		})
	}
	after, err := os.ReadDir(dir)
	must(err)
	if len(after) != len(before) {
		t.Errorf("it has left %v, where there were %v", after, before)
	}
}
