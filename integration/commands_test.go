package integration

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-doku/caddy-doku/internal/doktest"
)

func TestEveryCommandFindsTheAdminAPIByTheSameFlags(t *testing.T) {
	t.Parallel()
	env := start(t, options{inbox: "{\nname default\n}"})
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte("{\n\tadmin "+strings.TrimPrefix(env.admin, "http://")+"\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"status", "token refresh", "inbox list"} {
		for _, flags := range [][]string{
			{"--address", strings.TrimPrefix(env.admin, "http://")},
			{"-c", file, "-a", "caddyfile"},
			{"--config", file, "--adapter", "caddyfile"},
			{"-c", file},
		} {
			arguments := append(append([]string{"doku"}, strings.Fields(command)...), flags...)
			if out, err := exec.CommandContext(t.Context(), binary(t), arguments...).CombinedOutput(); err != nil {
				t.Errorf("%v: %v: %s", arguments, err, out)
			}
		}
	}
}

func TestAnUnknownCommandFails(t *testing.T) {
	t.Parallel()
	for line, says := range map[string]string{
		"simulate":                 `unknown command \"simulate\"`,
		"doku simulate":            `unknown command "simulate" for "caddy doku"; there are: `,
		"doku inbx":                `unknown command "inbx" for "caddy doku"; did you mean inbox?`,
		"doku inbox lst":           `unknown command "lst" for "caddy doku inbox"; did you mean list?`,
		"doku token refrsh":        `unknown command "refrsh" for "caddy doku token"; did you mean refresh?`,
		"doku staus":               `did you mean status?`,
		"doku inbox list everyone": `unknown command "everyone"`,
	} {
		out, err := exec.CommandContext(t.Context(), binary(t), strings.Fields(line)...).CombinedOutput()
		if err == nil || !strings.Contains(strings.ReplaceAll(string(out), `\"`, `"`), strings.ReplaceAll(says, `\"`, `"`)) {
			t.Errorf("%s: %v: %s", line, err, out)
		}
	}
	for _, line := range []string{"doku", "doku help", "doku inbox", "doku token", "doku inbox --help"} {
		out, err := exec.CommandContext(t.Context(), binary(t), strings.Fields(line)...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "Usage:") {
			t.Errorf("%s: %v: %s", line, err, out)
		}
	}
}

func TestACommandSaysThatNoSidecarRuns(t *testing.T) {
	t.Parallel()
	address := doktest.FreeAddress(t)
	socket := "unix/" + filepath.Join(t.TempDir(), "admin.sock")
	for _, command := range []string{"status", "token refresh", "inbox list"} {
		for _, at := range []string{address, socket, socket + "|0600"} {
			arguments := append(append([]string{"doku"}, strings.Fields(command)...), "--address", at)
			out, err := exec.CommandContext(t.Context(), binary(t), arguments...).CombinedOutput()
			if err == nil || !strings.Contains(string(out), "no sidecar runs at "+at) {
				t.Errorf("%v: %v: %s", arguments, err, out)
			}
		}
	}
}

func TestACommandInAnotherFolderSaysWhereItHasLooked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, test := range []struct{ name, caddyfile, says string }{
		{"nothing", "", dir + " has no Caddyfile, so this is Caddy's own address"},
		{"no address", "{\n\tlog\n}\n", dir + "/Caddyfile names no address, so this is Caddy's own"},
		{
			"a socket that is not there", "{\n\tadmin unix/caddy-doku.sock|0600\n}\n",
			"(" + dir + "/caddy-doku.sock): there is no such socket; start one with `caddy-doku run`, or: the address is from " + dir + "/Caddyfile",
		},
	} {
		if conn, err := net.Dial("tcp", "localhost:2019"); err == nil && !strings.Contains(test.caddyfile, "admin") {
			_ = conn.Close()
			continue // another Caddy of this machine
		}
		if test.caddyfile != "" {
			if err := os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(test.caddyfile), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, command := range []string{"status", "token refresh", "inbox list", "inbox export"} {
			cmd := exec.CommandContext(t.Context(), binary(t), append([]string{"doku"}, strings.Fields(command)...)...)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			for _, says := range []string{
				"no sidecar runs at ", test.says, "run the command in the folder in which the sidecar was started", "--address unix//",
			} {
				if err == nil || !strings.Contains(string(out), says) {
					t.Errorf("%s, %s: %v: it does not say %q: %s", test.name, command, err, says, out)
				}
			}
		}
	}
}

func TestVersionSaysBothVersions(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"version", "--version"} {
		out, err := exec.CommandContext(t.Context(), binary(t), command).CombinedOutput()
		if err != nil || !regexp.MustCompile(`^caddy-doku (v\d\S*|\(devel\)\S*), Caddy v2\.\d+\.\d+`).Match(out) {
			t.Errorf("%s: %v: %s", command, err, out)
		}
	}
}
