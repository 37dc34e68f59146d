package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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
